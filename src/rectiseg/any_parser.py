"""What a refiner trains on that is to follow parsers and label sets which it never saw.

Views of several parsers' confidences, each made into what still another parser could have said, of other classes; and
confidences that no parser gave, which are made of the labels, with boundaries that miss and regions that are mistaken.
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
from rectiseg.data.transforms import displaced, draw, smooth_noise
from rectiseg.settings import Settings
from rectiseg.types import IGNORE_INDEX
from rectiseg.views import ConfidenceViews

Probabilities = Float[Tensor, "classes height width"]
OneMore = Float[Tensor, "classes+1 height width"]
Labels = Int[Tensor, "height width"]


MISTAKEN_TOGETHER = 32
"""Pixels: how large imagined mistakes are."""

BOLDNESS = 3.0
"""How abruptly an imagined mistake begins."""

SOFTNESS = (3, 5, 7, 9)
"""Over so many pixels imagined confidences go from one class to the next."""

SURE = 1e-3
"""The least that they give to any class."""


@dataclass(frozen=True)
class Changes:
    """How often, and how much, confidences are made into another parser's."""

    imagining: float = 0.1  # how often the labels are taken for a parser's answer, with mistakes
    displacing: float = 0.9  # how often a parser's answer is moved, here one way, there another
    displacement: float = 4.0  # by up to so many pixels in the mean
    mistaken: float = 0.1  # of its area, at most
    favor: float = 1.0  # by which each class's logits are off: it grows or shrinks where it meets others
    merging: float = 0.5  # how often classes become one
    splitting: float = 0.3  # how often a class gets a sibling that is confused with it
    coarsening: float = 0.2  # how often there are fewer cells than pixels
    strides: tuple[float, ...] = (2, 4, 8)  # pixels a cell
    temperature: float = 1.5  # logits are divided by up to this, or multiplied
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
        if happens(self.changes.imagining, generator):
            logits = imagined(labels, len(logits), self.changes, generator)
        elif happens(self.changes.displacing, generator):
            logits = displaced(logits, self.changes.displacement, generator)
        logits, labels = varied(logits, labels, self.changes, generator)
        return (image, logits), labels

    def whole(self, index: int) -> tuple[tuple[Tensor, ...], Tensor]:
        """Validation takes turns among the parsers, as they are."""
        return self.parsers[index % len(self.parsers)].whole(index)


def imagined(
    labels: Labels, num_classes: int, changes: Changes, generator: Generator
) -> Float[Tensor, "classes height width"]:
    """What a parser could say that has its boundaries near these labels', and some regions wrong.

    Where nobody annotated, all classes are equally likely.
    """
    height, width = labels.shape
    moved = displaced(labels, changes.displacement, generator)
    known = moved != IGNORE_INDEX
    said = F.one_hot(moved.where(known, 0), num_classes).permute(2, 0, 1).float()
    said = torch.where(known, said, torch.tensor(1 / num_classes))
    other = smooth_noise(num_classes, (height, width), MISTAKEN_TOGETHER, generator).argmax(dim=0)
    confusion = smooth_noise(1, (height, width), MISTAKEN_TOGETHER, generator)
    share = changes.mistaken * float(torch.rand((), generator=generator))
    doubt = (BOLDNESS * (confusion - confusion.quantile(1 - share))).clamp(0, 1)
    said = (1 - doubt) * said + doubt * F.one_hot(other, num_classes).permute(2, 0, 1)
    reach = int(draw(SOFTNESS, generator))
    said = F.avg_pool2d(said[None], reach, stride=1, padding=reach // 2, count_include_pad=False)[0]
    favor = changes.favor * torch.randn(num_classes, 1, 1, generator=generator)
    return said.clamp(min=SURE).log() + favor


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
