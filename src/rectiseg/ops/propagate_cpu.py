"""Eqs. 4 and 5 and their gradients as numba kernels that go over memory once.

Threads share the bands of ROWS rows of all images. A kernel works on strips of a band: all that classes share, a strip
for each row and each of its m x m neighbours, stays in a core's second cache, and the lines of CLASSES classes in its
first. Half precision is widened to float32.

Weights are coefficients, or scores that become coefficients on the way. For these there are the softmax's statistics
(batch, 2, height, width): a pixel's largest score, and the reciprocal of the sum of its exponentials.
"""

from functools import cache, partial

import numpy as np
import torch
from torch import Tensor

from rectiseg.ops.kernels import compiled, in_parallel
from rectiseg.ops.strips import (
    CLASSES,
    STRIP,
    add_product,
    add_products,
    add_sums,
    add_sums_of_row,
    copy,
    copy_and_compare,
    exponentiate,
    inside,
    multiply,
    multiply_difference,
    softmax_again,
)

ROWS = 4
"""Of a band, an even number; at m = 7 their strips of float32 are 392 KiB. Lines of m - 1 rows more are read."""


def forward(logits: Tensor, weights: Tensor, statistics: Tensor | None = None, masked: bool = False) -> Tensor:
    """Eq. 5. With statistics, which it fills, weights are scores; masked ones do not look out of the image."""
    return _sums(logits, weights, statistics, masked, to_source=False)


def logits_gradient(gradient: Tensor, weights: Tensor, statistics: Tensor | None = None) -> Tensor:
    """A pixel's logits went to each neighbour, weighted by that neighbour's coefficient for this pixel."""
    return _sums(gradient, weights, statistics, masked=False, to_source=True)


def coefficients_gradient(
    gradient: Tensor,
    logits: Tensor,
    neighbors: int,
    scores: Tensor | None = None,
    statistics: Tensor | None = None,
    masked: bool = False,
) -> Tensor:
    """For each neighbour of a pixel, the product of the pixel's gradient and the neighbour's logits.

    With scores and their statistics, the gradient of these.
    """
    batch, _, height, width = logits.shape
    values = as_array(logits)
    result = np.empty((batch, neighbors, height, width), values.dtype)
    kernel = products_kernel(side_of(neighbors))
    softmax = [None if tensor is None else as_array(tensor) for tensor in (scores, statistics)]
    in_parallel(partial(kernel, as_array(gradient), values, *softmax, result, masked), bands_of(logits))
    return torch.from_numpy(result).to(logits.dtype)


def _sums(values: Tensor, weights: Tensor, statistics: Tensor | None, masked: bool, to_source: bool) -> Tensor:
    array = as_array(values)
    result = np.empty_like(array)
    softmax = None if statistics is None else statistics.numpy()
    kernel = partial(
        sum_kernel(side_of(weights.shape[1])), array, as_array(weights), softmax, result, masked, to_source
    )
    in_parallel(kernel, bands_of(values))
    return torch.from_numpy(result).to(values.dtype)


def side_of(neighbors: int) -> int:
    return round(neighbors**0.5)


