"""What the propagation's kernels do with one strip of a row of pixels.

The compiler vectorises these short loops over their arguments; it does not vectorise them inside the big kernels.
"""

import math

import numpy as np
from numba import types
from numba.extending import overload

from rectiseg.ops.kernels import compiled

STRIP = 512
"""Pixels of a row worked on at once: long enough that each of 49 maps is read at length before the next."""

CLASSES = 4
"""Summed at once, for two rows: eight sums and what they need fill the sixteen registers of AVX2."""


def exponential(value: float) -> float:
    """Of a number that is not positive.

    In float32 a polynomial that vectorises: within 3e-7 of the result down to -1 and within 1e-7 (3 - value) below, and
    zero from -87 on, where the result is less than 2e-38. NaN stays NaN.
    """
    return math.exp(value)


@overload(exponential, jit_options={"fastmath": {"contract"}})
def _(value):
    if value != types.float32:
        return lambda value: math.exp(value)

    def polynomial(value):
        """Of 2 ** rest, with the whole power of two added to the exponent's bits (fitted to least relative error)."""
        shifted = value * np.float32(1.4426950408889634) + np.float32(12582912)  # 1.5 * 2 ** 23: rounds to integers
        rest = value * np.float32(1.4426950408889634) - (shifted - np.float32(12582912))
        result = np.float32(0.001326472731307149)
        result = result * rest + np.float32(0.009671512991189957)
        result = result * rest + np.float32(0.05550733581185341)
        result = result * rest + np.float32(0.24022242426872253)
        result = result * rest + np.float32(0.6931470036506653)
        result = result * rest + np.float32(1)
        bits = np.int32(np.float32(result).view(np.int32) + (np.float32(shifted).view(np.int32) << np.int32(23)))
        return np.float32(0) if value < np.float32(-87) else bits.view(np.float32)

    return polynomial


@compiled("contract")
def inside(y: int, start: int, length: int, height: int, width: int) -> tuple[int, int]:
    """The part of a strip, from its pixel (y, start) on, that lies in the image."""
    if not 0 <= y < height:
        return 0, 0
    begin = min(length, max(0, -start))
    return begin, max(begin, min(length, width - start))


@compiled("contract")
def copy(source: np.ndarray, copied: np.ndarray) -> None:
    for x in range(len(copied)):
        copied[x] = source[x]


@compiled("contract")
def copy_and_compare(source: np.ndarray, copied: np.ndarray, largest: np.ndarray) -> None:
    for x in range(len(copied)):
        value, before = source[x], largest[x]
        copied[x] = value
        largest[x] = value if value > before else before


@compiled("contract")
def exponentiate(strip: np.ndarray, largest: np.ndarray, total: np.ndarray) -> None:
    for x in range(len(total)):
        value = exponential(strip[x] - largest[x])
        strip[x] = value
        total[x] += value


@compiled("contract")
def softmax_again(scores: np.ndarray, largest: np.ndarray, scale: np.ndarray, strip: np.ndarray) -> None:
    for x in range(len(strip)):
        strip[x] = exponential(scores[x] - largest[x]) * scale[x]


@compiled("contract")
def multiply(strip: np.ndarray, scale: np.ndarray, result: np.ndarray) -> None:
    for x in range(len(result)):
        result[x] = strip[x] * scale[x]


@compiled("contract")
def add_product(first: np.ndarray, second: np.ndarray, total: np.ndarray) -> None:
    for x in range(len(total)):
        total[x] += first[x] * second[x]


@compiled("contract")
def multiply_difference(factor: np.ndarray, value: np.ndarray, subtracted: np.ndarray, result: np.ndarray) -> None:
    for x in range(len(result)):
        result[x] = factor[x] * (value[x] - subtracted[x])


@compiled("contract")
def add_sums(
    upper: np.ndarray, lower: np.ndarray, lines: np.ndarray, totals: np.ndarray, length: int, columns: tuple[int, ...]
) -> None:
    """To CLASSES totals of a pixel and as many of the pixel below, a line of neighbours of both, weighted by each."""
    side = len(columns)
    line = STRIP + side - 1
    for x in range(length):
        upper0, upper1, upper2, upper3 = totals[x], totals[STRIP + x], totals[2 * STRIP + x], totals[3 * STRIP + x]
        lower0, lower1 = totals[4 * STRIP + x], totals[5 * STRIP + x]
        lower2, lower3 = totals[6 * STRIP + x], totals[7 * STRIP + x]
        for right in range(side):
            above, below = upper[right * STRIP + x], lower[right * STRIP + x]
            value0, value1 = lines[x + right], lines[line + x + right]
            value2, value3 = lines[2 * line + x + right], lines[3 * line + x + right]
            upper0 += above * value0
            lower0 += below * value0
            upper1 += above * value1
            lower1 += below * value1
            upper2 += above * value2
            lower2 += below * value2
            upper3 += above * value3
            lower3 += below * value3
        totals[x], totals[STRIP + x], totals[2 * STRIP + x], totals[3 * STRIP + x] = upper0, upper1, upper2, upper3
        totals[4 * STRIP + x], totals[5 * STRIP + x] = lower0, lower1
        totals[6 * STRIP + x], totals[7 * STRIP + x] = lower2, lower3


@compiled("contract")
def add_sums_of_row(
    weights: np.ndarray, lines: np.ndarray, totals: np.ndarray, length: int, columns: tuple[int, ...]
) -> None:
    """The same of one pixel, for the lines that only one of the two looks at."""
    side = len(columns)
    line = STRIP + side - 1
    for x in range(length):
        total0, total1, total2, total3 = totals[x], totals[STRIP + x], totals[2 * STRIP + x], totals[3 * STRIP + x]
        for right in range(side):
            weight = weights[right * STRIP + x]
            total0 += weight * lines[x + right]
            total1 += weight * lines[line + x + right]
            total2 += weight * lines[2 * line + x + right]
            total3 += weight * lines[3 * line + x + right]
        totals[x], totals[STRIP + x], totals[2 * STRIP + x], totals[3 * STRIP + x] = total0, total1, total2, total3


@compiled("contract")
def add_products(
    slopes: np.ndarray,
    lower_slopes: np.ndarray,
    lines: np.ndarray,
    upper: np.ndarray,
    lower: np.ndarray,
    length: int,
    columns: tuple[int, ...],
) -> None:
    """To the products of a pixel and of the pixel below with a line of neighbours of both, those of CLASSES classes."""
    side = len(columns)
    line = STRIP + side - 1
    for x in range(length):
        upper0, upper1, upper2, upper3 = slopes[x], slopes[STRIP + x], slopes[2 * STRIP + x], slopes[3 * STRIP + x]
        lower0, lower1 = lower_slopes[x], lower_slopes[STRIP + x]
        lower2, lower3 = lower_slopes[2 * STRIP + x], lower_slopes[3 * STRIP + x]
        for right in range(side):
            value0, value1 = lines[x + right], lines[line + x + right]
            value2, value3 = lines[2 * line + x + right], lines[3 * line + x + right]
            above, below = upper[right * STRIP + x], lower[right * STRIP + x]
            upper[right * STRIP + x] = above + upper0 * value0 + upper1 * value1 + upper2 * value2 + upper3 * value3
            lower[right * STRIP + x] = below + lower0 * value0 + lower1 * value1 + lower2 * value2 + lower3 * value3
