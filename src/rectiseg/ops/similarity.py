"""How alike a pixel and its m x m neighbours are, and neighbourhoods whose pixels lie several apart."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from rectiseg.ops import propagate_cpu
from rectiseg.ops.kernels import exporting
from rectiseg.types import Coefficients

Features = Float[Tensor, "batch features height width"]


def apart(operator: Callable[..., Tensor], dilation: int, *maps: Tensor) -> Tensor:
    """What an operator of neighbourhoods makes of maps (B, C, H, W) if neighbours lie so many pixels apart.

    Pixels so far apart in rows and columns make an image of their own, dilation^2 of them, whose sides are
    the maps' over the dilation, rounded up; beyond its border the image is continued with zeros.
    """
    if dilation == 1:
        return operator(*maps)
    batch, _, height, width = maps[0].shape
    # Not by floor division of negative numbers, which ONNX rounds the other way.
    rows, columns = (height + dilation - 1) // dilation, (width + dilation - 1) // dilation

    def phases(tensor: Tensor) -> Tensor:
        continued = F.pad(tensor, (0, columns * dilation - width, 0, rows * dilation - height))
        cells = continued.view(batch, -1, rows, dilation, columns, dilation).permute(0, 3, 5, 1, 2, 4)
        return cells.reshape(batch * dilation**2, -1, rows, columns)

    result = operator(*map(phases, maps)).view(batch, dilation, dilation, -1, rows, columns)
    return result.permute(0, 3, 4, 1, 5, 2).reshape(batch, -1, rows * dilation, columns * dilation)[
        ..., :height, :width
    ]


def squared_distances(features: Features, side: int, dilation: int = 1) -> Coefficients:
    """Of every pixel's features to each of its m x m neighbours', so many pixels apart, row by row from the top left.

    Beyond the border of the image features are zero.
    """
    length = features.square().sum(dim=1, keepdim=True)
    products = similarities(features, side, dilation)
    return (length + torch.cat(neighbors(length, side, dilation), dim=1) - 2 * products).clamp(min=0)


def similarities(features: Features, side: int, dilation: int = 1) -> Coefficients:
    """The products of every pixel's features with each of its neighbours', summed."""
    if features.device.type == "cpu" and not exporting():
        return apart(partial(_similarities, side=side), dilation, features)
    products = [(features * neighbor).sum(dim=1, keepdim=True) for neighbor in neighbors(features, side, dilation)]
    return torch.cat(products, dim=1)


def neighbors(maps: Tensor, side: int, dilation: int = 1) -> list[Tensor]:
    height, width = maps.shape[-2:]
    continued = F.pad(maps, (side // 2 * dilation,) * 4)
    offsets = range(0, side * dilation, dilation)
    rows = [continued[..., down : down + height, :] for down in offsets]
    return [row[..., right : right + width] for row in rows for right in offsets]


@torch.library.custom_op("rectiseg::similarities", mutates_args=(), device_types="cpu")
def _similarities(features: Tensor, side: int) -> Tensor:
    return propagate_cpu.coefficients_gradient(features, features, side * side)


@torch.library.custom_op("rectiseg::similarities_gradient", mutates_args=(), device_types="cpu")
def _gradient(gradient: Tensor, features: Tensor) -> Tensor:
    """A pixel's features are multiplied with its neighbours', and are its neighbours' neighbours' themselves."""
    return propagate_cpu.forward(features, gradient) + propagate_cpu.logits_gradient(features, gradient)


@_similarities.register_fake
def _(features: Tensor, side: int) -> Tensor:
    return features.new_empty((features.shape[0], side * side, *features.shape[2:]))


@_gradient.register_fake
def _(gradient: Tensor, features: Tensor) -> Tensor:
    return features.new_empty(features.shape)


def _keep_inputs(ctx: Any, inputs: tuple[Tensor, int], output: Tensor) -> None:
    ctx.save_for_backward(inputs[0])


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
    (features,) = ctx.saved_tensors
    return _gradient(gradient.contiguous(), features), None


_similarities.register_autograd(_backward, setup_context=_keep_inputs)
