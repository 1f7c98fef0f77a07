"""A fault of a data set, in words."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

Value = TypeVar("Value")

Kind = Literal[
    "layout",
    "no partner",
    "same name twice",
    "unreadable",
    "size",
    "colours",
    "label out of range",
    "all ignored",
    "0/255 masks",
    "absent class",
    "duplicate",
    "near duplicate",
    "prediction size",
    "prediction out of range",
    "shift by one",
]


@dataclass(frozen=True)
class Finding:
    """What is wrong with a file, or with a whole folder, and what mends it: a sentence each."""

    kind: Kind
    file: Path
    sentence: str
    mend: str


def read_or_find(read: Callable[[Path], Value], path: Path) -> Value | Finding:
    """What the reader makes of the file; its refusal, less the file's name, is a finding."""
    try:
        return read(path)
    except ValueError as error:
        sentence = str(error).removeprefix(f"{path}: ")
        return Finding("unreadable", path, sentence, "Replace it with a good copy, or leave it out with its partners.")


def some(items: Iterable[object], limit: int = 5) -> str:
    """The first of them in a row, and how many more there are."""
    words = [str(item) for item in items]
    return ", ".join(words[:limit]) + (f" and {len(words) - limit} more" if len(words) > limit else "")
