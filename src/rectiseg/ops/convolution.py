"""Convolutions with batch norm as they are fastest where nothing is learned."""

import torch
from torch import Tensor, nn

from rectiseg.ops.kernels import merely_answers

EXACT = (torch.float32, torch.float64)
"""Precisions in which weights lose nothing by being multiplied with the norm's."""


def normalized(features: Tensor, convolution: nn.Conv2d, norm: nn.Module) -> Tensor:
    """``norm(convolution(features))``: on a CPU where nothing is learned by one convolution, the same but for rounding.

    A batch norm by itself reads and writes all features once more. Neither module is called then, nor its hooks.
    """
    assert isinstance(norm, nn.BatchNorm2d | nn.SyncBatchNorm)
    if norm.training or not (features.dtype in EXACT and merely_answers(features)):
        return norm(convolution(features))
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    mean = norm.running_mean if convolution.bias is None else norm.running_mean - convolution.bias
    weight = convolution.weight * scale.view(-1, 1, 1, 1)
    return convolution._conv_forward(features, weight, norm.bias - mean * scale)


def laid_out(image: Tensor) -> Tensor:
    """The image in the layout in which a CPU convolves fastest, channels_last, where nothing is learned.

    What follows keeps the layout. Training is no faster in it.
    """
    return image.contiguous(memory_format=torch.channels_last) if merely_answers(image) else image
