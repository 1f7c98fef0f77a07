"""Print docs/commands.md, every command's help.

python docs/commands.py > docs/commands.md
"""

import io
import os
import sys
from contextlib import redirect_stdout, suppress
from unittest.mock import patch

from rectiseg import cli

WIDTH = "110"


def page() -> str:
    sections = [f"## rectiseg {command}\n\n```text\n{help_of(command)}\n```" for command in cli.COMMANDS]
    return "\n\n".join(["# Commands", "Printed by `python docs/commands.py`.", *sections]) + "\n"


def help_of(command: str) -> str:
    """As it is shown in a terminal so many columns wide."""
    said = io.StringIO()
    with (
        patch.object(sys, "argv", ["rectiseg", command, "--help"]),
        patch.dict(os.environ, {"COLUMNS": WIDTH, "TERM": "dumb", "NO_COLOR": "1"}),
        redirect_stdout(said),
        suppress(SystemExit),
    ):
        cli.main()
    return "\n".join(line.rstrip() for line in said.getvalue().splitlines()).strip("\n")


if __name__ == "__main__":
    print(page(), end="")
