"""The vocabulary of the project: four tensors and two functions."""

from typing import Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor

IGNORE_INDEX = 255
"""The label of pixels that nobody annotated: never counted by a loss or a measure."""

Image = Float[Tensor, "batch 3 height width"]
"""RGB in [0, 1]; each model normalises for itself."""

Logits = Float[Tensor, "batch classes height width"]
"""Confidence maps: unnormalised log-probabilities, one map a class."""

LabelMap = Int[Tensor, "batch height width"]
"""A class index a pixel, or IGNORE_INDEX."""

Coefficients = Float[Tensor, "batch neighbors height width"]
"""LRN's m*m propagation coefficients (Eq. 4): the p-th map weighs the p-th neighbour, row by row from the top left."""


@runtime_checkable
class Parser(Protocol):
    """Anything that parses an image: the result has the image's height and width."""

    def __call__(self, image: Image, /) -> Logits: ...


@runtime_checkable
class Refiner(Protocol):
    """Anything that mends confidence maps with the help of their image: the result has the size of the input."""

    def __call__(self, image: Image, logits: Logits, /) -> Logits: ...
