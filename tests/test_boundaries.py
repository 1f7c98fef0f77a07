"""Measures of boundaries, against going from pixel to pixel."""

import math
from collections.abc import Iterator

import jaxtyping
import numpy as np
import pytest
import torch
from torch import Tensor

from rectiseg.boundaries import BoundaryF, BoundaryIoU, TrimapIoU
from rectiseg.metrics import ClassMeasure, MeanIoU
from rectiseg.types import IGNORE_INDEX

NUM_CLASSES, HEIGHT, WIDTH = 4, 13, 17
Pixel = tuple[int, int]
EVERY_PIXEL = [(y, x) for y in range(HEIGHT) for x in range(WIDTH)]
MEASURES = [BoundaryIoU(NUM_CLASSES, 0.1), BoundaryF(NUM_CLASSES, 2), TrimapIoU(NUM_CLASSES, 2)]
NAMES = ["Boundary IoU", "boundary F", "trimap IoU"]


def patches(seed: int, share_ignored: float = 0.0) -> Tensor:
    """Classes in squares of 4 pixels with a little noise; some of the squares are ignored."""
    generator = torch.Generator().manual_seed(seed)
    cells = torch.randint(NUM_CLASSES, (4, 5), generator=generator)
    cells[torch.rand(4, 5, generator=generator) < share_ignored] = IGNORE_INDEX
    pixels = cells.repeat_interleave(4, 0).repeat_interleave(4, 1)[:HEIGHT, :WIDTH]
    noise = torch.randint(NUM_CLASSES, (HEIGHT, WIDTH), generator=generator)
    return noise.where(torch.rand(HEIGHT, WIDTH, generator=generator) < 0.03, pixels)


def pair(seed: int) -> tuple[Tensor, Tensor]:
    """A prediction that is the labels with other noise, moved by two pixels, and the labels."""
    labels = patches(seed, share_ignored=0.2)
    return patches(seed).roll((1, 2), (0, 1)), labels


def stripe(start: int) -> Tensor:
    """Class 1 from this column on, class 0 before it."""
    return (torch.arange(WIDTH) >= start).long().expand(HEIGHT, WIDTH)


def visible(prediction: Tensor, labels: Tensor) -> list[list[int]]:
    return prediction.masked_fill(labels == IGNORE_INDEX, IGNORE_INDEX).tolist()


def neighbors(y: int, x: int) -> Iterator[Pixel]:
    for pixel in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
        if pixel in EVERY_PIXEL:
            yield pixel


def boundary(classes: list[list[int]], index: int) -> set[Pixel]:
    others = set(range(NUM_CLASSES)) - {index}
    return {
        (y, x)
        for y, x in EVERY_PIXEL
        if classes[y][x] == index and any(classes[row][column] in others for row, column in neighbors(y, x))
    }


def near(pixel: Pixel, others: set[Pixel], distance: float) -> bool:
    return any(math.dist(pixel, other) <= distance for other in others)


def f_by_hand(prediction: Tensor, labels: Tensor, distance: int) -> list[float | None]:
    """By class; None without a pixel to count."""
    ignored = {(y, x) for y, x in EVERY_PIXEL if labels[y, x] == IGNORE_INDEX}
    scores: list[float | None] = []
    for index in range(NUM_CLASSES):
        true, predicted = boundary(labels.tolist(), index), boundary(visible(prediction, labels), index)
        shares = []
        for ours, theirs in ((predicted, true), (true, predicted)):
            found = [near(pixel, theirs, distance) for pixel in ours if not near(pixel, ignored, distance)]
            shares.append(sum(found) / len(found) if found else None)
        precision, recall = (1.0 if share is None else share for share in shares)
        score = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
        scores.append(None if shares == [None, None] else score)
    return scores


def contour(classes: list[list[int]], index: int, reach: int) -> set[Pixel]:
    """Pixels of the class near another class or the outside, along rows and columns alike."""

    def another(y: int, x: int) -> bool:
        return (y, x) not in EVERY_PIXEL or classes[y][x] not in (index, IGNORE_INDEX)

    span = range(-reach, reach + 1)
    inside = ((y, x) for y, x in EVERY_PIXEL if classes[y][x] == index)
    return {(y, x) for y, x in inside if any(another(y + down, x + right) for down in span for right in span)}


