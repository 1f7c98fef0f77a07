"""What was found, as tables and as JSON."""

from collections.abc import Sequence
from dataclasses import asdict
from itertools import chain
from typing import Any

import numpy as np
from rich.table import Table
from rich.text import Text

from rectiseg.doctor.examine import Tally
from rectiseg.doctor.finding import Finding

EXAMPLES = 3
"""So many files of each kind of fault are shown; the JSON names all."""


def finding_table(findings: Sequence[Finding]) -> Table:
    """A row for each kind of fault and way to mend it."""
    groups: dict[tuple[str, str], list[Finding]] = {}
    for finding in findings:
        groups.setdefault((finding.kind, finding.mend), []).append(finding)
    table = Table("found", "times", "for example", "mend", title="findings", show_lines=True)
    for (kind, mend), group in groups.items():
        examples = "\n".join(f"{finding.file}: {finding.sentence}" for finding in group[:EXAMPLES])
        table.add_row(kind, str(len(group)), Text(examples, overflow="fold"), Text(mend))  # brackets are no markup
    return table


def class_table(tallies: Sequence[Tally]) -> Table:
    """Of every class, the per cent of each split's pixels and the number of images that show it.

    Classes without a list are those that occur.
    """
    table = Table("class", title="classes")
    for tally in tallies:
        table.add_column(f"{tally.part.name}, %", justify="right")
        table.add_column("images", justify="right")
    for index in listed_classes(tallies):
        cells = [(share(tally.pixels()[index], tally), str(tally.images[index])) for tally in tallies]
        table.add_row(Text(tallies[0].classes.names[index]), *chain(*cells))
    table.add_section()
    cells = [(share(tally.histogram.sum() - tally.pixels().sum(), tally), "") for tally in tallies]
    table.add_row("no class", *chain(*cells))
    return table


def share(pixels: np.integer, tally: Tally) -> str:
    return f"{100 * pixels / max(tally.histogram.sum(), 1):.3f}"


def listed_classes(tallies: Sequence[Tally]) -> list[int]:
    if tallies[0].classes.known:
        return list(range(len(tallies[0].classes.names)))
    return np.flatnonzero(np.sum([tally.images for tally in tallies], axis=0)).tolist()


def as_json(findings: Sequence[Finding], tallies: Sequence[Tally]) -> dict[str, Any]:
    """Every finding; of every split its number of pairs, and the pixels and images of each class."""
    return {
        "findings": [asdict(finding) | {"file": str(finding.file)} for finding in findings],
        "splits": {tally.part.name: split_json(tally) for tally in tallies},
    }


def split_json(tally: Tally) -> dict[str, Any]:
    pixels = tally.pixels()
    return {
        "pairs": len(tally.part.pairs),
        "pixels": int(tally.histogram.sum()),
        "pixels without a class": int(tally.histogram.sum() - pixels.sum()),
        "classes": {
            tally.classes.names[index]: {"pixels": int(pixels[index]), "images": int(tally.images[index])}
            for index in listed_classes([tally])
        },
    }
