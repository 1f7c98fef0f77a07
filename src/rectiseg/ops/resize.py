"""Images and maps at another size."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


def scaled(size: torch.Size | tuple[int, int], scale: float) -> tuple[int, int]:
    """Height and width times the scale, in whole pixels and at least one."""
    height, width = size
    return max(1, round(height * scale)), max(1, round(width * scale))


def resized(
    maps: Float[Tensor, "batch bands height width"], size: torch.Size | tuple[int, int]
) -> Float[Tensor, "batch bands _ _"]:
    """Bilinear, averaged where it shrinks, edges on edges; maps of the wanted size come back as they are."""
    if maps.shape[-2:] == size:
        return maps
    return F.interpolate(maps, size, mode="bilinear", align_corners=False, antialias=True)
