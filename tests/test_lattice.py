"""The permutohedral lattice against a Gaussian sum over all pairs of pixels."""

import numpy as np
import pytest

from rectiseg.ops.lattice import Lattice


def features_of(pixels: int, dimensions: int, spread: float = 3.0, seed: int = 0) -> np.ndarray:
    return (spread * np.random.default_rng(seed).random((pixels, dimensions))).astype(np.float32)


def values_of(pixels: int, channels: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).random((pixels, channels)).astype(np.float32)


def exact(features: np.ndarray, values: np.ndarray) -> np.ndarray:
    distances = ((features[:, None] - features[None]) ** 2).sum(axis=2)
    return np.exp(-distances / 2) @ values


@pytest.mark.parametrize("dimensions", [1, 2, 3, 5])
def test_it_is_the_gaussian_sum_up_to_a_factor(dimensions: int):
    features, values = features_of(2000, dimensions), values_of(2000, 3)
    ratio = Lattice(features).filtered(values) / exact(features, values)
    assert ratio.std() / ratio.mean() < 0.15


def test_a_smooth_average_is_met_closely():
    """Both sums divided by those of ones, as a normalised kernel does."""
    features = features_of(3000, 2, spread=6.0)
    ones, values = np.ones((3000, 1), np.float32), np.sin(features[:, :1])
    lattice = Lattice(features)
    average = lattice.filtered(values) / lattice.filtered(ones)
    assert np.abs(average - exact(features, values) / exact(features, ones)).max() < 0.12


def test_it_is_linear_and_knows_each_channel_by_itself():
    lattice, values = Lattice(features_of(200, 5)), values_of(200, 4)
    filtered = lattice.filtered(values)
    for channel in range(4):
        np.testing.assert_allclose(
            lattice.filtered(values[:, channel : channel + 1]), filtered[:, channel : channel + 1]
        )
    np.testing.assert_allclose(
        lattice.filtered(values[:, :1] + values[:, 1:2]), filtered[:, :1] + filtered[:, 1:2], 1e-5
    )


def test_a_pixels_corners_are_weighted_by_shares_of_one():
    lattice = Lattice(features_of(500, 5, spread=40.0))
    assert lattice.weights.min() >= -1e-6
    np.testing.assert_allclose(lattice.weights.sum(axis=1), 1, rtol=1e-5)


def test_pixels_far_apart_do_not_hear_of_each_other():
    features = np.array([[0.0, 0.0], [100.0, 100.0]], np.float32)
    filtered = Lattice(features).filtered(np.eye(2, dtype=np.float32))
    assert filtered[0, 0] > 0.1
    assert filtered[0, 1] == filtered[1, 0] == 0


def test_a_moved_picture_is_filtered_alike_wherever_it_lies():
    """Large and negative features need no more than their place in the hash table."""
    features, values = features_of(300, 3), values_of(300, 2)
    here, there = (Lattice(features + np.float32(offset)).filtered(values) for offset in (0, -1000))
    assert np.abs(there / here - 1).mean() < 0.1
