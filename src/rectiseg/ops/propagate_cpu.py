"""Eq. 5 and its two gradients as numba kernels that go over memory once.

Rows of all images are shared among threads. A kernel works on strips of a row: what all classes share, one strip for
each of the m x m neighbours, stays in a core's own cache, side by side in an array of a fixed size (the compiler
vectorises that; it does not vectorise slices of the big arrays). Half precision is widened to float32.
"""

from functools import cache, partial

import numpy as np
import torch
from torch import Tensor

from rectiseg.ops.kernels import compiled, in_parallel

STRIP = 512
"""Pixels of a row worked on at once: 49 strips of float32 are 98 KiB, which a core's second cache holds."""


def forward(logits: Tensor, coefficients: Tensor) -> Tensor:
    """`rectiseg.ops.propagate.propagate` on a CPU."""
    return _weigh(logits, coefficients, to_source=False)


def logits_gradient(gradient: Tensor, coefficients: Tensor) -> Tensor:
    """A pixel's logits went to each neighbour, weighted by that neighbour's coefficient for this pixel."""
    return _weigh(gradient, coefficients, to_source=True)


def coefficients_gradient(gradient: Tensor, logits: Tensor, neighbors: int) -> Tensor:
    """For each neighbour of a pixel, the product of the pixel's gradient and the neighbour's logits."""
    batch, _, height, width = logits.shape
    values = as_array(logits)
    result = np.empty((batch, neighbors, height, width), values.dtype)
    in_parallel(partial(products_kernel(side_of(neighbors)), as_array(gradient), values, result), batch * height)
    return torch.from_numpy(result).to(logits.dtype)


def _weigh(values: Tensor, coefficients: Tensor, to_source: bool) -> Tensor:
    array = as_array(values)
    result = np.empty_like(array)
    kernel = partial(sum_kernel(side_of(coefficients.shape[1])), array, as_array(coefficients), result, to_source)
    in_parallel(kernel, values.shape[0] * values.shape[2])
    return torch.from_numpy(result).to(values.dtype)


def side_of(neighbors: int) -> int:
    return round(neighbors**0.5)


def as_array(tensor: Tensor) -> np.ndarray:
    """In a precision and an order that the kernels can work with."""
    if tensor.dtype not in (torch.float32, torch.float64):
        tensor = tensor.float()
    return np.ascontiguousarray(tensor.detach().numpy())


@compiled("contract")
def copy_part(line: np.ndarray, start: int, part: np.ndarray) -> None:
    """The pixels from start on; zeros where the line has none."""
    begin = max(0, -start)
    end = max(begin, min(len(part), len(line) - start))
    source, copied = line[start + begin : start + end], part[begin:end]
    for x in range(len(copied)):
        copied[x] = source[x]
    part[:begin] = 0
    part[end:] = 0


@compiled("contract")
def part_of(line: np.ndarray, start: int, length: int, frame: np.ndarray) -> np.ndarray:
    """The line's pixels themselves; where some lie outside of it, a copy in the frame with zeros for them."""
    if start >= 0 and start + length <= len(line):
        return line[start : start + length]
    part = frame[:length]
    copy_part(line, start, part)
    return part


@cache
def sum_kernel(side: int):
    """Sum every pixel's neighbours, weighted by its own coefficients or by the neighbours' coefficients for it.

    Compiled for one m, so that the loop over a row of neighbours unrolls into one expression a pixel.
    """
    radius = side // 2

    @compiled("contract")
    def kernel(
        values: np.ndarray, coefficients: np.ndarray, result: np.ndarray, to_source: bool, first: int, last: int
    ) -> None:
        height, width = result.shape[2], result.shape[3]
        weights = np.empty((side, side, STRIP), result.dtype)
        frame = np.empty(STRIP + 2 * radius, result.dtype)
        for row in range(first, last):
            image, y = row // height, row % height
            for start in range(0, width, STRIP):
                length = min(STRIP, width - start)
                for down in range(side):
                    for right in range(side):
                        place, strip = down * side + right, weights[down, right, :length]
                        if not to_source:
                            copy_part(coefficients[image, place, y], start, strip)
                        elif 0 <= y + down - radius < height:
                            opposite = coefficients[image, side * side - 1 - place, y + down - radius]
                            copy_part(opposite, start + right - radius, strip)
                for channel in range(result.shape[1]):
                    total = result[image, channel, y, start : start + length]
                    total[:] = 0
                    for down in range(max(0, radius - y), min(side, height + radius - y)):
                        strips = weights[down]
                        line = values[image, channel, y + down - radius]
                        neighbors = part_of(line, start - radius, length + 2 * radius, frame)
                        for x in range(length):
                            sum_of_row = total[x]
                            for right in range(side):
                                sum_of_row += strips[right, x] * neighbors[x + right]
                            total[x] = sum_of_row

    return kernel


@cache
def products_kernel(side: int):
    """Multiply every pixel's gradient with each of its neighbours, summed over the classes."""
    radius = side // 2

    @compiled("contract")
    def kernel(gradient: np.ndarray, logits: np.ndarray, result: np.ndarray, first: int, last: int) -> None:
        height, width = result.shape[2], result.shape[3]
        totals = np.empty((side, side, STRIP), result.dtype)
        frame = np.empty(STRIP + 2 * radius, result.dtype)
        for row in range(first, last):
            image, y = row // height, row % height
            for start in range(0, width, STRIP):
                length = min(STRIP, width - start)
                totals[:, :, :length] = 0
                for channel in range(gradient.shape[1]):
                    slope = gradient[image, channel, y, start : start + length]
                    for down in range(max(0, radius - y), min(side, height + radius - y)):
                        total = totals[down]
                        line = logits[image, channel, y + down - radius]
                        neighbors = part_of(line, start - radius, length + 2 * radius, frame)
                        for x in range(length):
                            slope_here = slope[x]
                            for right in range(side):
                                total[right, x] += slope_here * neighbors[x + right]
                for place in range(side * side):
                    line = result[image, place, y, start : start + length]
                    copy_part(totals[place // side, place % side], 0, line)

    return kernel
