"""Eq. 5: every pixel's confidences become the weighted mean of its m x m neighbours', and Eq. 4 fused with it.

`propagate_scores` chooses the implementation, or takes the one that is named: numba kernels on a CPU, Triton's on a
GPU, plain torch elsewhere and while a graph is exported. `propagate` has none for a GPU.
"""

import math
from importlib.util import find_spec
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from rectiseg.ops import propagate_cpu
from rectiseg.ops.kernels import exporting
from rectiseg.ops.similarity import apart, neighbors
from rectiseg.types import Coefficients, Logits

Border = Literal["masked", "zeros"]
Kernel = Literal["cpu", "triton", "reference"]

DEVICES: dict[Kernel, str] = {"cpu": "cpu", "triton": "cuda"}
"""The kernels that work on one only."""

HAS_TRITON = find_spec("triton") is not None
"""It comes with torch for CUDA."""


def propagate(logits: Logits, coefficients: Coefficients) -> Logits:
    """Eq. 5. Neighbours outside the image count as zeros.

    The p-th coefficient of a pixel weighs its p-th neighbour, row by row from the top left; all classes share it.
    Sizes or types that differ, or coefficients of no m x m neighbourhood, raise ValueError.
    """
    check(logits, coefficients)
    if logits.device.type == "cpu" and not exporting():
        return _propagate(logits, coefficients)
    return propagate_reference(logits, coefficients)


def propagate_scores(
    logits: Logits, scores: Coefficients, border: Border = "masked", kernel: Kernel | None = None, dilation: int = 1
) -> Logits:
    """Eq. 5 with Eq. 4's coefficients, the softmax of the scores, which are never all in memory.

    Neighbours lie ``dilation`` pixels apart. Those outside the image get no weight, or with ``border="zeros"`` count as
    zeros. Without a kernel's name, `kernel_for` chooses it. Sizes or types that differ, scores of no m x m
    neighbourhood, an unknown border, and a kernel that cannot work on these tensors raise ValueError.
    """
    check(logits, scores)
    refuse_unknown("border", border, Border)
    if kernel is None:
        kernel = kernel_for(logits)
    elif reason := refusal(kernel, logits):
        raise ValueError(f"kernel={kernel!r} {reason}; kernel=None takes {kernel_for(logits)!r}")
    if kernel == "reference":
        return propagate_scores_reference(logits, scores, border, dilation)
    if dilation == 1:
        return _propagate_scores(logits, scores, border == "masked")[0]
    scores = mask_border(scores, dilation) if border == "masked" else scores
    return apart(lambda *maps: _propagate_scores(*maps, False)[0], dilation, logits, scores)


def kernel_for(logits: Tensor) -> Kernel:
    """What `propagate_scores` takes for tensors like these: the device's own kernel, where that can work on them."""
    for kernel in DEVICES:
        if refusal(kernel, logits) is None:
            return kernel
    return "reference"


def refusal(kernel: Kernel, logits: Tensor) -> str | None:
    """Why the kernel cannot work on tensors like these; the reference can always."""
    if kernel == "reference":
        return None
    if kernel not in DEVICES:
        return f"is none of {', '.join(get_args(Kernel))}"
    if exporting():
        return "cannot be recorded in a graph for elsewhere"
    if logits.device.type != DEVICES[kernel]:
        return f"needs tensors on the device {DEVICES[kernel]}, not on {logits.device.type}"
    if kernel == "triton" and logits.dtype == torch.float64:
        return "computes in float32 and would lose float64's precision"
    if kernel == "triton" and not HAS_TRITON:
        return "needs the package triton, which is not installed"
    return None


def coefficients_of(scores: Coefficients, border: Border = "masked", dilation: int = 1) -> Coefficients:
    """Eq. 4."""
    return (mask_border(scores, dilation) if border == "masked" else scores).softmax(dim=1)


def propagate_reference(logits: Logits, coefficients: Coefficients, dilation: int = 1) -> Logits:
    """Eq. 5 as it is written, one neighbour after another."""
    refined = torch.zeros_like(logits)
    around = neighbors(logits, neighborhood_of(coefficients), dilation)
    for coefficient, neighbor in zip(coefficients.split(1, dim=1), around, strict=True):
        refined = refined + coefficient * neighbor
    return refined


