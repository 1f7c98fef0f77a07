"""Depthwise convolution whose training is fast on a CPU.

PyTorch's CPU backward of a (dilated) depthwise convolution takes far longer than its forward pass. Here the input's
gradient is a forward convolution with the mirrored kernel, and the weight's is one dot product a tap and channel.
"""

from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from rectiseg.ops.kernels import compiled, exporting, in_parallel

CPU_REACH = 4
"""Pixels to each side up to which PyTorch's CPU kernel is fast; beyond it takes another, slow one."""


def depthwise_conv2d(input: Tensor, weight: Tensor, dilation: int = 1, bias: Tensor | None = None) -> Tensor:
    """Convolve every channel with its own odd kernel, at stride 1 and zero-padded to the input's size.

    Shapes: input and result (batch, channels, height, width), weight (channels, 1, size, size), bias (channels).
    """
    if not trains_on_cpu(input, weight):
        return _convolve(input, weight, dilation, bias)
    assert bias is None, "where something is learned the batch norm after it has the bias"
    return _DepthwiseConv2d.apply(input, weight, dilation)  # pyright: ignore[reportReturnType]


def trains_on_cpu(*tensors: Tensor) -> bool:
    wanted = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
    return wanted and all(tensor.device.type == "cpu" and tensor.dtype == torch.float32 for tensor in tensors)


def _convolve(input: Tensor, weight: Tensor, dilation: int, bias: Tensor | None = None) -> Tensor:
    reach = dilation * (weight.shape[-1] // 2)
    if dilation > 1 and reach > CPU_REACH and input.device.type == "cpu" and not exporting():
        return _convolve_phases(input, weight, dilation, bias)
    return F.conv2d(input, weight, bias, 1, reach, dilation, groups=weight.shape[0])


def _convolve_phases(input: Tensor, weight: Tensor, dilation: int, bias: Tensor | None) -> Tensor:
    """The same, undilated: every dilation-th pixel forms an image of its own, in the layout of the whole."""
    batch, channels, height, width = input.shape
    rows, columns = -(-height // dilation), -(-width // dilation)
    last = input.is_contiguous(memory_format=torch.channels_last) and not input.is_contiguous()
    layout = torch.channels_last if last else torch.contiguous_format
    whole = F.pad(input, (0, columns * dilation - width, 0, rows * dilation - height)).contiguous(memory_format=layout)
    size = (batch * dilation**2, channels, rows, columns)
    phases = torch.empty(size, dtype=input.dtype, device=input.device, memory_format=layout)
    in_whole = whole.unflatten(3, (columns, dilation)).unflatten(2, (rows, dilation)).permute(0, 3, 5, 1, 2, 4)
    phases.unflatten(0, (batch, dilation, dilation)).copy_(in_whole)
    in_whole.copy_(_convolve(phases, weight, 1, bias).unflatten(0, (batch, dilation, dilation)))
    return whole[:, :, :height, :width]


class _DepthwiseConv2d(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor, weight: Tensor, dilation: int) -> Tensor:
        ctx.save_for_backward(input, weight)
        ctx.dilation = dilation
        return _convolve(input, weight, dilation)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        return _gradients(ctx, *grad_outputs)


@torch.autograd.function.once_differentiable
def _gradients(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
    input, weight = ctx.saved_tensors
    wants_input, wants_weight, _ = ctx.needs_input_grad
    return (
        _convolve(gradient, weight.flip(2, 3), ctx.dilation) if wants_input else None,
        weight_gradient(input, gradient, weight.shape[-1], ctx.dilation) if wants_weight else None,
        None,
    )


def weight_gradient(input: Tensor, gradient: Tensor, size: int, dilation: int) -> Tensor:
    """The (channels, 1, size, size) gradient of `depthwise_conv2d`'s weight."""
    padding = dilation * (size // 2)
    padded = F.pad(input, (padding, padding, padding, padding + 1)).contiguous()  # one row more: the last tap's tail
    gradient = F.pad(gradient, (0, 2 * padding)).contiguous()  # equal row lengths: rows can be read as one
    result = np.empty((input.shape[1], 1, size, size), np.float32)
    batch, channels = input.shape[:2]
    in_parallel(
        partial(
            _weight_gradient,
            padded.numpy().reshape(batch, channels, -1),
            gradient.detach().numpy().reshape(batch, channels, -1),
            padded.shape[-1],
            dilation,
            result,
        ),
        channels,
    )
    return torch.from_numpy(result)


@compiled("contract", "reassoc", "nsz")
def _weight_gradient(
    planes: np.ndarray, gradients: np.ndarray, row: int, dilation: int, result: np.ndarray, first: int, last: int
) -> None:
    size, length = result.shape[2], gradients.shape[2]
    for channel in range(first, last):
        for vertical in range(size):
            for horizontal in range(size):
                start = dilation * (vertical * row + horizontal)
                total = np.float32(0)
                for image in range(planes.shape[0]):
                    gradient = gradients[image, channel]
                    shifted = planes[image, channel, start : start + length]
                    for index in range(length):
                        total += gradient[index] * shifted[index]
                result[channel, 0, vertical, horizontal] = total
