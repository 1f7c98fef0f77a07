"""A foreign network as a parser: fit the image to it, run it, bring its confidence maps back to the image."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from rectiseg.models.external.fits import Fit, Size, padded
from rectiseg.models.front import per_band
from rectiseg.ops.resize import resized
from rectiseg.types import Image, Logits

Maps = Float[Tensor, "batch classes rows columns"]
"""What a network says of its input: a map a class, each over the whole input, at any resolution."""

PerBand = tuple[float, float, float]
"""For values in [0, 1], in the order in which the network takes the bands."""


TRIAL_SIZE: Size = (64, 96)
"""Small, with sides that differ and that every usual stride divides."""


class ExternalFront(nn.Module):
    """A parser out of any network that takes a normalised image and gives one confidence map a class.

    The maps may be the network's answer or a tuple's first item, or lie under "out" or "logits" (torchvision's and
    transformers' names), at any resolution. With ``probabilities`` they hold shares of the classes instead of logits,
    not negative: the logarithms of what they are once they sum to one are logits, and a softmax gives the shares back.

    The image's edges are continued where the canvas of ``fit`` is larger. The network sees red first, unless ``bgr``.
    ``classes`` names the maps. What does not fit raises ValueError.
    """

    def __init__(
        self,
        network: nn.Module,
        num_classes: int,
        mean: PerBand = (0.0, 0.0, 0.0),
        std: PerBand = (1.0, 1.0, 1.0),
        *,
        bgr: bool = False,
        fit: Fit | None = None,
        probabilities: bool = False,
        classes: tuple[str, ...] = (),
    ):
        super().__init__()
        if num_classes < 2:
            raise ValueError(f"a parser chooses between two classes or more; this network knows {num_classes}")
        if classes and len(classes) != num_classes:
            raise ValueError(f"the network knows {num_classes} classes, and {len(classes)} names were given for them")
        self.network = network
        self.num_classes = num_classes
        self.mean = mean
        self.std = std
        self.bgr = bgr
        self.fit = padded() if fit is None else fit
        self.probabilities = probabilities
        self.classes = tuple(classes)

    def forward(self, image: Image) -> Logits:
        height, width = image.shape[-2:]
        inner, canvas = self.fit((height, width))
        maps = maps_in(self.network(continued(self.normalised(resized(image, inner)), canvas)))
        if maps.shape[1] != self.num_classes:
            raise ValueError(f"the network gives {maps.shape[1]} maps; {self.num_classes} classes were expected")
        if inner != canvas:
            maps = resized(maps, canvas)[..., : inner[0], : inner[1]]
        maps = resized(maps, (height, width))
        return log_shares(maps) if self.probabilities else maps

    def normalised(self, image: Image) -> Image:
        bands = image.flip(1) if self.bgr else image
        return (bands - per_band(self.mean).to(bands)) / per_band(self.std).to(bands)


def continued(image: Image, canvas: Size) -> Float[Tensor, "batch 3 _ _"]:
    """The image's right and bottom edge, repeated up to the canvas."""
    height, width = image.shape[-2:]
    return F.pad(image, (0, canvas[1] - width, 0, canvas[0] - height), mode="replicate")


def log_shares(scores: Maps) -> Logits:
    """The logarithm of what the scores are once they sum to one; where one is zero, of the smallest normal number."""
    return scores.clamp(min=torch.finfo(scores.dtype).tiny).log().log_softmax(dim=1)


def maps_in(answer: object) -> Maps:
    """The maps, wherever a network's answer has them; ValueError where it has none."""
    if isinstance(answer, Mapping):
        answer = next((answer[name] for name in ("out", "logits") if name in answer), None)
    elif isinstance(answer, tuple | list):
        answer = next(iter(answer), None)
    if not isinstance(answer, Tensor) or answer.ndim != 4 or not answer.is_floating_point():
        found = f"{answer.dtype} of {list(answer.shape)}" if isinstance(answer, Tensor) else type(answer).__name__
        raise ValueError(
            f"the network gives no confidence maps of (batch, classes, height, width) but {found}: "
            "it has to end before any argmax"
        )
    return answer


@torch.no_grad()
def trial(network: nn.Module, size: Size = TRIAL_SIZE) -> Maps:
    """What the network says of an image in the colour of its mean."""
    device = next(network.parameters(), torch.empty(0)).device
    return maps_in(network(torch.zeros(1, 3, *size, device=device)))
