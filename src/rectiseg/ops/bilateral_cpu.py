"""Eq. 5 with Eq. 4's coefficients after the distances between features, a row of pixels at a time, in float32."""

import math
from functools import partial

import numpy as np
import torch
from torch import Tensor

from rectiseg.ops.kernels import compiled, in_parallel
from rectiseg.ops.strips import STRIP, add_product, copy, exponentiate, inside, multiply


def propagate_alike(logits: Tensor, scores: Tensor, features: Tensor, weights: Tensor, dilation: int) -> Tensor:
    """`rectiseg.ops.bilateral.propagate_alike`, without gradients."""
    maps = [one.contiguous().numpy() for one in (logits, scores, features, weights)]
    result = np.empty_like(maps[0])
    side = math.isqrt(scores.shape[1])
    in_parallel(partial(_propagate_lines, *maps, dilation, side, result), logits.shape[0] * logits.shape[2])
    return torch.from_numpy(result)


@compiled("contract")
def _propagate_lines(
    logits: np.ndarray,
    scores: np.ndarray,
    features: np.ndarray,
    weights: np.ndarray,
    dilation: int,
    side: int,
    result: np.ndarray,
    first: int,
    last: int,
) -> None:
    _, classes, height, width = logits.shape
    coefficients = np.empty((side * side, STRIP), np.float32)
    largest, total = np.empty(STRIP, np.float32), np.empty(STRIP, np.float32)
    for line in range(first, last):
        image, y = line // height, line % height
        for start in range(0, width, STRIP):
            length = min(STRIP, width - start)
            largest[:] = -np.inf
            total[:] = 0
            for place in range(side * side):
                row = y + (place // side - side // 2) * dilation
                column = start + (place % side - side // 2) * dilation
                begin, end = inside(row, column, length, height, width)
                strip = coefficients[place, :length]
                strip[:begin] = -np.inf
                strip[end:] = -np.inf
                if begin == end:
                    continue
                copy(scores[image, place, y, start + begin : start + end], strip[begin:end])
                for feature in range(len(weights)):
                    here = features[image, feature, y, start + begin : start + end]
                    there = features[image, feature, row, column + begin : column + end]
                    subtract_distance(here, there, weights[feature], strip[begin:end])
                compare(strip[begin:end], largest[begin:end])
            for place in range(side * side):
                exponentiate(coefficients[place, :length], largest[:length], total[:length])
            invert(total[:length])
            for channel in range(classes):
                refined = result[image, channel, y, start : start + length]
                refined[:] = 0
                for place in range(side * side):
                    row = y + (place // side - side // 2) * dilation
                    column = start + (place % side - side // 2) * dilation
                    begin, end = inside(row, column, length, height, width)
                    if begin < end:
                        there = logits[image, channel, row, column + begin : column + end]
                        add_product(coefficients[place, begin:end], there, refined[begin:end])
                multiply(refined, total, refined)


@compiled("contract")
def subtract_distance(here: np.ndarray, there: np.ndarray, weight: float, scores: np.ndarray) -> None:
    for x in range(len(scores)):
        difference = here[x] - there[x]
        scores[x] -= weight * difference * difference


@compiled("contract")
def compare(values: np.ndarray, largest: np.ndarray) -> None:
    for x in range(len(values)):
        value, before = values[x], largest[x]
        largest[x] = value if value > before else before


@compiled("contract")
def invert(values: np.ndarray) -> None:
    for x in range(len(values)):
        values[x] = np.float32(1) / values[x]
