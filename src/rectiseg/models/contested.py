"""LRN only where it can change a label.

Eq. 5 is a weighted mean. Where all pixels of an m x m window are likeliest of one class, that class is the likeliest of
their mean too, whatever the weights: no label can change there. The others are contested, and the convolutions are only
evaluated for them, each on the pixels that the next one looks at.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from rectiseg.models.lrn import LRN
from rectiseg.ops.likeliest import likeliest
from rectiseg.types import Image, LabelMap, Logits

Pixels = Bool[Tensor, "height width"]
Places = Int64[Tensor, "places"]
"""Which rows are these pixels', where every pixel has one, line by line, those of a border around the image too."""

AT_A_TIME, MEANS_AT_A_TIME = 1024, 8192
"""Pixels whose windows are gathered together, and whose means are taken: few enough for a processor's cache."""


@dataclass(frozen=True)
class Convolution:
    """A 3x3 convolution with its batch norm, as one matrix product."""

    weight: Float[Tensor, "inputs outputs"]
    bias: Float[Tensor, "outputs"]
    rectified: bool


def label_map(lrn: LRN, image: Image, logits: Logits) -> LabelMap:
    """The likeliest class of ``lrn(image, logits)``, but for ties within rounding.

    Coefficients that are not numbers, as those of damaged weights, raise ValueError.
    """
    with torch.inference_mode():
        return torch.stack([label_map_of_one(lrn, *sample) for sample in zip(image, logits, strict=True)])


def contested(labels: Int64[Tensor, "height width"], neighborhood: int) -> Pixels:
    """Where a pixel's m x m window, as far as it lies in the image, holds more than one label.

    Then it holds two neighbours whose labels differ.
    """
    radius = neighborhood // 2
    beside = F.pad(labels[:, 1:] != labels[:, :-1], (0, 1))  # at the left one of the two
    below = F.pad(labels[1:] != labels[:-1], (0, 0, 0, 1))
    if radius == 0:
        return torch.zeros_like(beside)
    across = grown(grown(beside, 1, radius - 1, radius), 0, radius, radius)
    down = grown(grown(below, 0, radius - 1, radius), 1, radius, radius)
    return across | down


def grown(pixels: Pixels, dimension: int, before: int, after: int) -> Pixels:
    """And all pixels that are so far or less before and after one of these along a dimension."""
    length = pixels.shape[dimension]
    result = pixels.clone()
    for step in range(1, min(max(before, after), length - 1) + 1):
        if step <= before:
            result.narrow(dimension, 0, length - step).logical_or_(pixels.narrow(dimension, step, length - step))
        if step <= after:
            result.narrow(dimension, step, length - step).logical_or_(pixels.narrow(dimension, 0, length - step))
    return result


def label_map_of_one(
    lrn: LRN, image: Float[Tensor, "3 height width"], logits: Float[Tensor, "classes height width"]
) -> Int64[Tensor, "height width"]:
    labels = likeliest(logits, dim=0)
    wanted = contested(labels, lrn.neighborhood)
    if not wanted.any():
        return labels
    layers = list(convolutions(lrn))
    seen, *evaluated = nested(wanted, 1 + len(layers))
    rows = gathered(lrn.evidence(image[None], logits[None])[0], seen)
    for pixels, layer in zip(evaluated, layers, strict=True):
        rows, seen = convolved(rows, seen, pixels, layer), pixels
    scores = rows[1:]
    if scores.isnan().any():
        raise ValueError("LRN's coefficients are not numbers (NaN); check its weights")
    labels[wanted] = propagated(lrn, logits, wanted, scores)
    return labels


def nested(wanted: Pixels, layers: int) -> list[Pixels]:
    """The pixels at which the last layer is evaluated, before them those that it looks at, and so on."""
    result = [wanted]
    for _ in range(layers - 1):
        result.append(grown(grown(result[-1], 0, 1, 1), 1, 1, 1))
    return result[::-1]


def convolutions(lrn: LRN) -> Iterator[Convolution]:
    """The body's layers and the head."""
    modules = iter(lrn.body)
    for convolution, norm, _ in zip(modules, modules, modules, strict=True):
        assert isinstance(convolution, nn.Conv2d)
        assert isinstance(norm, nn.BatchNorm2d)
        fused = nn.utils.fuse_conv_bn_eval(convolution, norm)
        yield Convolution(as_matrix(fused), bias_of(fused), rectified=True)
    yield Convolution(as_matrix(lrn.head), bias_of(lrn.head), rectified=False)


