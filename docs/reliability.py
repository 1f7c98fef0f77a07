"""Print docs/reliability.md: what the tests that plant a fault report of it.

python docs/reliability.py > docs/reliability.md
"""

import sys
from contextlib import redirect_stdout
from pathlib import Path

import pytest

TESTS = Path(__file__).parent.parent / "tests"

INTRODUCTION = """# What fails, and what then

Printed by `python docs/reliability.py` from the tests, each of which plants one fault and fails where this page says
something else. A file appears whole or not at all, everywhere: *what remains* was opened and read by the test. Exit
status: 0 all done, 1 some inputs failed and are named, 2 refused or stopped with a sentence, 130 Ctrl-C. What Ray and
torchrun print of their own is left out."""

HEAD = "| fault | command | what the user reads | what remains of the output | exit status |\n|---|---|---|---|---|"


class Collecting:
    """A plugin that keeps what tests report; the fixture `reports` looks for it."""

    def __init__(self) -> None:
        self.kept_reports: dict[str, list[str]] = {}


def page() -> str:
    """By running the tests; SystemExit where one fails or a fault is not reported."""
    sys.path.insert(0, str(TESTS))
    from faults import FAULTS

    collecting = Collecting()
    with redirect_stdout(sys.stderr):
        status = pytest.main(["-m", "fault", "-n", "0", str(TESTS)], plugins=[collecting])
    missing = [fault for faults in FAULTS.values() for fault in faults if fault not in collecting.kept_reports]
    if status or missing:
        sys.exit(f"no page: the tests end with {int(status)}, and nothing is reported of {missing}")
    sections = [
        "\n".join([f"## {title}", "", HEAD, *(row for fault in faults for row in collecting.kept_reports[fault])])
        for title, faults in FAULTS.items()
    ]
    return "\n\n".join([INTRODUCTION, *sections]) + "\n"


if __name__ == "__main__":
    print(page(), end="")
