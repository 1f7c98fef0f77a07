"""Bootstrap intervals: what a resample holds, and what is said of one block."""

import jaxtyping
import pytest
import torch
from torch import Tensor

from rectiseg.boundaries import BoundaryF, BoundaryIoU, TrimapIoU
from rectiseg.consistency import Inconsistency
from rectiseg.intervals import Interval, blocks_of, interval_of, paired_difference
from rectiseg.metrics import FrequencyWeightedIoU, MeanIoU, Measure, PixelAccuracy
from rectiseg.types import IGNORE_INDEX

NUM_CLASSES = 3
EVERY_MEASURE: list[Measure] = [
    PixelAccuracy(NUM_CLASSES),
    MeanIoU(NUM_CLASSES),
    FrequencyWeightedIoU(NUM_CLASSES),
    BoundaryIoU(NUM_CLASSES, 0.1),
    BoundaryF(NUM_CLASSES, 1),
    TrimapIoU(NUM_CLASSES, 2),
    Inconsistency(NUM_CLASSES, 3),
]


def name_of(measure: Measure) -> str:
    return type(measure).__name__


def counts_of(measure: Measure, errors: float, images: int = 7) -> Tensor:
    """Of squares with some pixels predicted at random; the labels, a tenth of them ignored, are the same every time."""
    counts = []
    for seed in range(images):
        generator = torch.Generator().manual_seed(seed)
        truth = torch.randint(NUM_CLASSES, (3, 3), generator=generator).repeat_interleave(3, 0).repeat_interleave(4, 1)
        chance = torch.rand(2, *truth.shape, generator=generator)
        noise = torch.randint(NUM_CLASSES, truth.shape, generator=generator)
        counts.append(
            measure.counts(noise.where(chance[0] < errors, truth), truth.where(chance[1] > 0.1, IGNORE_INDEX))
        )
    return torch.stack(counts)


@pytest.mark.parametrize("measure", EVERY_MEASURE, ids=name_of)
def test_weights_of_resampled_images_equal_repeating_those_images(measure: Measure):
    counts = counts_of(measure, errors=0.4)
    weights = torch.tensor([2, 0, 1, 0, 3, 1, 0], dtype=torch.float64)
    repeated = torch.stack([counts[index] for index in (0, 0, 2, 4, 4, 4, 5)]).sum(dim=0)
    assert float(measure.value(torch.tensordot(weights, counts, dims=1))) == pytest.approx(
        float(measure.value(repeated))
    )


@pytest.mark.parametrize("measure", EVERY_MEASURE, ids=name_of)
def test_the_interval_of_a_difference_between_equal_maps_is_zero(measure: Measure):
    counts = counts_of(measure, errors=0.4)
    blocks = [[0, 1], [2, 3], [4, 5], [6]]
    assert paired_difference(counts, counts.clone(), measure, blocks, resamples=30) == Interval(0.0, 0.0, 0.0, 4)


def test_an_interval_agrees_with_drawing_block_by_block():
    measure, blocks = MeanIoU(NUM_CLASSES), [[0, 1, 2], [3, 4], [5, 6]]
    before, after = counts_of(measure, errors=0.6), counts_of(measure, errors=0.3)
    generator = torch.Generator().manual_seed(5)
    differences = []
    for drawn in torch.randint(3, (250, 3), generator=generator).tolist():
        images = [image for block in drawn for image in blocks[block]]
        differences.append(measure.value(after[images].sum(dim=0)) - measure.value(before[images].sum(dim=0)))
    low, high = torch.stack(differences).quantile(torch.tensor([0.05, 0.95], dtype=torch.float64)).tolist()
    found = paired_difference(before, after, measure, blocks, resamples=250, seed=5, confidence=0.9)
    assert (found.low, found.high, found.blocks) == (pytest.approx(low), pytest.approx(high), 3)
    assert found.value == pytest.approx(float(measure.value(after.sum(dim=0)) - measure.value(before.sum(dim=0))))
    assert 0 < found.low < found.value < found.high


def test_a_pair_is_surer_than_either_of_its_maps():
    measure, blocks = MeanIoU(NUM_CLASSES), [[index] for index in range(7)]
    before = counts_of(measure, errors=0.4)
    after = before + torch.eye(NUM_CLASSES, dtype=torch.float64)  # one more hit a class in every image
    alone, paired = interval_of(after, measure, blocks), paired_difference(before, after, measure, blocks)
    assert paired.high - paired.low < (alone.high - alone.low) / 5


def test_an_interval_holds_the_measure_and_is_the_same_every_time():
    measure, blocks = PixelAccuracy(NUM_CLASSES), [[index] for index in range(7)]
    counts = counts_of(measure, errors=0.4)
    found = interval_of(counts, measure, blocks)
    assert found.low <= found.value <= found.high
    assert found.value == pytest.approx(float(measure.value(counts.sum(dim=0))))
    assert found == interval_of(counts, measure, blocks)
    assert found != interval_of(counts, measure, blocks, seed=1)


def test_blocks_never_join_two_drives():
    names = [
        f"{drive}_{frame:05}"
        for drive, frames in (("0016E5", 45), ("0006R0", 20), ("Seq05VD", 7))
        for frame in range(frames)
    ]
    blocks = blocks_of(names)
    assert sorted(len(block) for block in blocks) == [5, 7, 20, 20, 20]
    assert sorted(index for block in blocks for index in block) == list(range(72))
    assert all(len({names[index].split("_")[0] for index in block}) == 1 for block in blocks)


def test_frames_of_a_drive_are_neighbours_wherever_they_are_listed():
    assert blocks_of(["a_1", "a_2", "a_5", "b_1", "a_3", "a_4"], length=3) == [[0, 1, 4], [5, 2], [3]]


def test_a_name_without_underscore_is_a_drive_of_its_own():
    assert blocks_of(["1", "2", "2"]) == [[0], [1, 2]]


def test_one_block_is_refused():
    measure = PixelAccuracy(NUM_CLASSES)
    counts = counts_of(measure, errors=0.4)
    for draw in (
        lambda: interval_of(counts, measure, [range(7)]),
        lambda: paired_difference(counts, counts, measure, [range(7)]),
    ):
        with pytest.raises(ValueError, match="an interval takes two blocks or more"):
            draw()


def test_blocks_of_other_images_are_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # a user's shapes are not checked
    measure = PixelAccuracy(NUM_CLASSES)
    counts = counts_of(measure, errors=0.4)
    with pytest.raises(ValueError, match="the blocks hold 6 images and 7 were counted"):
        paired_difference(counts[:6], counts, measure, [[0, 1, 2], [3, 4, 5]])