def bands_of(logits: Tensor) -> int:
    return logits.shape[0] * -(-logits.shape[2] // ROWS)


def as_array(tensor: Tensor) -> np.ndarray:
    """In a precision and an order that the kernels can work with."""
    if tensor.dtype not in (torch.float32, torch.float64):
        tensor = tensor.float()
    return np.ascontiguousarray(tensor.detach().numpy())


@compiled("contract")
def fill_around(strip: np.ndarray, begin: int, end: int, value: float) -> None:
    strip[:begin] = value
    strip[end:] = value


@compiled("contract")
def load_lines(
    values: np.ndarray, image: int, first: int, top: int, start: int, length: int, lines: np.ndarray
) -> None:
    """For every row of lines, strips of CLASSES classes side by side; zeros beyond the image and the last class."""
    _, classes, height, width = values.shape
    size = lines.shape[1] // CLASSES
    for row in range(len(lines)):
        y = top + row
        for index in range(CLASSES):
            begin, end = 0, 0
            if first + index < classes:
                begin, end = inside(y, start, length, height, width)
            line = lines[row, index * size : index * size + length]
            if begin < end:
                copy(values[image, first + index, y, start + begin : start + end], line[begin:end])
            fill_around(line, begin, end, 0)


@compiled("contract")
def load_weights(
    weights: np.ndarray, image: int, y: int, start: int, masked: bool, strips: np.ndarray, largest: np.ndarray
) -> None:
    """A row's own weights, and each pixel's largest."""
    _, neighbors, height, width = weights.shape
    side, length = len(strips), len(largest)
    largest[:] = -np.inf
    for place in range(neighbors):
        down, right = place // side, place % side
        begin, end = 0, length
        if masked:
            begin, end = inside(y + down - side // 2, start + right - side // 2, length, height, width)
        strip = strips[down, right * STRIP : right * STRIP + length]
        if begin < end:
            source = weights[image, place, y, start + begin : start + end]
            copy_and_compare(source, strip[begin:end], largest[begin:end])
        fill_around(strip, begin, end, -np.inf)


@compiled("contract")
def softmax(strips: np.ndarray, largest: np.ndarray, scale: np.ndarray) -> None:
    """Its numerators in place, and what they are still to be multiplied with."""
    scale[:] = 0
    for down in range(len(strips)):
        for begin in range(0, strips.shape[1], STRIP):
            exponentiate(strips[down, begin : begin + len(scale)], largest, scale)
    for x in range(len(scale)):
        scale[x] = 1 / scale[x]


@compiled("contract")
def load_coefficients(
    weights: np.ndarray,
    statistics: np.ndarray | None,
    image: int,
    place: int,
    y: int,
    start: int,
    part: tuple[int, int],
    strip: np.ndarray,
) -> None:
    """One neighbour's, of a forward pass that is over; zeros where the strip is not this part."""
    begin, end = part
    if begin < end:
        here = slice(start + begin, start + end)
        source = weights[image, place, y, here]
        if statistics is None:
            copy(source, strip[begin:end])
        else:
            softmax_again(source, statistics[image, 0, y, here], statistics[image, 1, y, here], strip[begin:end])
    fill_around(strip, begin, end, 0)


@compiled("contract")
def load_coefficients_of_neighbors(
    weights: np.ndarray, statistics: np.ndarray | None, image: int, y: int, start: int, length: int, strips: np.ndarray
) -> None:
    """Those that the neighbours of a row have for it."""
    _, neighbors, height, width = weights.shape
    side = len(strips)
    for place in range(neighbors):
        down, right = place // side, place % side
        row, column = y + down - side // 2, start + right - side // 2
        part = inside(row, column, length, height, width)
        strip = strips[down, right * STRIP : right * STRIP + length]
        load_coefficients(weights, statistics, image, neighbors - 1 - place, row, column, part, strip)


@cache
def sum_kernel(side: int):
    """Sum every pixel's neighbours, weighted by its own coefficients or by the neighbours' coefficients for it."""
    columns, radius = tuple(range(side)), side // 2  # of a tuple the compiler knows the length, and unrolls its loop

    @compiled("contract")
    def kernel(
        values: np.ndarray,
        weights: np.ndarray,
        statistics: np.ndarray | None,
        result: np.ndarray,
        masked: bool,
        to_source: bool,
        first: int,
        last: int,
    ) -> None:
        _, classes, height, width = result.shape
        strips = np.empty((ROWS, side, side * STRIP), result.dtype)
        lines = np.empty((ROWS + side - 1, CLASSES * (STRIP + side - 1)), result.dtype)
        totals = np.empty(2 * CLASSES * STRIP, result.dtype)
        largest = np.empty(STRIP, result.dtype)
        scale = np.ones((ROWS, STRIP), result.dtype)
        bands = (height + ROWS - 1) // ROWS
        for band in range(first, last):
            image, top = band // bands, band % bands * ROWS
            rows = min(ROWS, height - top)
            for start in range(0, width, STRIP):
                length = min(STRIP, width - start)
                for row in range(rows):
                    y, here = top + row, slice(start, start + length)
                    if to_source:
                        load_coefficients_of_neighbors(weights, statistics, image, y, start, length, strips[row])
                        continue
                    load_weights(weights, image, y, start, masked, strips[row], largest[:length])
                    if statistics is not None:
                        softmax(strips[row], largest[:length], scale[row, :length])
                        copy(largest, statistics[image, 0, y, here])
                        copy(scale[row], statistics[image, 1, y, here])
                for channel in range(0, classes, CLASSES):
                    load_lines(values, image, channel, top - radius, start - radius, length + 2 * radius, lines)
                    for row in range(0, rows, 2):
                        totals[:] = 0
                        add_sums_of_row(strips[row, 0], lines[row], totals, length, columns)
                        for down in range(1, side):
                            upper, lower = strips[row, down], strips[row + 1, down - 1]
                            add_sums(upper, lower, lines[row + down], totals, length, columns)
                        below = totals[CLASSES * STRIP :]
                        add_sums_of_row(strips[row + 1, side - 1], lines[row + side], below, length, columns)
                        for y in range(row, min(row + 2, rows)):
                            for index in range(min(CLASSES, classes - channel)):
                                total = totals[((y - row) * CLASSES + index) * STRIP :]
                                line = result[image, channel + index, top + y, start : start + length]
                                multiply(total, scale[y], line)

    return kernel


@compiled("contract")
def write_products(products: np.ndarray, image: int, y: int, start: int, length: int, result: np.ndarray) -> None:
    side = len(products)
    for place in range(side * side):
        product = products[place // side, place % side * STRIP :]
        copy(product, result[image, place, y, start : start + length])


@compiled("contract")
def write_scores_gradient(
    products: np.ndarray,
    scores: np.ndarray,
    statistics: np.ndarray,
    image: int,
    y: int,
    start: int,
    masked: bool,
    strips: np.ndarray,
    mean: np.ndarray,
    result: np.ndarray,
) -> None:
    """Through the softmax; strips and mean are room for the coefficients and for the products' mean."""
    _, neighbors, height, width = scores.shape
    side, length = len(strips), len(mean)
    mean[:] = 0
    for place in range(neighbors):
        down, right = place // side, place % side
        part = 0, length
        if masked:
            part = inside(y + down - side // 2, start + right - side // 2, length, height, width)
        strip = strips[down, right * STRIP : right * STRIP + length]
        load_coefficients(scores, statistics, image, place, y, start, part, strip)
        add_product(strip, products[down, right * STRIP :], mean)
    for place in range(neighbors):
        down, begin = place // side, place % side * STRIP
        line = result[image, place, y, start : start + length]
        multiply_difference(strips[down, begin:], products[down, begin:], mean, line)


@cache
def products_kernel(side: int):
    """Multiply every pixel's gradient with each of its neighbours, summed over the classes."""
    columns, radius = tuple(range(side)), side // 2

    @compiled("contract")
    def kernel(
        gradient: np.ndarray,
        values: np.ndarray,
        scores: np.ndarray | None,
        statistics: np.ndarray | None,
        result: np.ndarray,
        masked: bool,
        first: int,
        last: int,
    ) -> None:
        _, classes, height, width = values.shape
        products = np.empty((ROWS, side, side * STRIP), result.dtype)
        unwanted = np.empty(side * STRIP, result.dtype)
        lines = np.empty((ROWS + side - 1, CLASSES * (STRIP + side - 1)), result.dtype)
        slopes = np.empty((ROWS, CLASSES * STRIP), result.dtype)
        strips = np.empty((side, side * STRIP), result.dtype)
        mean = np.empty(STRIP, result.dtype)
        bands = (height + ROWS - 1) // ROWS
        for band in range(first, last):
            image, top = band // bands, band % bands * ROWS
            rows = min(ROWS, height - top)
            for start in range(0, width, STRIP):
                length = min(STRIP, width - start)
                products[:] = 0
                for channel in range(0, classes, CLASSES):
                    load_lines(values, image, channel, top - radius, start - radius, length + 2 * radius, lines)
                    load_lines(gradient, image, channel, top, start, length, slopes)
                    for row in range(0, rows, 2):
                        for down in range(side + 1):
                            upper = products[row, down] if down < side else unwanted
                            lower = products[row + 1, down - 1] if down > 0 else unwanted
                            line = lines[row + down]
                            add_products(slopes[row], slopes[row + 1], line, upper, lower, length, columns)
                for row in range(rows):
                    y = top + row
                    if statistics is None:
                        write_products(products[row], image, y, start, length, result)
                    else:
                        write_scores_gradient(
                            products[row], scores, statistics, image, y, start, masked, strips, mean[:length], result
                        )

    return kernel