def values(measure: ClassMeasure, *pairs: tuple[Tensor, Tensor]) -> list[float]:
    return measure.per_class(sum_of(measure, *pairs)).tolist()


def value(measure: ClassMeasure, *pairs: tuple[Tensor, Tensor]) -> float:
    return float(measure.value(sum_of(measure, *pairs)))


def sum_of(measure: ClassMeasure, *pairs: tuple[Tensor, Tensor]) -> Tensor:
    return torch.stack([measure.counts(prediction, labels) for prediction, labels in pairs]).sum(dim=0)


@pytest.mark.parametrize("distance", [1, 3, 5])
def test_boundary_f_agrees_with_going_from_pixel_to_pixel(distance: int):
    pairs = [pair(seed) for seed in range(3)]
    by_image = [f_by_hand(*maps, distance) for maps in pairs]
    by_class = [[score for score in scores if score is not None] for scores in zip(*by_image, strict=True)]
    expected = [sum(scores) / len(scores) if scores else math.nan for scores in by_class]
    measure = BoundaryF(NUM_CLASSES, distance)
    assert values(measure, *pairs) == pytest.approx(expected, abs=1e-6, nan_ok=True)
    assert value(measure, *pairs) == pytest.approx(np.nanmean(expected), abs=1e-6)


@pytest.mark.parametrize("reach", [1, 2, 3])
def test_boundary_iou_agrees_with_going_from_pixel_to_pixel(reach: int):
    pairs = [pair(seed) for seed in range(2)]
    expected = []
    for index in range(NUM_CLASSES):
        both = either = 0
        for prediction, labels in pairs:
            true = contour(labels.tolist(), index, reach)
            predicted = contour(visible(prediction, labels), index, reach)
            both, either = both + len(true & predicted), either + len(true | predicted)
        expected.append(both / either)
    measure = BoundaryIoU(NUM_CLASSES, reach / math.hypot(HEIGHT, WIDTH))
    assert values(measure, *pairs) == pytest.approx(expected, abs=1e-6)
    assert value(measure, *pairs) == pytest.approx(sum(expected) / NUM_CLASSES, abs=1e-6)


def test_boundary_iou_erodes_masks_as_its_authors_do():
    ndimage = pytest.importorskip("scipy.ndimage")
    prediction, labels = (np.kron(patches(seed), np.ones((13, 12), np.int64)) for seed in (0, 1))  # 169 x 204, 2 %: 5

    def band(mask: np.ndarray) -> np.ndarray:
        return mask & ~ndimage.binary_erosion(mask, np.ones((3, 3)), iterations=5, border_value=0)

    masks = [(band(prediction == index), band(labels == index)) for index in range(NUM_CLASSES)]
    expected = [(predicted & true).sum() / (predicted | true).sum() for predicted, true in masks]
    maps = (torch.from_numpy(prediction), torch.from_numpy(labels))
    assert values(BoundaryIoU(NUM_CLASSES), maps) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("width", [1, 2.5, 4])
def test_the_trimap_is_what_lies_near_a_boundary_pixel_of_the_labels(width: float):
    prediction, labels = pair(0)
    true = set().union(*(boundary(labels.tolist(), index) for index in range(NUM_CLASSES)))
    trimap = torch.tensor([near(pixel, true, width) for pixel in EVERY_PIXEL]).view(HEIGHT, WIDTH)
    expected = values(MeanIoU(NUM_CLASSES), (prediction, labels.where(trimap, IGNORE_INDEX)))
    assert values(TrimapIoU(NUM_CLASSES, width), (prediction, labels)) == expected


def test_a_trimap_as_wide_as_the_image_is_the_whole_image():
    assert value(TrimapIoU(NUM_CLASSES, WIDTH), pair(0)) == value(MeanIoU(NUM_CLASSES), pair(0))


@pytest.mark.parametrize("measure", MEASURES, ids=NAMES)
def test_a_perfect_map_scores_one_whatever_it_says_of_ignored_pixels(measure: ClassMeasure):
    labels = patches(0, share_ignored=0.2)
    for guess in (0, NUM_CLASSES - 1):
        assert value(measure, (labels.masked_fill(labels == IGNORE_INDEX, guess), labels)) == 1.0