def propagate_scores_reference(
    logits: Logits, scores: Coefficients, border: Border = "masked", dilation: int = 1
) -> Logits:
    """Eq. 4 and Eq. 5, one after the other."""
    return propagate_reference(logits, coefficients_of(scores, border, dilation), dilation)


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


def refuse_unknown(name: str, value: str, known: Any) -> None:
    """Raise ValueError for a value that the Literal does not have."""
    if value not in get_args(known):
        raise ValueError(f"{name}={value!r} is none of {', '.join(get_args(known))}")


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


@torch.library.custom_op("rectiseg::propagate_scores", mutates_args=(), device_types="cpu")
def _propagate_scores(logits: Tensor, scores: Tensor, masked: bool) -> tuple[Tensor, Tensor]:
    """The refined logits, and statistics of the softmax for the gradients."""
    statistics = empty_statistics(logits)
    return propagate_cpu.forward(logits, scores, statistics, masked), statistics


@torch.library.custom_op("rectiseg::propagate_scores_logits_gradient", mutates_args=(), device_types="cpu")
def _scores_logits_gradient(gradient: Tensor, scores: Tensor, statistics: Tensor) -> Tensor:
    return propagate_cpu.logits_gradient(gradient, scores, statistics)


@torch.library.custom_op("rectiseg::propagate_scores_gradient", mutates_args=(), device_types="cpu")
def _scores_gradient(gradient: Tensor, logits: Tensor, scores: Tensor, statistics: Tensor, masked: bool) -> Tensor:
    return propagate_cpu.coefficients_gradient(gradient, logits, scores.shape[1], scores, statistics, masked)


@_propagate_scores.register_kernel("cuda")
def _(logits: Tensor, scores: Tensor, masked: bool) -> tuple[Tensor, Tensor]:
    from rectiseg.ops import propagate_triton

    statistics = empty_statistics(logits)
    with torch.cuda.device(logits.device):  # Triton launches on the current one
        return propagate_triton.forward(logits, scores, statistics, masked), statistics


@_scores_logits_gradient.register_kernel("cuda")
def _(gradient: Tensor, scores: Tensor, statistics: Tensor) -> Tensor:
    from rectiseg.ops import propagate_triton

    with torch.cuda.device(gradient.device):  # Triton launches on the current one
        return propagate_triton.logits_gradient(gradient, scores, statistics)


@_scores_gradient.register_kernel("cuda")
def _(gradient: Tensor, logits: Tensor, scores: Tensor, statistics: Tensor, masked: bool) -> Tensor:
    from rectiseg.ops import propagate_triton

    with torch.cuda.device(gradient.device):  # Triton launches on the current one
        return propagate_triton.scores_gradient(gradient, logits, scores, statistics, masked)


def empty_statistics(logits: Tensor) -> Tensor:
    """(batch, 2, height, width): a pixel's largest score, and the reciprocal of the sum of its exponentials."""
    batch, _, height, width = logits.shape
    return logits.new_empty((batch, 2, height, width), dtype=torch.promote_types(logits.dtype, torch.float32))


@_propagate_scores.register_fake
def _(logits: Tensor, scores: Tensor, masked: bool) -> tuple[Tensor, Tensor]:
    return logits.new_empty(logits.shape), empty_statistics(logits)


@_scores_logits_gradient.register_fake
def _(gradient: Tensor, scores: Tensor, statistics: Tensor) -> Tensor:
    return gradient.new_empty(gradient.shape)


@_scores_gradient.register_fake
def _(gradient: Tensor, logits: Tensor, scores: Tensor, statistics: Tensor, masked: bool) -> Tensor:
    return scores.new_empty(scores.shape)


def _keep_statistics(ctx, inputs: tuple[Tensor, Tensor, bool], output: tuple[Tensor, Tensor]) -> None:
    logits, scores, ctx.masked = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(logits, scores, output[1])


def _backward_of_scores(ctx, gradient: Tensor, _: Tensor | None) -> tuple[Tensor | None, Tensor | None, None]:
    logits, scores, statistics = ctx.saved_tensors
    wants_logits, wants_scores, _ = ctx.needs_input_grad
    return (
        _scores_logits_gradient(gradient, scores, statistics) if wants_logits else None,
        _scores_gradient(gradient, logits, scores, statistics, ctx.masked) if wants_scores else None,
        None,
    )


_propagate_scores.register_autograd(_backward_of_scores, setup_context=_keep_statistics)
