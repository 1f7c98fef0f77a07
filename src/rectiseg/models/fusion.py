"""Several answers fused into one (sections 4.1 and 4.2): a parser at several scales, and several parsers."""

from collections.abc import Iterator
from typing import Literal

import torch
from torch import nn

from rectiseg.models.combine import log_mean_probability
from rectiseg.ops.propagate import refuse_unknown
from rectiseg.ops.resize import resized, scaled
from rectiseg.types import Image, Logits, Parser

Mean = Literal["probabilities", "logits"]


class MultiScale(nn.Module):
    """A parser that sees the image in several sizes, and in each its mirror image too; itself a parser.

    The answers are brought to the image's size and averaged there, as probabilities, whose logarithm is returned, or as
    logits. The scales are section 4.1's for ADE20K; it leaves 1.5 out for Cityscapes. No scale, one that is not
    positive, or another mean raises ValueError.
    """

    def __init__(
        self,
        parser: nn.Module,
        scales: tuple[float, ...] = (0.5, 0.75, 1.0, 1.25, 1.5),
        flip: bool = True,
        mean: Mean = "probabilities",
    ):
        super().__init__()
        refuse_unknown("mean", mean, Mean)
        if not scales or min(scales) <= 0:
            raise ValueError(f"an image is seen at one positive scale or more, not at {list(scales)}")
        self.parser = parser
        self.classes = known_classes(parser)
        self.scales = tuple(scales)
        self.flip = flip
        self.mean: Mean = mean

    def answers(self, image: Image) -> Iterator[Logits]:
        """What the parser says of each view, every pixel where the image has it."""
        size = image.shape[-2:]
        for scale in self.scales:
            view = resized(image, scaled(size, scale)).clamp(0, 1)
            yield resized(self.parser(view), size)
            if self.flip:
                yield resized(self.parser(view.flip(-1)).flip(-1), size)

    def forward(self, image: Image) -> Logits:
        if self.mean == "probabilities":
            return log_mean_probability(self.answers(image))
        return torch.stack(list(self.answers(image))).mean(dim=0)


class Ensemble(nn.Module):
    """Parsers of the same classes: the logarithm of the mean of their probabilities (section 4.2).

    No parser, or parsers that know different classes, raise ValueError.
    """

    def __init__(self, *parsers: nn.Module):
        super().__init__()
        known = {known_classes(parser) for parser in parsers} - {()}
        if not parsers or len(known) > 1:
            raise ValueError("an ensemble takes one parser or more, all of the same classes in the same order")
        self.parsers = nn.ModuleList(parsers)
        self.classes = next(iter(known), ())

    def forward(self, image: Image) -> Logits:
        return log_mean_probability(parser(image) for parser in self.parsers)


def known_classes(parser: Parser) -> tuple[str, ...]:
    """The names of its classes, where it or a parser in it knows them."""
    return outermost(parser, "classes")


def known_palette(parser: Parser) -> tuple[tuple[int, int, int], ...]:
    """The colours of its classes, where it or a parser in it knows them."""
    return outermost(parser, "palette")


def outermost(parser: Parser, name: str) -> tuple:
    """What the first says that says anything, from the outermost parser inwards."""
    parts = parser.modules() if isinstance(parser, nn.Module) else (parser,)
    return next((tuple(found) for part in parts if (found := getattr(part, name, ()))), ())


def classes_of(model: nn.Module) -> int | None:
    """How many classes a parser or refiner is for; None where that is not known, or it follows any number of them."""
    known = (getattr(part, "num_classes", None) for part in model.modules())
    return next((count for count in known if isinstance(count, int) and count > 0), None)
