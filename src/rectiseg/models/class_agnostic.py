"""An LRN for any parser and any classes: it sees how sure and how alike the confidences are, not whose they are."""

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from rectiseg.models.lrn import LRN, NARROW, Evidence
from rectiseg.types import Image, Logits

NEAR, FAR = 1, 3
"""How many pixels apart neighbours are that a pixel is compared with, in each of eight directions."""

LIKELIEST = 3
"""So many of a pixel's largest probabilities are seen."""

COMPARED = 2
"""And at its neighbours so many of its own likeliest classes."""

Comparison = Float[Tensor, "batch directions height width"]


class ClassAgnosticLRN(LRN):
    """LRN whose evidence neither knows the number of the classes nor their order.

    Eq. 4's coefficients are shared by all classes; only the first convolution of the paper's network knows them. Here
    it sees the image and, of the probabilities p, their largest three, how sure they are (the sum of p^2), the product
    p(x) p(y) with neighbours y, and what y gives to the two likeliest classes of x. Another order of the classes gives
    the same coefficients, but for pixels whose second and third class tie. One class raises ValueError.
    """

    def __init__(
        self,
        neighborhood: int = 7,
        widths: tuple[int, ...] = NARROW,
        center_bias: float | None = None,
        propagates: Literal["logits", "probabilities"] = "logits",
        border: Literal["masked", "zeros"] = "masked",
    ):
        super().__init__(0, neighborhood, widths, center_bias, propagates, border)

    @property
    def evidence_channels(self) -> int:
        return 3 + LIKELIEST + 1 + len(OFFSETS) * (1 + COMPARED)

    def evidence(self, image: Image, logits: Logits) -> Evidence:
        """What the convolutions see: the image and what is said of the classes without naming them."""
        if logits.shape[1] < 2:
            raise ValueError("confidence maps of one class leave nothing to refine: give one map for each class")
        probabilities = logits.softmax(dim=1)
        likeliest, classes = probabilities.topk(min(LIKELIEST, logits.shape[1]), dim=1)
        likeliest = F.pad(likeliest, (0, 0, 0, 0, 0, LIKELIEST - likeliest.shape[1]))
        sureness = probabilities.square().sum(dim=1, keepdim=True)
        return torch.cat([image, likeliest, sureness, *compared(probabilities, classes[:, :COMPARED])], dim=1)


OFFSETS = [
    (distance * down, distance * right)
    for distance in (NEAR, FAR)
    for down in (-1, 0, 1)
    for right in (-1, 0, 1)
    if (down, right) != (0, 0)
]


def compared(probabilities: Logits, classes: Tensor) -> list[Comparison]:
    """Each neighbour's agreement with the pixel, and what it gives to the pixel's own likeliest classes.

    Beyond its border the image is continued.
    """
    height, width = probabilities.shape[-2:]
    continued = F.pad(probabilities, (FAR,) * 4, mode="replicate")
    comparisons = []
    for down, right in OFFSETS:
        neighbor = continued[..., FAR + down : FAR + down + height, FAR + right : FAR + right + width]
        comparisons.append((probabilities * neighbor).sum(dim=1, keepdim=True))
        comparisons.append(neighbor.gather(1, classes))
    return comparisons
