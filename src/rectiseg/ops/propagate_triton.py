"""Eqs. 4 and 5 fused, and their gradients, as Triton kernels; the only file that imports triton.

A program works on a tile of pixels: its m x m weights a pixel stay in registers, while one class after another passes.
Neighbouring pixels and programs find the same logits in the caches, so that memory is read about once. All precisions
are widened to float32. The statistics are those of `rectiseg.ops.propagate_cpu`.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

TILE_WIDTH = tl.constexpr(32)
"""Pixels of a row that a warp reads at once."""

TILE_HEIGHT = tl.constexpr(4)
"""Rows of a tile, a warp each: they share most of the lines that they look at."""

PIXELS = tl.constexpr(TILE_WIDTH.value * TILE_HEIGHT.value)


def forward(logits: Tensor, scores: Tensor, statistics: Tensor, masked: bool) -> Tensor:
    """`rectiseg.ops.propagate.propagate_scores` on a GPU; fills the statistics."""
    return _sums(logits, scores, statistics, masked, to_source=False)


def logits_gradient(gradient: Tensor, scores: Tensor, statistics: Tensor) -> Tensor:
    """A pixel's logits went to each neighbour, weighted by that neighbour's coefficient for this pixel."""
    return _sums(gradient, scores, statistics, masked=False, to_source=True)


def scores_gradient(gradient: Tensor, logits: Tensor, scores: Tensor, statistics: Tensor, masked: bool) -> Tensor:
    """Products of a pixel's gradient and each neighbour's logits, led on through the softmax."""
    gradient, logits, scores = gradient.contiguous(), logits.contiguous(), scores.contiguous()
    result = torch.empty_like(scores)
    if result.numel() > 0:
        sizes = _sizes(logits, scores)
        _scores_gradient_kernel[_tiles(logits)](gradient, logits, scores, statistics, result, *sizes, masked)
    return result


def _sums(values: Tensor, scores: Tensor, statistics: Tensor, masked: bool, to_source: bool) -> Tensor:
    values, scores = values.contiguous(), scores.contiguous()
    result = torch.empty_like(values)
    if result.numel() > 0:
        sizes = _sizes(values, scores)
        _sum_kernel[_tiles(values)](values, scores, statistics, result, *sizes, masked, to_source)
    return result


def _sizes(logits: Tensor, scores: Tensor) -> tuple[int, int, int, int, int]:
    """Classes, height, width, m, and m * m rounded up to a power of two."""
    _, classes, height, width = logits.shape
    neighbors = scores.shape[1]
    return classes, height, width, round(neighbors**0.5), triton.next_power_of_2(neighbors)


def _tiles(logits: Tensor) -> tuple[int, int, int]:
    batch, _, height, width = logits.shape
    return triton.cdiv(width, TILE_WIDTH.value), triton.cdiv(height, TILE_HEIGHT.value), batch


@triton.jit
def _places(height, width, side: tl.constexpr, padded: tl.constexpr):
    """The tile's pixels (1, PIXELS) and their neighbours (padded, PIXELS), as offsets in a map, and which exist.

    Last come the neighbours' numbers (padded, 1).
    """
    pixel = tl.arange(0, PIXELS)[None, :]
    place = tl.arange(0, padded)[:, None]
    y = tl.program_id(1) * TILE_HEIGHT + pixel // TILE_WIDTH
    x = tl.program_id(0) * TILE_WIDTH + pixel % TILE_WIDTH
    row = y + place // side - side // 2
    column = x + place % side - side // 2
    exists = (y < height) & (x < width)
    neighbor_exists = exists & (place < side * side) & (row >= 0) & (row < height) & (column >= 0) & (column < width)
    return y * width + x, row * width + column, exists, neighbor_exists, place.to(tl.int64)


@triton.jit
def _sum_kernel(
    values,
    scores,
    statistics,
    result,
    classes,
    height,
    width,
    side: tl.constexpr,
    padded: tl.constexpr,
    masked: tl.constexpr,
    to_source: tl.constexpr,
):
    """Sum every pixel's neighbours, weighted by its own coefficients or by the neighbours' coefficients for it."""
    here, there, exists, there_exists, place = _places(height, width, side, padded)
    image, plane = tl.program_id(2).to(tl.int64), height * width
    scores += image * side * side * plane
    statistics += image * 2 * plane
    if to_source:
        weights = tl.load(scores + (side * side - 1 - place) * plane + there, there_exists, -float("inf"))
        largest = tl.load(statistics + there, there_exists, 0.0)
        scale = tl.load(statistics + plane + there, there_exists, 0.0)
        coefficients = tl.exp(weights.to(tl.float32) - largest) * scale
    else:
        looks = there_exists if masked else exists & (place < side * side)
        weights = tl.load(scores + place * plane + here, looks, -float("inf")).to(tl.float32)
        largest = tl.max(weights, axis=0, keep_dims=True)
        exponentials = tl.exp(weights - largest)
        scale = 1 / tl.sum(exponentials, axis=0, keep_dims=True)
        coefficients = exponentials * scale
        tl.store(statistics + here, largest, exists)
        tl.store(statistics + plane + here, scale, exists)
    values += image * classes * plane
    result += image * classes * plane
    for _ in range(classes):
        neighbors = tl.load(values + there, there_exists, 0.0).to(tl.float32)
        tl.store(result + here, tl.sum(coefficients * neighbors, axis=0, keep_dims=True), exists)
        values += plane
        result += plane


@triton.jit
def _scores_gradient_kernel(
    gradient,
    logits,
    scores,
    statistics,
    result,
    classes,
    height,
    width,
    side: tl.constexpr,
    padded: tl.constexpr,
    masked: tl.constexpr,
):
    here, there, exists, there_exists, place = _places(height, width, side, padded)
    image, plane = tl.program_id(2).to(tl.int64), height * width
    gradient += image * classes * plane
    logits += image * classes * plane
    products = tl.zeros((padded, PIXELS), tl.float32)
    for _ in range(classes):
        slope = tl.load(gradient + here, exists, 0.0).to(tl.float32)
        products += slope * tl.load(logits + there, there_exists, 0.0).to(tl.float32)
        gradient += plane
        logits += plane
    is_score = exists & (place < side * side)
    looks = there_exists if masked else is_score
    own = image * side * side * plane + place * plane + here
    statistics += image * 2 * plane
    largest = tl.load(statistics + here, exists, 0.0)
    scale = tl.load(statistics + plane + here, exists, 0.0)
    coefficients = tl.exp(tl.load(scores + own, looks, -float("inf")).to(tl.float32) - largest) * scale
    mean = tl.sum(coefficients * products, axis=0, keep_dims=True)
    tl.store(result + own, coefficients * (products - mean), is_score)
