"""Images that no memory holds the activations of: a network that sees them tile by tile."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from torch import nn

from rectiseg.models.bilateral_lrn import BilateralLRN
from rectiseg.models.combine import Cascade, Parallel, SceneParser
from rectiseg.models.fusion import Ensemble, MultiScale, known_classes
from rectiseg.models.lrn import LRN
from rectiseg.types import Image, Logits, Parser, Refiner

SIZE = 1024
"""Of a tile's sides, in pixels."""

OVERLAP = 64
"""So many pixels around a tile are seen by networks that look farther than any tile, such as a front and GRN."""

GRID = 32
"""Where these begin to look is a multiple of so many pixels: an encoder's cells lie as in the whole image."""


class Span(NamedTuple):
    """The pixels start..stop of a line of the image, and first..last, which are looked at to answer them."""

    start: int
    stop: int
    first: int
    last: int

    @property
    def answered(self) -> slice:
        return slice(self.start, self.stop)

    @property
    def seen(self) -> slice:
        return slice(self.first, self.last)

    @property
    def inside(self) -> slice:
        """What is answered, as it lies in what is seen."""
        return slice(self.start - self.first, self.stop - self.first)


@dataclass(frozen=True)
class Surroundings:
    """So many pixels around a tile decide what a network says of it, and seeing begins at multiples of ``grid``.

    What an inexact one says is also decided by pixels beyond them.
    """

    context: int
    grid: int = 1
    exact: bool = True

    def spans(self, length: int, size: int) -> Iterator[Span]:
        """Cut a line of the image into parts of at most so many pixels, and about equal ones."""
        step = math.ceil(length / math.ceil(length / size))
        for start in range(0, length, step):
            stop = min(start + step, length)
            first = max(0, start - self.context) // self.grid * self.grid
            last = math.ceil((stop + self.context) / self.grid) * self.grid
            yield Span(start, stop, first, min(last, length))


class Tiled(nn.Module):
    """A parser or a refiner that sees the image tile by tile; itself a parser or a refiner.

    A tile is answered by what the network says of it and of the pixels around it, as far as the image goes, so that
    only the image's border is a border. For LRN and BilateralLRN these are all that they look at: the answer is the
    whole image's. A front's and GRN's fields are larger than any tile; ``overlap`` pixels more are seen for their
    sake, and the answer is near the whole image's. Tiles are cut and not blended: the mean of an exact and of a cut
    answer would not be exact, and rows that are done can be let go. A size or an overlap that is no number of pixels
    raises ValueError.
    """

    def __init__(self, network: nn.Module, size: int = SIZE, overlap: int = OVERLAP):
        super().__init__()
        refuse_no_pixels(size, overlap)
        self.network = network
        self.classes = known_classes(network)
        self.size = size
        self.overlap = overlap

    def forward(self, image: Image, *logits: Logits) -> Logits:
        height, width = image.shape[-2:]
        around = surroundings(self.network, self.overlap)
        result = None
        for rows in around.spans(height, self.size):
            for columns in around.spans(width, self.size):
                answer = self.network(*(maps[..., rows.seen, columns.seen] for maps in (image, *logits)))
                if result is None:
                    result = answer.new_empty((*answer.shape[:2], height, width))
                result[..., rows.answered, columns.answered] = answer[..., rows.inside, columns.inside]
        assert result is not None
        return result


def refuse_no_pixels(size: int, overlap: int) -> None:
    if size < 1 or overlap < 0:
        raise ValueError(f"tiles of {size} pixels that overlap by {overlap}: give at least 1 pixel, and 0 of overlap")


def surroundings(network: Parser | Refiner, overlap: int = OVERLAP) -> Surroundings:
    """Of a network and of all that it is made of; the overlap counts once for all of its parts that are not exact."""
    exact = exact_surroundings(network)
    return exact if exact.exact else Surroundings(exact.context + overlap, math.lcm(exact.grid, GRID), exact=False)


def exact_surroundings(network: Parser | Refiner) -> Surroundings:
    """Those of the exact parts: one after another they add up, and side by side the largest counts."""
    match network:
        case LRN() | BilateralLRN():
            return Surroundings(network.context, network.grid)
        case SceneParser():
            parts, combined = [network.front, network.refiner], sum
        case Cascade():
            parts, combined = list(network.refiners), sum
        case Parallel():
            parts, combined = list(network.refiners), max
        case Ensemble():
            parts, combined = list(network.parsers), max
        case MultiScale():
            inner = exact_surroundings(network.parser)
            return Surroundings(math.ceil(inner.context / min(network.scales)), inner.grid, exact=False)
        case _:
            return Surroundings(0, exact=False)
    each = [exact_surroundings(part) for part in parts]
    return Surroundings(
        combined([0, *(part.context for part in each)]),
        math.lcm(*(part.grid for part in each)),
        all(part.exact for part in each),
    )
