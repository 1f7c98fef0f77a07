"""Eq. 5 and its two gradients as numba kernels that go over memory once.

Rows of all images are shared among threads. A kernel works on strips of a row that fit a core's first cache. Half
precision is widened to float32 for the computation, which numba has and its callers' accuracy wants.
"""

from functools import cache, partial

import numba
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from rectiseg.ops.threads import in_parallel

STRIP = 128
"""Pixels of a row worked on at once: 49 strips of coefficients fit 32 KiB."""


def forward(logits: Tensor, coefficients: Tensor) -> Tensor:
    """`rectiseg.ops.propagate.propagate` on a CPU."""
    side = side_of(coefficients)
    padded, weights = pad(logits, side // 2), arrays(coefficients)
    result = np.empty((*logits.shape,), padded.dtype)
    in_parallel(partial(forward_kernel(side), padded, weights, result), logits.shape[0] * logits.shape[2])
    return torch.from_numpy(result).to(logits.dtype)


def backward(gradient: Tensor, logits: Tensor, coefficients: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients of logits and coefficients."""
    side = side_of(coefficients)
    rows = logits.shape[0] * logits.shape[2]
    to_coefficients = np.empty((*coefficients.shape,), arrays(logits[:0]).dtype)
    in_parallel(partial(coefficients_kernel(side), pad(logits, side // 2), arrays(gradient), to_coefficients), rows)
    # A pixel's logits reach each neighbour by the coefficient of the opposite place there.
    to_logits = np.empty((*logits.shape,), to_coefficients.dtype)
    in_parallel(partial(logits_kernel(side), pad(gradient, side // 2), pad(coefficients, side // 2), to_logits), rows)
    return torch.from_numpy(to_logits).to(logits.dtype), torch.from_numpy(to_coefficients).to(coefficients.dtype)


def side_of(coefficients: Tensor) -> int:
    return round(coefficients.shape[1] ** 0.5)


def arrays(tensor: Tensor) -> np.ndarray:
    if tensor.dtype not in (torch.float32, torch.float64):
        tensor = tensor.float()
    return tensor.detach().contiguous().numpy()


def pad(tensor: Tensor, radius: int) -> np.ndarray:
    return arrays(F.pad(tensor, (radius,) * 4))


compiled = partial(numba.njit, nogil=True, cache=True, fastmath={"contract"})


@cache
def forward_kernel(side: int):
    """Compiled for one m, so that the loop over a row of neighbours unrolls into one expression a pixel."""

    @compiled()
    def kernel(
        logits: np.ndarray, coefficients: np.ndarray, result: np.ndarray, first: np.int64, last: np.int64
    ) -> None:
        height, width = result.shape[2], result.shape[3]
        for row in range(first, last):
            image, y = row // height, row % height
            for start in range(0, width, STRIP):
                length = min(STRIP, width - start)
                for channel in range(result.shape[1]):
                    total = result[image, channel, y, start : start + length]
                    total[:] = 0
                    for down in range(side):
                        neighbors = logits[image, channel, y + down, start : start + length + side - 1]
                        weights = coefficients[image, down * side : (down + 1) * side, y, start : start + length]
                        for x in range(length):
                            sum_of_row = total[x]
                            for right in range(side):
                                sum_of_row += weights[right, x] * neighbors[x + right]
                            total[x] = sum_of_row

    return kernel


@cache
def coefficients_kernel(side: int):
    """d/d coefficient p of a pixel: the product of its gradient and its p-th neighbour, summed over the classes."""

    @compiled()
    def kernel(logits: np.ndarray, gradient: np.ndarray, result: np.ndarray, first: np.int64, last: np.int64) -> None:
        height, width = result.shape[2], result.shape[3]
        for row in range(first, last):
            image, y = row // height, row % height
            for start in range(0, width, STRIP):
                length = min(STRIP, width - start)
                for down in range(side):
                    totals = result[image, down * side : (down + 1) * side, y, start : start + length]
                    totals[:] = 0
                    for channel in range(gradient.shape[1]):
                        neighbors = logits[image, channel, y + down, start : start + length + side - 1]
                        slope = gradient[image, channel, y, start : start + length]
                        for x in range(length):
                            for right in range(side):
                                totals[right, x] += slope[x] * neighbors[x + right]

    return kernel


@cache
def logits_kernel(side: int):
    """d/d logits of a pixel: its neighbours' gradients, each weighted by the neighbour's coefficient for this pixel."""

    @compiled()
    def kernel(
        gradient: np.ndarray, coefficients: np.ndarray, result: np.ndarray, first: np.int64, last: np.int64
    ) -> None:
        height, width = result.shape[2], result.shape[3]
        for row in range(first, last):
            image, y = row // height, row % height
            for start in range(0, width, STRIP):
                length = min(STRIP, width - start)
                for channel in range(result.shape[1]):
                    total = result[image, channel, y, start : start + length]
                    total[:] = 0
                    for down in range(side):
                        slopes = gradient[image, channel, y + down, start : start + length + side - 1]
                        opposite = (side - 1 - down) * side
                        weights = coefficients[
                            image, opposite : opposite + side, y + down, start : start + length + side - 1
                        ]
                        for x in range(length):
                            sum_of_row = total[x]
                            for right in range(side):
                                sum_of_row += weights[side - 1 - right, x + right] * slopes[x + right]
                            total[x] = sum_of_row

    return kernel
