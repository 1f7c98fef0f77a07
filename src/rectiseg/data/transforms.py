"""Joint scale, flip and crop of an image, its labels and, for a refiner, its confidence maps."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Generator, Tensor

from rectiseg.ops.resize import resized, scaled
from rectiseg.types import IGNORE_INDEX

OneImage = Float[Tensor, "3 height width"]
OneLabelMap = Int[Tensor, "height width"]
OneLogits = Float[Tensor, "classes height width"]

DISPLACED_TOGETHER = 24
"""Pixels: how far apart boundaries are off differently."""

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601: how bright red, green and blue appear

# At the size of the view or of the crop.
ViewedImage = Float[Tensor, "3 rows columns"]
ViewedLabelMap = Int[Tensor, "rows columns"]
ViewedLogits = Float[Tensor, "classes rows columns"]


def draw(choices: tuple[float, ...], generator: Generator) -> float:
    return choices[int(torch.randint(len(choices), (), generator=generator))]


def coin(generator: Generator) -> bool:
    return bool(torch.randint(2, (), generator=generator))


def view_image(image: OneImage, scale: float, flip: bool) -> ViewedImage:
    """The image at another scale, and mirrored: what a front sees when its output for this view is stored."""
    image = resized(image[None], scaled(image.shape[-2:], scale))[0].clamp(0, 1)
    return image.flip(-1) if flip else image


def view_labels(labels: OneLabelMap, scale: float, flip: bool) -> ViewedLabelMap:
    """The label map that belongs to `view_image` of the same scale and flip."""
    if scale != 1:
        size = scaled(labels.shape[-2:], scale)
        labels = F.interpolate(labels[None, None].to(torch.uint8), size, mode="nearest-exact")[0, 0].long()
    return labels.flip(-1) if flip else labels


def jittered(image: OneImage, amount: float, generator: Generator) -> OneImage:
    """Brightness, contrast and saturation, each multiplied by a random factor in 1 - amount .. 1 + amount."""
    brightness, contrast, saturation = (1 + amount * (2 * torch.rand(3, generator=generator) - 1)).tolist()
    image = image * brightness
    image = image.mean() + contrast * (image - image.mean())
    grey = (image * torch.tensor(LUMA).view(3, 1, 1)).sum(dim=0, keepdim=True)
    return (grey + saturation * (image - grey)).clamp(0, 1)


def random_crop(
    image: OneImage, labels: OneLabelMap, logits: OneLogits | None, size: tuple[int, int], generator: Generator
) -> tuple[ViewedImage, ViewedLabelMap, ViewedLogits | None]:
    """The same random window of all three; what is smaller than the window is padded and ignored there."""
    height, width = labels.shape
    down, right = max(size[0] - height, 0), max(size[1] - width, 0)
    if down or right:
        image = F.pad(image, (0, right, 0, down))
        labels = F.pad(labels, (0, right, 0, down), value=IGNORE_INDEX)
        logits = None if logits is None else F.pad(logits, (0, right, 0, down))
    top = int(torch.randint(height + down - size[0] + 1, (), generator=generator))
    left = int(torch.randint(width + right - size[1] + 1, (), generator=generator))
    window = (..., slice(top, top + size[0]), slice(left, left + size[1]))
    return image[window], labels[window], None if logits is None else logits[window]


def displaced(maps: Tensor, amount: float, generator: Generator) -> Tensor:
    """Maps (..., H, W) moved here one way, there another, by so many pixels in the mean at most."""
    height, width = maps.shape[-2:]
    amount *= float(torch.rand((), generator=generator))
    down, right = amount * smooth_noise(2, (height, width), DISPLACED_TOGETHER, generator)
    rows = (torch.arange(height)[:, None] + down).round().long().clamp(0, height - 1)
    columns = (torch.arange(width) + right).round().long().clamp(0, width - 1)
    return maps[..., rows, columns]


def smooth_noise(
    bands: int, size: tuple[int, int], cell: int, generator: Generator
) -> Float[Tensor, "bands rows columns"]:
    """Normal at the centres of cells of so many pixels, and interpolated between them."""
    cells = [2 + side // cell for side in size]
    noise = torch.randn(1, bands, *cells, generator=generator)
    return F.interpolate(noise, size, mode="bicubic", align_corners=True)[0]
