"""Eq. 5: every pixel's confidences become the weighted mean of its m x m neighbours'.

`propagate` chooses the implementation: a numba kernel on a CPU, plain torch elsewhere and while a graph is exported.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from rectiseg.ops import propagate_cpu
from rectiseg.ops.kernels import exporting
from rectiseg.types import Coefficients, Logits


def propagate(logits: Logits, coefficients: Coefficients) -> Logits:
    """Eq. 5. Neighbours outside the image count as zeros.

    The p-th coefficient of a pixel weighs its p-th neighbour, row by row from the top left; all classes share it.
    Sizes or types that differ, or coefficients of no m x m neighbourhood, raise ValueError.
    """
    check(logits, coefficients)
    if logits.device.type == "cpu" and not exporting():
        return _propagate(logits, coefficients)
    return propagate_reference(logits, coefficients)


def propagate_reference(logits: Logits, coefficients: Coefficients) -> Logits:
    """Eq. 5 as it is written, one neighbour after another."""
    height, width = logits.shape[-2:]
    side = neighborhood_of(coefficients)
    padded = F.pad(logits, (side // 2,) * 4)
    refined = torch.zeros_like(logits)
    for index in range(side * side):
        down, right = divmod(index, side)
        neighbor = padded[..., down : down + height, right : right + width]
        refined = refined + coefficients[:, index : index + 1] * neighbor
    return refined


def mask_border(scores: Coefficients, dilation: int = 1) -> Coefficients:
    """Before Eq. 4's softmax: no weight for neighbours, so many pixels apart, that lie outside the image."""
    height, width = scores.shape[-2:]
    side = neighborhood_of(scores)
    offset = dilation * (torch.arange(side, device=scores.device) - side // 2)
    row = torch.arange(height, device=scores.device) + offset[:, None]  # (side, height)
    column = torch.arange(width, device=scores.device) + offset[:, None]  # (side, width)
    row_inside, column_inside = (row >= 0) & (row < height), (column >= 0) & (column < width)
    inside = row_inside[:, None, :, None] & column_inside[None, :, None, :]  # (side, side, height, width)
    return scores.masked_fill(~inside.reshape(side * side, height, width), -torch.inf)


def neighborhood_of(coefficients: Coefficients) -> int:
    """The side m of the neighbourhood."""
    side = math.isqrt(coefficients.shape[1])
    if side * side != coefficients.shape[1] or side % 2 == 0:
        raise ValueError(f"{coefficients.shape[1]} coefficients a pixel are not an m x m neighbourhood with an odd m")
    return side


def check(logits: Tensor, coefficients: Tensor) -> None:
    same = ("batch", "height", "width")
    sizes = tuple((tensor.shape[0], *tensor.shape[2:]) for tensor in (logits, coefficients))
    if sizes[0] != sizes[1]:
        raise ValueError(f"logits and coefficients differ in {', '.join(same)}: {sizes[0]} and {sizes[1]}")
    if logits.dtype != coefficients.dtype:
        raise ValueError(f"logits are {logits.dtype} and coefficients {coefficients.dtype}: cast one of them")
    neighborhood_of(coefficients)


@torch.library.custom_op("rectiseg::propagate", mutates_args=(), device_types="cpu")
def _propagate(logits: Tensor, coefficients: Tensor) -> Tensor:
    return propagate_cpu.forward(logits, coefficients)


@torch.library.custom_op("rectiseg::propagate_logits_gradient", mutates_args=(), device_types="cpu")
def _logits_gradient(gradient: Tensor, coefficients: Tensor) -> Tensor:
    return propagate_cpu.logits_gradient(gradient, coefficients)


@torch.library.custom_op("rectiseg::propagate_coefficients_gradient", mutates_args=(), device_types="cpu")
def _coefficients_gradient(gradient: Tensor, logits: Tensor, neighbors: int) -> Tensor:
    return propagate_cpu.coefficients_gradient(gradient, logits, neighbors)


@_propagate.register_fake
def _(logits: Tensor, coefficients: Tensor) -> Tensor:
    return logits.new_empty(logits.shape)


@_logits_gradient.register_fake
def _(gradient: Tensor, coefficients: Tensor) -> Tensor:
    return gradient.new_empty(gradient.shape)


@_coefficients_gradient.register_fake
def _(gradient: Tensor, logits: Tensor, neighbors: int | torch.SymInt) -> Tensor:
    return logits.new_empty((logits.shape[0], neighbors, *logits.shape[2:]))


def _keep_inputs(ctx, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
    logits, coefficients = ctx.saved_tensors
    wants_logits, wants_coefficients = ctx.needs_input_grad
    return (
        _logits_gradient(gradient, coefficients) if wants_logits else None,
        _coefficients_gradient(gradient, logits, coefficients.shape[1]) if wants_coefficients else None,
    )


_propagate.register_autograd(_backward, setup_context=_keep_inputs)
