"""What the values of label maps stand for."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int64, Integer

from rectiseg.data.datasets import read_classes
from rectiseg.types import IGNORE_INDEX

Color = tuple[int, int, int]


@dataclass(frozen=True)
class Classes:
    """Names and colours of the classes; ``indices`` are those of `PairedFiles`: a class index a value, or IGNORE_INDEX.

    Where the classes are not ``known``, every value is one, and none can be missing.
    """

    names: tuple[str, ...]
    indices: Sequence[int]
    palette: tuple[Color, ...] = ()
    known: bool = True

    def pixels(self, histogram: Int64[np.ndarray, "values"]) -> Int64[np.ndarray, "classes"]:
        """How many pixels each class has, by how many each value has."""
        counts = np.zeros(IGNORE_INDEX + 1, np.int64)
        values = np.asarray(self.indices)[: len(histogram)]
        np.add.at(counts, values, histogram[: len(values)])
        return counts[: len(self.names)]

    def of(self, stored: Integer[np.ndarray, "height width"]) -> Int64[np.ndarray, "height width"]:
        """The class indices of a label map; IGNORE_INDEX where a value is no class's."""
        table = np.full(max(int(stored.max(initial=0)), len(self.indices)) + 1, IGNORE_INDEX, np.int64)
        table[: len(self.indices)] = self.indices
        return table[stored]


def numbered(count: int, known: bool = True) -> Classes:
    """Classes that have a number for a name."""
    return Classes(tuple(map(str, range(count))), range(count), known=known)


UNNAMED = numbered(IGNORE_INDEX, known=False)


def classes_of(text: str | None) -> Classes:
    """What --classes says: their number, or a file as `Folder` reads; nothing is known without it."""
    if text is None:
        return UNNAMED
    if not text.isdecimal():
        names, palette = read_classes(Path(text))
        return Classes(tuple(names), range(len(names)), tuple(palette))
    if not 1 <= int(text) <= IGNORE_INDEX:
        raise ValueError(f"--classes {text}: label maps are of 1 to {IGNORE_INDEX} classes")
    return numbered(int(text))
