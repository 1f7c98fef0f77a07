"""Neighbours that are alike, and neighbours that lie apart."""

import pytest
import torch
from torch import Tensor

from networks import random
from propagation import random_inputs
from rectiseg.ops.propagate import mask_border, propagate, propagate_reference
from rectiseg.ops.similarity import apart, neighbors, similarities, squared_distances

SIZES = [(1, 1), (1, 9), (6, 7), (5, 131)]


def by_hand(features: Tensor, side: int) -> Tensor:
    products = [(features * neighbor).sum(dim=1, keepdim=True) for neighbor in neighbors(features, side)]
    return torch.cat(products, dim=1)


@pytest.mark.parametrize("side", [1, 3, 5])
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_similarities_and_their_gradients_are_the_products(side: int, height: int, width: int):
    slope = torch.randn(2, side**2, height, width, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    results = []
    for operator in (similarities, by_hand):
        features = random(2, 3, height, width, dtype=torch.float64).requires_grad_()
        value = operator(features, side)
        value.backward(slope)
        results.append((value.detach(), features.grad))
    torch.testing.assert_close(*results)


def test_the_gradients_are_the_slopes():
    features = random(1, 2, 3, 4, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda maps: squared_distances(maps, 3), (features,))


def test_the_operators_keep_torch_librarys_rules():
    features = random(2, 3, 6, 7)
    torch.library.opcheck(torch.ops.rectiseg.similarities_gradient.default, (random(2, 9, 6, 7), features))
    torch.library.opcheck(torch.ops.rectiseg.similarities.default, (features.requires_grad_(), 3))


def test_distances_are_counted_row_by_row_from_the_top_left():
    features = random(1, 2, 6, 7)
    distances = squared_distances(features, 3)[0]
    torch.testing.assert_close(distances[4], torch.zeros(6, 7), atol=1e-6, rtol=0)  # to itself
    to_above_right = (features[0, :, 3, 2] - features[0, :, 2, 3]).square().sum()
    torch.testing.assert_close(distances[2, 3, 2], to_above_right)


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("dilation", [1, 2, 5])
def test_neighbours_that_lie_apart_are_those_of_a_wider_window_with_nothing_between(
    dilation: int, height: int, width: int
):
    logits, scores = random_inputs(2, 3, 3, height, width)
    coefficients = mask_border(scores, dilation).softmax(dim=1)
    side = 2 * dilation + 1
    wide = logits.new_zeros(2, side, side, height, width)
    wide[:, ::dilation, ::dilation] = coefficients.unflatten(1, (3, 3))
    expected = propagate(logits, wide.flatten(1, 2))
    torch.testing.assert_close(apart(propagate, dilation, logits, coefficients), expected)
    torch.testing.assert_close(propagate_reference(logits, coefficients, dilation), expected)


@pytest.mark.parametrize("recorded", [False, True])
def test_distances_that_lie_apart_are_those_of_a_wider_window(recorded: bool, monkeypatch: pytest.MonkeyPatch):
    """In a graph for elsewhere, too, which has none of our kernels."""
    monkeypatch.setattr("rectiseg.ops.similarity.exporting", lambda: recorded)
    features = random(2, 3, 11, 13)
    ours = squared_distances(features, 3, dilation=2)
    wide = squared_distances(features, 5).unflatten(1, (5, 5))[:, ::2, ::2].flatten(1, 2)
    inside = mask_border(torch.zeros_like(ours), 2) == 0
    torch.testing.assert_close(ours[inside], wide[inside])