@pytest.mark.parametrize("measure", MEASURES, ids=NAMES)
def test_predictions_of_ignored_pixels_never_matter(measure: ClassMeasure):
    prediction, labels = pair(0)
    hidden = prediction.masked_fill(labels == IGNORE_INDEX, IGNORE_INDEX)
    assert not torch.equal(hidden, prediction)
    assert torch.equal(measure.counts(hidden, labels), measure.counts(prediction, labels))


@pytest.mark.parametrize("measure", MEASURES, ids=NAMES)
def test_sums_of_counts_keep_further_dimensions(measure: ClassMeasure):
    counts = torch.stack([measure.counts(*pair(seed)) for seed in range(6)])
    stacked = counts.unflatten(0, (2, 3))
    assert measure.value(stacked).flatten().tolist() == [value(measure, pair(seed)) for seed in range(6)]
    assert measure.per_class(stacked).shape == (2, 3, NUM_CLASSES)


@pytest.mark.parametrize("measure", MEASURES, ids=NAMES)
def test_maps_that_cannot_be_compared_are_refused(measure: ClassMeasure, monkeypatch: pytest.MonkeyPatch):
    labels = patches(0)
    with pytest.raises(ValueError, match=r"prediction 4 is outside 0\.\.3"):
        measure.counts(labels.masked_fill(labels == 3, 4), labels)
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # a user's shapes are not checked
    with pytest.raises(ValueError, match=r"\[13, 16\] cannot be held against \[13, 17\]"):
        measure.counts(labels[:, 1:], labels)


def test_a_shift_by_two_pixels_passes_at_three_and_fails_at_one():
    shifted = (stripe(8), stripe(6))
    assert value(BoundaryF(NUM_CLASSES, 3), shifted) == 1.0
    assert value(BoundaryF(NUM_CLASSES, 1), shifted) == 0.0


def test_distances_are_euclidean():
    labels = torch.zeros(HEIGHT, WIDTH, dtype=torch.int64)
    prediction = labels.clone()
    labels[5, 5] = prediction[7, 7] = 1  # 2.83 pixels apart
    scores = [values(BoundaryF(NUM_CLASSES, distance), (prediction, labels))[1] for distance in (2, 3)]
    assert scores == [0.0, 1.0]


def test_a_boundary_of_another_class_in_the_same_place_is_no_boundary_of_this_one():
    assert values(BoundaryF(NUM_CLASSES, 1), (stripe(6) + 2, stripe(6))) == [0.0] * 4


def test_the_images_edge_is_a_boundary_for_boundary_iou_only():
    flat = (torch.zeros(HEIGHT, WIDTH, dtype=torch.int64),) * 2
    assert [values(measure, flat)[0] for measure in MEASURES] == pytest.approx([1.0, math.nan, math.nan], nan_ok=True)


def test_a_class_with_a_boundary_in_one_map_only_has_an_f_of_zero_and_one_without_any_is_left_out():
    flat, two = torch.zeros(HEIGHT, WIDTH, dtype=torch.int64), stripe(6)
    for maps in ((flat, two), (two, flat)):
        assert values(BoundaryF(3, 2), maps) == pytest.approx([0.0, 0.0, math.nan], nan_ok=True)
    assert values(BoundaryF(3, 2), (flat, two), (two, two)) == pytest.approx([0.5, 0.5, math.nan], nan_ok=True)


def test_boundaries_near_ignored_pixels_are_not_counted_but_can_be_met():
    labels, prediction = stripe(8).clone(), stripe(8).clone()
    labels[:, 12:] = IGNORE_INDEX
    prediction[3, 9:11] = 0  # within 3 of what is ignored
    assert value(BoundaryF(NUM_CLASSES, 3), (prediction, labels)) == 1.0
    labels[:, 10:] = IGNORE_INDEX  # the true boundary of class 1, in column 8, is not counted at 2
    assert values(BoundaryF(NUM_CLASSES, 2), (stripe(6), labels))[:2] == [1.0, 1.0]


def test_where_all_is_ignored_there_is_nothing_to_measure():
    ignored = torch.full((HEIGHT, WIDTH), IGNORE_INDEX)
    for measure in MEASURES:
        assert math.isnan(value(measure, (stripe(5), ignored)))
