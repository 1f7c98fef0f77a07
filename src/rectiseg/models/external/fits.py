"""How an image is brought to a size that a network takes."""

import math
from collections.abc import Callable

from rectiseg.ops.resize import scaled

Size = tuple[int, int]
"""Height and width in pixels."""

Fit = Callable[[Size], tuple[Size, Size]]
"""Of an image of some size: to which one it is resized, and the size of the canvas in whose top left corner it lies."""


def padded(multiple: int = 1) -> Fit:
    """As large as it is, on a canvas whose sides are multiples."""
    return lambda size: (size, rounded_up(size, multiple))


def stretched(target: Size) -> Fit:
    """Resized to the target, whatever its aspect ratio."""
    return lambda size: (target, target)


def letterboxed(target: Size) -> Fit:
    """As large as the target allows with its aspect ratio kept, on a canvas of the target's size."""
    return lambda size: (scaled(size, min(target[0] / size[0], target[1] / size[1])), target)


def edges_between(shortest: int, longest: int | None = None, multiple: int = 1) -> Fit:
    """Resized until its shorter side is `shortest`, or its longer one `longest` if that comes first.

    The longer side is rounded down and both are then stretched to the next multiples, as transformers does.
    """

    def fit(size: Size) -> tuple[Size, Size]:
        short, long = sorted(size)
        edges = (shortest, long * shortest // short)
        if longest is not None and edges[1] > longest:
            edges = (max(1, round(short * longest / long)), longest)
        small, large = edges
        target = rounded_up((small, large) if size[0] <= size[1] else (large, small), multiple)
        return target, target

    return fit


def rounded_up(size: Size, multiple: int) -> Size:
    height, width = size
    return math.ceil(height / multiple) * multiple, math.ceil(width / multiple) * multiple