def as_matrix(convolution: nn.Conv2d) -> Float[Tensor, "inputs outputs"]:
    """Inputs are in the order of a window's pixels, row by row, and of the channels in each."""
    return convolution.weight.permute(2, 3, 1, 0).flatten(0, 2).contiguous()


def bias_of(convolution: nn.Conv2d) -> Float[Tensor, "outputs"]:
    assert convolution.bias is not None
    return convolution.bias


def gathered(maps: Float[Tensor, "channels height width"], pixels: Pixels) -> Float[Tensor, "rows channels"]:
    """Zeros, which lie beyond the image, and a row for each of these pixels, line by line."""
    values = maps.flatten(1).index_select(1, pixels.flatten().nonzero()[:, 0]).t()
    return torch.cat([values.new_zeros(1, len(maps)), values])


def convolved(
    rows: Float[Tensor, "rows inputs"], seen: Pixels, pixels: Pixels, layer: Convolution
) -> Float[Tensor, "results outputs"]:
    """The layer's rows for these pixels, from those for the pixels that it looks at."""
    window = offsets(3, pixels.shape[1] + 2).to(rows.device)
    row_of = torch.zeros((pixels.shape[0] + 2) * (pixels.shape[1] + 2), dtype=torch.int64, device=rows.device)
    row_of[places_of(seen, 1)] = torch.arange(1, len(rows), device=rows.device)
    places = places_of(pixels, 1)
    result = rows.new_zeros(1 + len(places), len(layer.bias))
    for some, values in zip(places.split(AT_A_TIME), result[1:].split(AT_A_TIME), strict=True):
        around = row_of.index_select(0, (some[:, None] + window).flatten())
        torch.addmm(layer.bias, rows.index_select(0, around).view(len(some), -1), layer.weight, out=values)
        if layer.rectified:
            values.relu_()
    return result


def propagated(
    lrn: LRN, logits: Float[Tensor, "classes height width"], pixels: Pixels, scores: Float[Tensor, "wanted neighbors"]
) -> Int64[Tensor, "wanted"]:
    """Eq. 4 and 5 at these pixels: the likeliest class there."""
    radius = lrn.neighborhood // 2
    width = pixels.shape[1] + 2 * radius
    inside = as_rows(torch.ones_like(logits[:1]), radius)[:, 0] > 0
    rows = as_rows(logits if lrn.propagates == "logits" else logits.softmax(dim=0), radius)
    window = offsets(lrn.neighborhood, width).to(rows.device)
    labels = []
    parts = (places_of(pixels, radius).split(MEANS_AT_A_TIME), scores.split(MEANS_AT_A_TIME))
    for places, some in zip(*parts, strict=True):
        if lrn.border == "masked":
            some = some.masked_fill(~inside[places[:, None] + window], -torch.inf)
        weights = some.softmax(dim=1)
        mean = rows.new_zeros(len(places), len(logits))
        for neighbor, weight in zip(window, weights.unbind(dim=1), strict=True):
            mean.addcmul_(weight[:, None], rows.index_select(0, places + neighbor))
        labels.append(mean.argmax(dim=1))
    return torch.cat(labels)


def as_rows(maps: Float[Tensor, "channels height width"], margin: int) -> Float[Tensor, "padded channels"]:
    """A row a pixel, with a border of zeros around the image."""
    return F.pad(maps, (margin,) * 4).permute(1, 2, 0).flatten(0, 1).contiguous()


def places_of(pixels: Pixels, margin: int) -> Places:
    """The rows of these pixels."""
    return F.pad(pixels, (margin,) * 4).flatten().nonzero()[:, 0]


def offsets(side: int, width: int) -> Int64[Tensor, "window"]:
    """From a pixel's row to those of the window around it, where a line of pixels has so many rows."""
    steps = torch.arange(side) - side // 2
    return (width * steps[:, None] + steps).flatten()


def multiply_adds(lrn: LRN, wanted: Pixels, num_classes: int) -> int:
    """Of one image's convolutions and weighted means, evaluated for these pixels."""
    layers = list(convolutions(lrn))
    convolving = sum(
        int(pixels.sum()) * layer.weight.numel()
        for pixels, layer in zip(nested(wanted, len(layers)), layers, strict=True)
    )
    return convolving + int(wanted.sum()) * lrn.neighborhood**2 * num_classes
