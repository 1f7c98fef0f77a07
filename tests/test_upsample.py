"""Bilinear upsampling of coarse confidence maps."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from networks import random_logits
from rectiseg.ops.upsample import bilinear_kernel, upsample


def upsampled(scores: Tensor, stride: int, center: float, height: int, width: int) -> Tensor:
    return upsample(scores, bilinear_kernel(scores.shape[1], stride, center), stride, center, height, width)


@pytest.mark.parametrize(("rows", "columns", "height", "width"), [(1, 1, 8, 8), (1, 2, 1, 9), (3, 4, 23, 32)])
def test_cells_in_the_middle_of_their_pixels_are_interpolated_as_usual(
    rows: int, columns: int, height: int, width: int
) -> None:
    scores = random_logits(2, 3, rows, columns)
    usual = F.interpolate(scores, scale_factor=8.0, mode="bilinear", align_corners=False)
    torch.testing.assert_close(upsampled(scores, 8, 3.5, height, width), usual[..., :height, :width])


@pytest.mark.parametrize("stride", [4, 8])
@pytest.mark.parametrize("center", [0, 1, 3])
def test_a_cells_score_lands_on_its_pixel(center: int, stride: int) -> None:
    scores = random_logits(1, 3, 3, 4)
    pixels = upsampled(scores, stride, center, 3 * stride, 4 * stride)
    torch.testing.assert_close(pixels[..., center::stride, center::stride], scores)


def test_half_way_between_two_cells_lies_their_mean() -> None:
    scores = random_logits(1, 3, 3, 4)
    between = upsampled(scores, 8, 0.0, 24, 32)[..., ::8, 4:-8:8]
    torch.testing.assert_close(between, (scores[..., :-1] + scores[..., 1:]) / 2)


@pytest.mark.parametrize("center", [0.0, 0.5, 3.0, 3.5, 4.25, 7.0])
def test_a_constant_stays_constant(center: float) -> None:
    pixels = upsampled(torch.full((1, 2, 3, 4), 1.75), 8, center, 23, 31)
    torch.testing.assert_close(pixels, torch.full((1, 2, 23, 31), 1.75))


def test_the_usual_kernel_is_the_usual_one() -> None:
    kernel = bilinear_kernel(2, 8, 3.5)
    profile = torch.tensor([1, 3, 5, 7, 9, 11, 13, 15, 15, 13, 11, 9, 7, 5, 3, 1]) / 16
    torch.testing.assert_close(kernel, torch.outer(profile, profile).expand(2, 1, 16, 16))
