"""Figure 4 and its variants: parsers with refiners, refiners one after another or side by side."""

import math
from collections.abc import Iterable

import torch
from torch import nn

from rectiseg.types import Image, Logits, Parser, Refiner


class SceneParser(nn.Module):
    """A front model and what mends its confidence maps; itself a parser. Any function is good for either.

    ``classes`` and ``palette`` name and colour the label map's values; they travel with a saved model.
    """

    def __init__(
        self,
        front: Parser,
        refiner: Refiner,
        classes: tuple[str, ...] = (),
        palette: tuple[tuple[int, int, int], ...] = (),
    ):
        super().__init__()
        self.front = front
        self.refiner = refiner
        self.classes = tuple(classes)
        self.palette = tuple(palette)

    def forward(self, image: Image) -> Logits:
        return self.refiner(image, self.front(image))


class Cascade(nn.Module):
    """Refiners one after another: ``Cascade(GRN(...), LRN(...))`` is the paper's. An empty one changes nothing."""

    def __init__(self, *refiners: nn.Module):
        super().__init__()
        self.refiners = nn.ModuleList(refiners)

    def forward(self, image: Image, logits: Logits) -> Logits:
        for refiner in self.refiners:
            logits = refiner(image, logits)
        return logits


class Parallel(nn.Module):
    """Refiners side by side on the same input: the logarithm of the mean of their probabilities."""

    def __init__(self, *refiners: nn.Module):
        super().__init__()
        if not refiners:
            raise ValueError("a mean needs something to average: give Parallel at least one refiner")
        self.refiners = nn.ModuleList(refiners)

    def forward(self, image: Image, logits: Logits) -> Logits:
        return log_mean_probability(refiner(image, logits) for refiner in self.refiners)


def log_mean_probability(answers: Iterable[Logits]) -> Logits:
    """The logarithm of the mean of their probabilities, which are logits again; holds one answer at a time."""
    total, count = None, 0
    for logits in answers:
        log_probabilities = logits.log_softmax(dim=1)
        total = log_probabilities if total is None else torch.logaddexp(total, log_probabilities)
        count += 1
    assert total is not None
    return total - math.log(count)
