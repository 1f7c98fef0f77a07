"""LRN's coefficients and GRN's residuals as pictures."""

import numpy as np
import pytest
import torch

from rectiseg.visualize.refiners import (
    ENLARGED,
    FRAME,
    HEAT,
    MARGIN,
    SCALE,
    coefficient_map,
    residual_maps,
    residual_size,
    scale_colors,
)

CELL = ENLARGED // (3 + 2 * MARGIN)
DARKEST, BRIGHTEST = SCALE[0].tolist(), SCALE[-1].tolist()
GREY = 51  # of 255: 0.2 of white


def cells(picture: np.ndarray) -> np.ndarray:
    """The colour of every enlarged pixel, off its frame."""
    return picture[CELL // 2 :: CELL, CELL // 2 :: CELL]


def one_hot(neighbor: int, side: int = 3) -> torch.Tensor:
    """Coefficients that weigh one neighbour."""
    coefficients = torch.zeros(side**2)
    coefficients[neighbor] = 1
    return coefficients.view(side, side)


@pytest.mark.parametrize(("neighbor", "place"), [(0, (0, 0)), (1, (0, 1)), (5, (1, 2)), (8, (2, 2))])
def test_the_neighbour_that_counts_is_brightest_at_its_place(neighbor: int, place: tuple[int, int]):
    picture = cells(coefficient_map(torch.full((3, 5, 6), 0.2), one_hot(neighbor), 2, 3))
    neighborhood = picture[MARGIN : MARGIN + 3, MARGIN : MARGIN + 3]
    bright, dark = ((HEAT * SCALE[end] + (1 - HEAT) * GREY).round().tolist() for end in (-1, 0))
    assert neighborhood[place].tolist() == bright
    assert neighborhood.reshape(-1, 3).tolist().count(dark) == 8


def test_the_neighbourhood_lies_in_the_image_and_what_is_outside_of_that_is_white():
    image = torch.full((3, 5, 6), 0.2)
    image[:, 4, 5] = 1.0
    picture = cells(coefficient_map(image, one_hot(4), 2, 3))
    center = MARGIN + 1
    assert picture.shape == (2 * center + 1, 2 * center + 1, 3)
    assert picture[center - 2, center].tolist() == [GREY] * 3  # two rows up: the image's first
    assert picture[center - 3, center].tolist() == [255] * 3  # three rows up: outside
    assert picture[center + 2, center + 2].tolist() == [255] * 3  # its one white pixel
    assert picture[center + 2, center + 1].tolist() == [GREY] * 3


def test_the_pixel_itself_has_a_frame():
    picture = coefficient_map(torch.zeros(3, 5, 6), one_hot(4), 0, 0)
    corner = (MARGIN + 1) * CELL
    assert tuple(picture[corner, corner]) == tuple(picture[corner + CELL - 1, corner + CELL - 1]) == FRAME
    assert tuple(picture[corner - 1, corner - 1]) != FRAME


def test_a_large_neighbourhood_is_enlarged_less():
    picture = coefficient_map(torch.zeros(3, 5, 6), torch.ones(65, 65), 2, 3)
    assert ENLARGED / 2 < len(picture) <= ENLARGED
    assert len(picture) % (65 + 2 * MARGIN) == 0


@pytest.mark.parametrize(("row", "column"), [(-1, 0), (5, 0), (0, 6)])
def test_a_pixel_outside_the_image_is_refused(row: int, column: int):
    with pytest.raises(ValueError, match="outside the image of 5 rows and 6 columns"):
        coefficient_map(torch.zeros(3, 5, 6), one_hot(4), row, column)


def test_a_residual_is_as_large_as_its_largest_change_against_the_mean_class():
    residual = torch.zeros(3, 2, 3)
    residual[:, 0, 0] = 5.0  # all classes alike: no label and no probability changes
    residual[1, 1, 2] = -3.0
    size = residual_size(residual)
    np.testing.assert_allclose(size, [[0, 0, 0], [0, 0, 2]])


def test_iterations_share_one_scale_of_colours():
    first, second = torch.zeros(2, 4, 5), torch.zeros(2, 4, 5)
    first[0] = 1.0
    second[0] = 2.0
    pixels = np.asarray(residual_maps([first, second])).reshape(-1, 3)
    colors, counts = np.unique(pixels, axis=0, return_counts=True)
    common = {tuple(color) for color, count in zip(colors.tolist(), counts, strict=True) if count > 10_000}
    half = tuple(scale_colors(np.array([[0.5]]))[0, 0].tolist())
    assert {tuple(BRIGHTEST), half} <= common


def test_no_residual_at_all_is_dark_everywhere():
    pixels = np.asarray(residual_maps([torch.zeros(3, 4, 5)]))
    assert (pixels == DARKEST).all(axis=-1).sum() > 10_000
