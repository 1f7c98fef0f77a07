"""An LRN that looks far, keeps to its side of an edge, and follows parsers of any classes."""

from collections.abc import Iterable, Iterator, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from rectiseg.models.lrn import layers, radius_of, refuse_without_center
from rectiseg.ops.bilateral import alike, propagate_alike
from rectiseg.ops.propagate import propagate_scores
from rectiseg.ops.similarity import Features
from rectiseg.types import Coefficients, Image, Logits

HALVING = 2
"""So many pixels, in rows and in columns, the convolutions see as one."""

NEAR, FAR = 1, 3
"""How far apart neighbours are that a pixel is compared with, in each of eight directions."""

LIKELIEST = 3
"""So many of a pixel's largest probabilities are seen."""

COMPARED = 2
"""And at its neighbours so many of its own likeliest classes."""

CENTER_BIAS = 1.0
"""The paper's, of Eq. 6."""

COLOR, APPEARANCE = 200.0, 0.1
"""What a squared distance takes from a neighbour's score before training: two colours 0.07 apart lose 1."""

ByDilation = tuple[Coefficients, Features, Float[Tensor, "features"], int]
Evidence = Float[Tensor, "batch channels rows columns"]
Comparison = Float[Tensor, "batch directions height width"]


class BilateralLRN(nn.Module):
    """An LRN that neither knows the number of the classes nor their order, and looks farther.

    Eq. 4's coefficients are shared by all classes; only the first convolution of the paper's network knows them. Here
    it sees the image and, of the probabilities p, their largest three, how sure they are (the sum of p^2), the product
    p(x) p(y) with neighbours y, and what y gives to the two likeliest classes of x. Another order of the classes gives
    the same coefficients, but for pixels where two of the likeliest classes tie. With ``num_classes`` it is for these
    alone, and sees the map of each of them, too.

    The convolutions see image and confidences halved. Eq. 5 is taken once for every dilation, each on the last one's
    result, with neighbours that lie so many pixels apart. From their scores the squared distances between the pixels'
    colours are taken first, and between learned ``features`` of the image around them, each times a learned multiple:
    what is on an object's other side counts little, as in Krähenbühl and Koltun's dense CRF (NeurIPS 2011). A side m
    that is even or not positive raises ValueError, and so do confidences of one class.
    """

    loss_weights = (1.0,)
    grid = HALVING
    """A part of an image that begins at a multiple of so many pixels is seen as it is in the whole image."""

    def __init__(
        self,
        num_classes: int | None = None,
        neighborhood: int = 3,
        widths: tuple[int, ...] = (32, 32, 32, 64, 64, 64),
        dilations: tuple[int, ...] = (16, 8, 4, 2, 1, 1),
        features: int = 8,
    ):
        super().__init__()
        refuse_without_center(neighborhood)
        self.num_classes = num_classes
        self.neighborhood = neighborhood
        self.widths = tuple(widths)
        self.dilations = tuple(dilations)
        self.features = features
        channels = (EVIDENCE_CHANNELS + (num_classes or 0), *widths)
        self.body = layers(*channels)
        self.head = nn.Conv2d(channels[-1], len(dilations) * neighborhood**2, 3, padding=1)
        wide = 2 * features
        self.appearance = nn.Sequential(*layers(3, wide, wide, wide), nn.Conv2d(wide, features, 3, padding=1))
        self.log_multiples = nn.Parameter(torch.tensor([[COLOR], [APPEARANCE]]).log().repeat(1, len(dilations)))
        self.initialize_as_bilateral_filter()

    def initialize_as_bilateral_filter(self) -> None:
        assert self.head.bias is not None
        nn.init.normal_(self.head.weight, std=0.001)
        nn.init.zeros_(self.head.bias)
        self.head.bias.data.view(len(self.dilations), -1)[:, self.neighborhood**2 // 2] = CENTER_BIAS

    def specialized(self, num_classes: int) -> "BilateralLRN":
        """The same for these classes alone, whose maps change nothing until it is trained."""
        lrn = BilateralLRN(num_classes, self.neighborhood, self.widths, self.dilations, self.features)
        weights = self.state_dict()
        first = weights["body.0.weight"]
        weights["body.0.weight"] = F.pad(first, (0, 0, 0, 0, 0, num_classes))
        lrn.load_state_dict(weights)
        return lrn

    def scores(self, image: Image, logits: Logits) -> Iterator[Coefficients]:
        """Eq. 4 before its softmax, for one dilation after the other; neighbours outside the image have -inf."""
        for scores, features, weights, dilation in self.comparisons(image, logits):
            yield alike(scores, features, weights, dilation).to(logits.dtype)

    def comparisons(self, image: Image, logits: Logits) -> Iterator[ByDilation]:
        """Of every dilation, what the convolutions say, and by what pixels are alike, with its weights.

        That is colours, and learned features of what is around them.
        """
        features = torch.cat([image, self.appearance(image)], dim=1)
        color, appearance = self.log_multiples.exp()
        weights = torch.cat([color.expand(image.shape[1], -1), appearance.expand(self.features, -1)]).unbind(dim=1)
        for dilation, scores, own in zip(self.dilations, self.learned_scores(image, logits), weights, strict=True):
            yield scores, features, own, dilation

    def learned_scores(self, image: Image, logits: Logits) -> Sequence[Coefficients]:
        """What the convolutions say of every dilation's neighbours."""
        height, width = image.shape[-2:]
        halved = self.head(self.body(self.evidence(image, logits)))
        size = (HALVING * halved.shape[-2], HALVING * halved.shape[-1])
        scores = F.interpolate(halved, size, mode="bilinear", align_corners=False)
        return scores[..., :height, :width].chunk(len(self.dilations), dim=1)

    def evidence(self, image: Image, logits: Logits) -> Evidence:
        """What the convolutions see, halved."""
        if logits.shape[1] < 2:
            raise ValueError("confidence maps of one class leave nothing to refine: give one map for each class")
        maps = (image, logits.softmax(dim=1))
        image, probabilities = (F.avg_pool2d(one, HALVING, ceil_mode=True, count_include_pad=False) for one in maps)
        seen = [image, *said(probabilities)]
        return torch.cat(seen if self.num_classes is None else [*seen, probabilities], dim=1)

    def coefficients_of(self, image: Image, logits: Logits, row: int, column: int) -> Float[Tensor, "side side"]:
        """What all means together give to the neighbours of one pixel of the first image, as they lie around it.

        They are the gradient of its answer; those outside the image are zero.
        """
        scores = list(self.scores(image[:1], logits[:1]))
        with torch.inference_mode(False), torch.enable_grad():
            taken = logits.new_zeros(1, 1, *logits.shape[-2:], requires_grad=True)
            answer = self.averaged(taken, [of_one.detach().clone() for of_one in scores])[0, 0, row, column]
            (coefficients,) = torch.autograd.grad(answer, taken)
        around = F.pad(coefficients[0, 0], (self.reach,) * 4)
        return around[row : row + 2 * self.reach + 1, column : column + 2 * self.reach + 1]

    @property
    def reach(self) -> int:
        """How many pixels away a neighbour can be, in rows and in columns."""
        return sum(self.dilations) * (self.neighborhood // 2)

    @property
    def context(self) -> int:
        """Pixels so far around one suffice for its answer: 38 by default.

        A mean needs the scores of its pixel: what the convolutions say of halved pixels, between two of which it lies,
        and the appearance of its neighbours. The means after it need its answers as far as they look.
        """
        convolved = HALVING * (1 + radius_of(self.body) + radius_of(self.head) + FAR)
        context = looked_at = 0
        for dilation in reversed(self.dilations):
            away = dilation * (self.neighborhood // 2)
            context = max(context, looked_at + max(convolved, away + radius_of(self.appearance)))
            looked_at += away
        return context

    def averaged(self, logits: Logits, scores: Iterable[Coefficients]) -> Logits:
        """Eq. 5 once for every dilation."""
        for dilation, of_one in zip(self.dilations, scores, strict=True):
            logits = propagate_scores(logits, of_one, border="zeros", dilation=dilation)
        return logits

    def supervised(self, image: Image, logits: Logits) -> list[Logits]:
        """Every map that the loss looks at; the last one is the answer."""
        refined = logits
        for comparison in self.comparisons(image, logits):
            refined = propagate_alike(refined, *comparison)
        return [refined]

    def forward(self, image: Image, logits: Logits) -> Logits:
        return self.supervised(image, logits)[-1]


OFFSETS = [
    (distance * down, distance * right)
    for distance in (NEAR, FAR)
    for down in (-1, 0, 1)
    for right in (-1, 0, 1)
    if (down, right) != (0, 0)
]
EVIDENCE_CHANNELS = 3 + LIKELIEST + 1 + len(OFFSETS) * (1 + COMPARED)


def said(probabilities: Logits) -> list[Comparison]:
    """What the confidences say without naming a class."""
    likeliest, classes = probabilities.topk(min(LIKELIEST, probabilities.shape[1]), dim=1)
    likeliest = F.pad(likeliest, (0, 0, 0, 0, 0, LIKELIEST - likeliest.shape[1]))
    sureness = probabilities.square().sum(dim=1, keepdim=True)
    return [likeliest, sureness, *compared(probabilities, classes[:, :COMPARED])]


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
