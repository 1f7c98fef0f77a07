"""Label maps in the ids that the benchmarks' own tools and servers expect."""

from typing import Literal

import numpy as np
from jaxtyping import Integer, UInt8

from rectiseg.data.ade20k import ADE20K
from rectiseg.data.cityscapes import Cityscapes
from rectiseg.types import IGNORE_INDEX

Benchmark = Literal["cityscapes", "ade20k"]
INDICES: dict[Benchmark, tuple[int, ...]] = {"cityscapes": Cityscapes.INDICES, "ade20k": ADE20K.INDICES}


def official_ids(benchmark: Benchmark) -> list[int]:
    """The id of every class, in the order of the classes; both benchmarks number them in that order."""
    return [value for value, index in enumerate(INDICES[benchmark]) if index != IGNORE_INDEX]


def in_official_ids(
    labels: Integer[np.ndarray, "height width"], benchmark: Benchmark
) -> UInt8[np.ndarray, "height width"]:
    """Class indices as official ids; what is no class, IGNORE_INDEX too, is refused: submissions answer every pixel."""
    ids = np.array(official_ids(benchmark), np.uint8)
    if labels.min() < 0 or labels.max() >= len(ids):
        raise ValueError(
            f"labels {labels.min()}..{labels.max()} are outside {benchmark}'s classes 0..{len(ids) - 1}: "
            "no official ids belong to them"
        )
    return ids[labels]


def refuse_other_classes(num_classes: int, benchmark: Benchmark) -> None:
    """A model of another number of classes would be submitted as nonsense, for small indices always have an id."""
    expected = len(official_ids(benchmark))
    if num_classes != expected:
        raise ValueError(
            f"the model knows {num_classes} classes, {benchmark} has {expected}: choose a model of these classes"
        )
