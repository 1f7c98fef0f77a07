"""What a refiner trains on that is to follow parsers and label sets which it never saw.

Views of several parsers' confidences, each made into what still another parser could have said, of other classes.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Generator, Tensor

from rectiseg.data.predictions import SMALLEST, softened
from rectiseg.data.transforms import draw
from rectiseg.settings import Settings
from rectiseg.types import IGNORE_INDEX
from rectiseg.views import ConfidenceViews

Probabilities = Float[Tensor, "classes height width"]
OneMore = Float[Tensor, "classes+1 height width"]
Labels = Int[Tensor, "height width"]


@dataclass(frozen=True)
class Changes:
    """How often, and how much, confidences are made into another parser's."""

    merging: float = 0.5  # how often classes become one
    splitting: float = 0.3  # how often a class gets a sibling that is confused with it
    coarsening: float = 0.3  # how often there are fewer cells than pixels
    strides: tuple[float, ...] = (2, 4, 8)  # pixels a cell
    temperature: float = 2.0  # logits are divided by up to this, or multiplied
    label_maps: float = 0.1  # how often only the likeliest class is known


class AnyParserViews:
    """Views of one parser's confidences or another's, changed at random; batches have one number of classes."""

    def __init__(self, parsers: Sequence[ConfidenceViews], changes: Changes = Changes()):
        self.parsers = parsers
        self.changes = changes

    def __len__(self) -> int:
        return len(self.parsers[0])

    def view(self, index: int, settings: Settings, generator: Generator) -> tuple[tuple[Tensor, ...], Tensor]:
        parser = self.parsers[int(torch.randint(len(self.parsers), (), generator=generator))]
        (image, logits), labels = parser.view(index, settings, generator)
        logits, labels = varied(logits, labels, self.changes, generator)
        return (image, logits), labels

    def whole(self, index: int) -> tuple[tuple[Tensor, ...], Tensor]:
        """Validation takes turns among the parsers, as they are."""
        return self.parsers[index % len(self.parsers)].whole(index)


def varied(
    logits: Float[Tensor, "classes height width"], labels: Labels, changes: Changes, generator: Generator
) -> tuple[OneMore, Labels]:
    """Confidences and labels as another parser, of other classes, could have them.

    There is one class more than before; those that are in no use have no probability.
    """
    factor = changes.temperature ** (2 * float(torch.rand((), generator=generator)) - 1)
    probabilities = (factor * logits).softmax(dim=0)
    if happens(changes.merging, generator):
        probabilities, labels = merged(probabilities, labels, generator)
    siblings = split if happens(changes.splitting, generator) else with_unused_class
    probabilities, labels = siblings(probabilities, labels, generator)
    if happens(changes.coarsening, generator):
        probabilities = coarse(probabilities, int(draw(changes.strides, generator)))
    if happens(changes.label_maps, generator):
        return softened(probabilities.argmax(dim=0).numpy(), len(probabilities)), labels
    return probabilities.clamp(min=SMALLEST).log(), labels


def happens(share: float, generator: Generator) -> bool:
    return float(torch.rand((), generator=generator)) < share


def merged(probabilities: Probabilities, labels: Labels, generator: Generator) -> tuple[Probabilities, Labels]:
    """Each class goes to one of two or more groups at random, the last of which no class may be in."""
    count = len(probabilities)
    groups = int(torch.randint(2, count + 1, (), generator=generator))
    group = torch.randint(groups, (count,), generator=generator)
    group[torch.randperm(count, generator=generator)[:2]] = torch.arange(2)  # two of them have one at least
    together = torch.zeros_like(probabilities).index_add_(0, group, probabilities)
    known = labels != IGNORE_INDEX
    return together, torch.where(known, group[labels.where(known, 0)], labels)


def split(probabilities: Probabilities, labels: Labels, generator: Generator) -> tuple[OneMore, Labels]:
    """A class shares its probability with a new one, which is never the right one."""
    one = int(torch.randint(len(probabilities), (), generator=generator))
    kept = 0.5 + 0.5 * float(torch.rand((), generator=generator))
    shares = torch.cat([probabilities, (1 - kept) * probabilities[one : one + 1]])
    shares[one] *= kept
    return shares, labels


def with_unused_class(probabilities: Probabilities, labels: Labels, _: Generator) -> tuple[OneMore, Labels]:
    return F.pad(probabilities, (0, 0, 0, 0, 0, 1)), labels


def coarse(probabilities: Probabilities, stride: int) -> Probabilities:
    """Averaged over cells of stride x stride pixels, and interpolated between their centres."""
    height, width = probabilities.shape[-2:]
    cells = F.avg_pool2d(probabilities[None], stride, ceil_mode=True)
    size = (math.ceil(height / stride) * stride, math.ceil(width / stride) * stride)
    pixels = F.interpolate(cells, size, mode="bilinear", align_corners=False)[0]
    return cast(Probabilities, pixels[:, :height, :width])
