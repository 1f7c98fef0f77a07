"""How sure a measure is: bootstrap intervals over blocks of a video, whose neighbouring frames are much alike.

The non-overlapping block bootstrap: Lahiri, "Resampling methods for dependent data", 2003. A class that does not occur
in a resample is left out of its mean.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from jaxtyping import Float64
from torch import Tensor

from rectiseg.data.datasets import drive_of
from rectiseg.metrics import Measure

Blocks = Sequence[Sequence[int]]
"""Indices of the images that are drawn together: every image in one block."""

Counts = Float64[Tensor, "images ..."]
"""A measure's counts of every image."""

CHUNK = 100  # resamples at a time: with 150 classes, 18 MB of confusion matrices


@dataclass(frozen=True)
class Interval:
    """What was measured on all images, and the percentile interval of its resamples over so many blocks."""

    value: float
    low: float
    high: float
    blocks: int


def blocks_of(names: Sequence[str], length: int = 20) -> list[list[int]]:
    """So many samples of one drive in the order of their names; what is left at its end is a shorter block."""
    ordered = sorted(range(len(names)), key=names.__getitem__)
    runs = [list(run) for _, run in groupby(ordered, key=lambda index: drive_of(names[index]))]
    return [run[start : start + length] for run in runs for start in range(0, len(run), length)]


def interval_of(
    counts: Counts,
    measure: Measure,
    blocks: Blocks,
    resamples: int = 2000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Interval:
    """Of one measure, from its counts of every image. One block only raises ValueError."""
    return percentile_interval(resampled_values(counts, measure, blocks, resamples, seed), len(blocks), confidence)


def paired_difference(
    before: Counts,
    after: Counts,
    measure: Measure,
    blocks: Blocks,
    resamples: int = 2000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Interval:
    """Of the measure after less before, where a resample draws the same images from both.

    One block only, or counts of other images than the blocks', raise ValueError.
    """
    return mean_difference(before, [after], measure, blocks, resamples, seed, confidence)


def mean_difference(
    before: Counts,
    afters: Sequence[Counts],
    measure: Measure,
    blocks: Blocks,
    resamples: int = 2000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Interval:
    """The same of several trainings' mean; a resample draws the same images from all of them."""
    first, *others = (resampled_values(counts, measure, blocks, resamples, seed) for counts in (before, *afters))
    return percentile_interval(torch.stack(others).mean(dim=0) - first, len(blocks), confidence)


def resampled_values(
    counts: Counts, measure: Measure, blocks: Blocks, resamples: int, seed: int
) -> Float64[Tensor, "values"]:
    """The measure on all images, then on each resample: as many blocks as there are, drawn with replacement."""
    held = sum(map(len, blocks))
    if held != len(counts):
        raise ValueError(f"the blocks hold {held} images and {len(counts)} were counted: both need the same images")
    if len(blocks) < 2:
        raise ValueError("one block of images says nothing about their spread: an interval takes two blocks or more")
    drawn = torch.randint(len(blocks), (resamples, len(blocks)), generator=torch.Generator().manual_seed(seed))
    times = torch.zeros(resamples, len(blocks), dtype=torch.float64)
    times.scatter_add_(1, drawn, torch.ones_like(times))
    times = torch.cat([torch.ones_like(times[:1]), times])
    sums = torch.stack([counts[list(block)].sum(dim=0) for block in blocks])
    return torch.cat([measure.value(torch.tensordot(chunk, sums, dims=1)) for chunk in times.split(CHUNK)])


def percentile_interval(values: Float64[Tensor, "values"], blocks: int, confidence: float) -> Interval:
    """Of the measured value, which comes first, by the quantiles of the resampled ones."""
    tails = torch.tensor([(1 - confidence) / 2, (1 + confidence) / 2], dtype=torch.float64)
    low, high = torch.quantile(values[1:], tails).tolist()
    return Interval(float(values[0]), low, high, blocks)
