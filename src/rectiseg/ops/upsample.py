"""Bilinear upsampling of coarse confidence maps that knows where their cells lie in the image."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from rectiseg.types import Logits

Side = int | torch.SymInt
"""A height or width, which is a symbol while a graph for any size is recorded."""

CoarseLogits = Float[Tensor, "batch classes rows columns"]
"""A classifier's scores before their upsampling: one cell for stride x stride pixels."""


def bilinear_kernel(channels: int, stride: int, center: float) -> Tensor:
    """A deconvolution's kernel, (channels, 1, 2 * stride, 2 * stride), for cells centred on stride * i + center.

    At stride 8 a center of 3.5 gives the usual kernel 16, stride 8, padding 4.
    """
    pixel = first_pixel(stride, center) + torch.arange(2 * stride)
    profile = (1 - (pixel - center).abs() / stride).clamp(min=0)
    return torch.outer(profile, profile).expand(channels, 1, -1, -1).clone()


def upsample(scores: CoarseLogits, kernel: Tensor, stride: int, center: float, height: Side, width: Side) -> Logits:
    """Deconvolve scores of one cell per stride x stride pixels and cut the result to height x width pixels.

    Beyond the outermost cells their scores are continued.
    """
    continued = F.pad(scores, (1, 1, 1, 1), mode="replicate")
    pixels = F.conv_transpose2d(continued, kernel, stride=stride, groups=kernel.shape[0])
    start = stride - first_pixel(stride, center)
    return pixels[..., start : start + height, start : start + width]


def first_pixel(stride: int, center: float) -> int:
    """The first pixel that cell 0 can reach."""
    return math.floor(center) - (stride - 1)
