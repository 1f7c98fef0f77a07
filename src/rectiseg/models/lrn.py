"""Section 3.2: the Local-boundary Refinement Network."""

import math
from itertools import pairwise
from typing import Literal, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rectiseg.ops.convolution import laid_out, normalized
from rectiseg.ops.propagate import Border, coefficients_of, propagate_scores, refuse_unknown
from rectiseg.types import Coefficients, Image, Logits

TABLE_1 = (256, 256, 256, 512, 512, 512)
NARROW = (24, 24, 24, 48, 48, 48)
"""Widths for a CPU: 87 thousand parameters at 11 classes instead of 7.4 million."""

Propagates = Literal["logits", "probabilities"]

Evidence = Float[Tensor, "batch channels height width"]


class LRN(nn.Module):
    """Replace every pixel's confidences by a learned average over its m x m neighbourhood.

    ``center_bias`` is Eq. 6's bias of the centre, by default ln(9 (m^2 - 1)): an untrained LRN then keeps 0.90 of the
    centre. The paper's 1.0 keeps 0.05 at m = 7. ``propagates`` chooses what is averaged: logits (the paper's "output
    of the last layer before SoftMax") or probabilities, whose logarithm is returned. Neighbours outside the image get
    no weight, or with ``border="zeros"`` count as zeros. A side m that is even or not positive, or another name, raises
    ValueError.
    """

    loss_weights = (1.0,)
    grid = 1
    """A part of an image that begins at a multiple of so many pixels is seen as it is in the whole image."""

    def __init__(
        self,
        num_classes: int,
        neighborhood: int = 7,
        widths: tuple[int, ...] = TABLE_1,
        center_bias: float | None = None,
        propagates: Propagates = "logits",
        border: Border = "masked",
    ):
        super().__init__()
        refuse_without_center(neighborhood)
        refuse_unknown("propagates", propagates, Propagates)
        refuse_unknown("border", border, Border)
        self.num_classes = num_classes
        self.neighborhood = neighborhood
        self.widths = tuple(widths)
        self.center_bias = center_bias
        self.propagates: Propagates = propagates
        self.border: Border = border
        channels = (self.evidence_channels, *widths)
        self.body = layers(*channels)
        self.head = nn.Conv2d(channels[-1], neighborhood**2, 3, padding=1)
        self.initialize_as_identity()

    @classmethod
    def narrow(cls, num_classes: int, neighborhood: int = 7) -> "LRN":
        """The preset for a CPU: the same network, a tenth as wide."""
        return cls(num_classes, neighborhood, NARROW)

    def initialize_as_identity(self) -> None:
        """Eq. 6, with Kaiming's scale where batch norm removes it anyway."""
        for module in self.body:
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.zeros_(module.bias)  # pyright: ignore[reportArgumentType]
        assert self.head.bias is not None
        nn.init.normal_(self.head.weight, std=0.001)
        nn.init.zeros_(self.head.bias)
        neighbors = self.neighborhood**2
        if neighbors > 1:
            bias = math.log(9 * (neighbors - 1)) if self.center_bias is None else self.center_bias
            self.head.bias.data[neighbors // 2] = bias

    @property
    def evidence_channels(self) -> int:
        return 3 + self.num_classes

    @property
    def context(self) -> int:
        """Pixels so far around one suffice for its answer: the radius of the convolutions and of the neighbourhood.

        10 for Table 1 at m = 7.
        """
        return radius_of(self) + self.neighborhood // 2

    def evidence(self, image: Image, logits: Logits) -> Evidence:
        """What the convolutions see: the image and the probabilities of all classes."""
        return torch.cat([image, logits.softmax(dim=1)], dim=1)

    def scores(self, image: Image, logits: Logits) -> Coefficients:
        """Eq. 4 before its softmax."""
        scores = self.head(evaluated(self.body, laid_out(self.evidence(image, logits))))
        return scores.to(logits.dtype)  # mixed precision computes them in fewer bits than logits have

    def coefficients(self, image: Image, logits: Logits) -> Coefficients:
        """Eq. 4."""
        return coefficients_of(self.scores(image, logits), self.border)

    def coefficients_of(self, image: Image, logits: Logits, row: int, column: int) -> Float[Tensor, "side side"]:
        """Those of one pixel of the first image, as they lie around it."""
        return self.coefficients(image, logits)[0, :, row, column].view(self.neighborhood, self.neighborhood)

    def supervised(self, image: Image, logits: Logits) -> list[Logits]:
        """Every map that the loss looks at; the last one is the answer."""
        scores = self.scores(image, logits)
        if self.propagates == "logits":
            return [propagate_scores(logits, scores, self.border)]  # Eq. 5
        probabilities = logits.softmax(dim=1)  # mixed precision computes it in more bits than logits have
        probabilities = propagate_scores(probabilities, scores.to(probabilities.dtype), self.border)
        return [probabilities.clamp(min=torch.finfo(probabilities.dtype).tiny).log()]

    def forward(self, image: Image, logits: Logits) -> Logits:
        return self.supervised(image, logits)[-1]


def refuse_without_center(neighborhood: int) -> None:
    if neighborhood < 1 or neighborhood % 2 == 0:
        raise ValueError(f"the neighbourhood's side m is odd and positive, not {neighborhood}")


def layers(*channels: int) -> nn.Sequential:
    """Rows of Table 1, each with its batch norm, which comes right after the convolution and before the activation."""
    return nn.Sequential(*[module for pair in pairwise(channels) for module in layer(*pair)])


def layer(in_channels: int, out_channels: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(in_channels, out_channels, 3, padding=1), nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True)


def evaluated(body: nn.Sequential, features: Tensor) -> Tensor:
    """What `layers` say of the features."""
    modules = iter(body)
    for convolution, norm, activation in zip(modules, modules, modules, strict=True):
        features = activation(normalized(features, cast(nn.Conv2d, convolution), norm))
    return features


def radius_of(network: nn.Module) -> int:
    """So many of its input's cells to each side decide an answer of convolutions one after another, without stride."""
    radius = 0
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            assert module.stride == (1, 1)
            radius += module.dilation[0] * (module.kernel_size[0] // 2)
    return radius
