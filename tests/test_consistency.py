"""Wrong regions, against growing them from pixel to pixel."""

import pytest
import torch
from torch import Tensor

from rectiseg.consistency import Inconsistency
from rectiseg.types import IGNORE_INDEX

NUM_CLASSES = 3


def regions(prediction: Tensor, labels: Tensor, least_pixels: int = 25) -> int:
    count, images = Inconsistency(NUM_CLASSES, least_pixels).counts(prediction, labels).tolist()
    assert images == 1
    return int(count)


def regions_by_hand(prediction: Tensor, labels: Tensor, least_pixels: int) -> int:
    height, width = labels.shape
    left = {(y, x) for y in range(height) for x in range(width)}
    count = 0
    while left:
        grown = [left.pop()]
        for y, x in grown:
            for pixel in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
                if pixel in left and prediction[pixel] == prediction[y, x]:
                    left.remove(pixel)
                    grown.append(pixel)
        annotated = [pixel for pixel in grown if labels[pixel] != IGNORE_INDEX]
        wrong = [pixel for pixel in annotated if labels[pixel] != prediction[pixel]]
        count += len(annotated) >= least_pixels and len(wrong) > len(annotated) / 2
    return count


def road(height: int = 13, width: int = 17) -> Tensor:
    return torch.zeros(height, width, dtype=torch.int64)


def with_square(value: int, rows: int = 5, columns: int = 5) -> Tensor:
    labels = road()
    labels[2 : 2 + rows, 3 : 3 + columns] = value
    return labels


@pytest.mark.parametrize("least_pixels", [1, 3, 6])
def test_regions_agree_with_growing_them(least_pixels: int):
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        prediction = torch.randint(NUM_CLASSES, (11, 14), generator=generator)
        choices = torch.tensor([0, 0, 1, 2, IGNORE_INDEX])
        labels = choices[torch.randint(len(choices), (11, 14), generator=generator)]
        expected = regions_by_hand(prediction, labels, least_pixels)
        assert expected > 0
        assert regions(prediction, labels, least_pixels) == expected


def test_a_perfect_map_has_no_wrong_region():
    assert regions(with_square(1), with_square(1)) == 0


def test_a_wrong_region_counts_from_25_pixels_on():
    assert regions(with_square(1), road()) == 1
    assert regions(with_square(1, rows=4, columns=6), road()) == 0


def test_a_region_counts_when_more_than_half_of_it_is_wrong():
    prediction = with_square(1, rows=6, columns=5)
    half = with_square(1, rows=3, columns=5)
    assert regions(prediction, half) == 0
    half[2, 3] = 0
    assert regions(prediction, half) == 1


def test_regions_that_touch_at_a_corner_are_two():
    prediction = with_square(1)
    prediction[7:12, 8:13] = 1
    assert regions(prediction, road()) == 2


def test_neighbouring_classes_are_regions_of_their_own():
    prediction = with_square(1, rows=5, columns=10)
    prediction[2:7, 8:13] = 2
    assert regions(prediction, road()) == 2


def test_ignored_pixels_connect_a_region_but_make_it_neither_large_nor_wrong():
    prediction, labels = with_square(1, rows=5, columns=9), road()
    labels[:, 7] = IGNORE_INDEX  # 20 annotated pixels on either side
    assert regions(prediction, labels) == 1
    labels[:, 6:10] = IGNORE_INDEX  # 25 are left
    assert regions(prediction, labels) == 1
    labels[2, 3] = IGNORE_INDEX
    assert regions(prediction, labels) == 0


def test_the_measure_is_a_number_per_image_and_keeps_further_dimensions():
    measure = Inconsistency(NUM_CLASSES)
    counts = torch.stack(
        [measure.counts(prediction, road()) for prediction in (with_square(1), road(), road(), road())]
    )
    assert float(measure.value(counts.sum(dim=0))) == 0.25
    assert measure.value(counts).tolist() == [1, 0, 0, 0]
