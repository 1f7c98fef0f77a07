"""Label maps to look at: palettes, overlays, before/after panels."""

import math
from collections.abc import Sequence
from functools import cache

import numpy as np
from jaxtyping import Float, Integer, UInt8
from PIL import Image as PillowImage
from PIL import ImageDraw, ImageFont
from torch import Tensor

from rectiseg.types import IGNORE_INDEX

OneImage = Float[Tensor, "3 height width"]
OneLabelMap = Integer[np.ndarray, "height width"]
Palette = UInt8[np.ndarray, "classes 3"]
Pixels = UInt8[np.ndarray, "height width 3"]

GAP = 14  # pixels between the things of a panel
TEXT_SIZE = 16
LINE = 22  # a line of text
SWATCH = 16
LARGEST_TILE = 640
SMALLEST_TILE = 200  # smaller images are enlarged to about this
SHAPE = 1.6  # a panel's width by its height, about


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


def overlay(image: OneImage, labels: OneLabelMap, palette: Palette, opacity: float = 0.5) -> Pixels:
    """The labels' colours over the image: 0 shows the image alone, 1 the colours alone."""
    if tuple(image.shape[1:]) != labels.shape:
        raise ValueError(f"the image is {tuple(image.shape[1:])} and its label map {labels.shape}: sizes must agree")
    mixed = (1 - opacity) * to_pixels(image) + opacity * colorize(labels, palette)
    return mixed.round().astype(np.uint8)


def panel(
    image: OneImage,
    stages: Sequence[tuple[str, OneLabelMap]],
    classes: Sequence[str],
    palette: Palette,
    truth: OneLabelMap | None = None,
) -> PillowImage.Image:
    """The image, every stage's labels over it, the truth where known, what the stages changed, and a legend."""
    if len(classes) != len(palette):
        raise ValueError(f"{len(classes)} classes and a palette of {len(palette)} colours: their numbers must agree")
    tiles = [("input", to_pixels(image))]
    tiles += [(name, overlay(image, labels, palette)) for name, labels in stages]
    if truth is not None:
        tiles.append(("truth", overlay(image, truth, palette)))
    if len(stages) > 1:
        (_, first), (_, last) = stages[0], stages[-1]
        title = f"changed pixels: {100 * np.mean(first != last):.2f} %"
        tiles.append((title, changes(image, first, last, palette)))
    maps = [labels for _, labels in stages] + ([] if truth is None else [truth])
    return stacked(grid(tiles), maps, classes, palette)


def changes(image: OneImage, before: OneLabelMap, after: OneLabelMap, palette: Palette) -> Pixels:
    """The new class where it is new, on a dim grey image."""
    grey = 40 + 0.4 * to_pixels(image).mean(axis=-1, keepdims=True)
    changed = (before != after)[:, :, np.newaxis]
    return np.where(changed, colorize(after, palette), grey).astype(np.uint8)


def grid(tiles: Sequence[tuple[str, Pixels]], columns: int | None = None) -> PillowImage.Image:
    """Titled tiles in rows, by default of so many columns that the whole is close to the shape of a screen."""
    pictures = [(title, fitted(pixels)) for title, pixels in tiles]
    cell_width = GAP + max(max(picture.width, text_width(title)) for title, picture in pictures)
    cell_height = GAP + LINE + max(picture.height for _, picture in pictures)
    if columns is None:
        columns = round(math.sqrt(len(tiles) * SHAPE * cell_height / cell_width))
    columns = min(max(columns, 1), len(tiles))
    rows = math.ceil(len(tiles) / columns)
    canvas = PillowImage.new("RGB", (GAP + columns * cell_width, GAP + rows * cell_height), "white")
    draw = ImageDraw.Draw(canvas)
    for index, (title, picture) in enumerate(pictures):
        left, top = GAP + index % columns * cell_width, GAP // 2 + index // columns * cell_height
        draw.text((left, top + LINE / 2), title, fill="black", font=font(), anchor="lm")
        canvas.paste(picture, (left, top + LINE))
    return canvas


def stacked(
    tiles: PillowImage.Image, maps: Sequence[OneLabelMap], classes: Sequence[str], palette: Palette
) -> PillowImage.Image:
    """The tiles above a legend of the classes that occur, set in lines like words."""
    present = {int(label) for labels in maps for label in np.unique(labels)} - {IGNORE_INDEX}
    entries = [(classes[index], tuple(palette[index].tolist())) for index in sorted(present)]
    if any((labels == IGNORE_INDEX).any() for labels in maps):
        entries.append(("not annotated", (0, 0, 0)))
    widths = [SWATCH + 6 + text_width(name) + GAP for name, _ in entries]
    width = max([tiles.width, *(GAP + entry_width for entry_width in widths)])
    places = set_in_lines(widths, width, tiles.height)
    height = places[-1][1] + LINE + GAP if places else tiles.height
    canvas = PillowImage.new("RGB", (width, height), "white")
    canvas.paste(tiles, (0, 0))
    draw = ImageDraw.Draw(canvas)
    for (name, color), (left, top) in zip(entries, places, strict=True):
        draw.rectangle((left, top, left + SWATCH, top + SWATCH), fill=color, outline="grey")
        draw.text((left + SWATCH + 6, top + SWATCH / 2), name, fill="black", font=font(), anchor="lm")
    return canvas


def set_in_lines(widths: Sequence[int], line_width: int, top: int) -> list[tuple[int, int]]:
    """Left and top of things side by side, in a new line where the old one is full."""
    places = []
    left = GAP
    for width in widths:
        if left > GAP and left + width > line_width:
            left, top = GAP, top + LINE
        places.append((left, top))
        left += width
    return places


def fitted(pixels: Pixels) -> PillowImage.Image:
    """Large images smaller, small ones larger by a whole factor that keeps their pixels visible."""
    picture = PillowImage.fromarray(pixels)
    longest = max(picture.size)
    if longest > LARGEST_TILE:
        size = [max(1, round(side * LARGEST_TILE / longest)) for side in picture.size]
        return picture.resize((size[0], size[1]), PillowImage.Resampling.BOX)
    factor = math.ceil(SMALLEST_TILE / longest)
    return picture.resize((picture.width * factor, picture.height * factor), PillowImage.Resampling.NEAREST)


@cache
def font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=TEXT_SIZE)


def text_width(text: str) -> int:
    return math.ceil(font().getlength(text))


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
