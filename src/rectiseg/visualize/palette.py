"""Colours of classes: a palette for any number of them, and label maps in their colours."""

import numpy as np
from jaxtyping import Float, Integer, UInt8
from torch import Tensor

from rectiseg.types import IGNORE_INDEX

OneImage = Float[Tensor, "3 height width"]
OneLabelMap = Integer[np.ndarray, "height width"]
Palette = UInt8[np.ndarray, "classes 3"]
Pixels = UInt8[np.ndarray, "height width 3"]


def default_palette(num_classes: int) -> Palette:
    """Colours that the eye tells apart: each one is the farthest, in OKLab, from grey and all before it.

    A shorter palette is the beginning of a longer one.
    """
    levels = np.arange(0, 256, 17)
    colors = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(-1, 3)
    points = oklab(colors)
    lightness, chroma = points[:, 0], np.linalg.norm(points[:, 1:], axis=1)
    pleasant = (lightness > 0.45) & (lightness < 0.93) & (chroma < 0.23)  # neither black, nor white, nor glaring
    colors, points = colors[pleasant], points[pleasant]
    if not 0 < num_classes <= len(colors):
        raise ValueError(f"a default palette has 1 to {len(colors)} colours, not {num_classes}; give your own")
    distance = separation(points, np.array([0.7, 0.0, 0.0]))
    chosen = []
    for _ in range(num_classes):
        chosen.append(int(distance.argmax()))
        distance = np.minimum(distance, separation(points, points[chosen[-1]]))
    return colors[chosen].astype(np.uint8)


def colorize(labels: OneLabelMap, palette: Palette) -> Pixels:
    """IGNORE_INDEX is black."""
    ignored = labels == IGNORE_INDEX
    known = np.where(ignored, 0, labels)
    if known.size and not 0 <= known.min() <= known.max() < len(palette):
        raise ValueError(f"labels {known.min()}..{known.max()} are outside the palette's 0..{len(palette) - 1}")
    colors = palette[known]
    colors[ignored] = 0
    return colors


def to_pixels(image: OneImage) -> Pixels:
    return (image.detach().cpu().clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()


def separation(points: Float[np.ndarray, "points 3"], point: Float[np.ndarray, "3"]) -> Float[np.ndarray, "points"]:
    return np.linalg.norm(points - point, axis=1)


def oklab(colors: Integer[np.ndarray, "colors 3"]) -> Float[np.ndarray, "colors 3"]:
    """sRGB to OKLab (Ottosson, 2020), where distances are about as large as they look."""
    channels = colors / 255
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    to_cones = [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
    from_cones = [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
    return np.cbrt(linear @ np.transpose(to_cones)) @ np.transpose(from_cones)
