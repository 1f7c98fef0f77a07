"""Pictures beside each other, with titles and a legend: before/after panels."""

import math
from collections.abc import Sequence
from functools import cache

import numpy as np
from PIL import Image as PillowImage
from PIL import ImageDraw, ImageFont

from rectiseg.types import IGNORE_INDEX
from rectiseg.visualize.overlays import changes, error_delta, overlay
from rectiseg.visualize.palette import OneImage, OneLabelMap, Palette, Pixels, to_pixels

GAP = 14  # pixels between the things of a panel
TEXT_SIZE = 16
LINE = 22  # a line of text
SWATCH = 16
LARGEST_TILE = 640
SMALLEST_TILE = 200  # smaller images are enlarged to about this
SHAPE = 1.6  # a panel's width by its height, about


def panel(
    image: OneImage,
    stages: Sequence[tuple[str, OneLabelMap]],
    classes: Sequence[str],
    palette: Palette,
    truth: OneLabelMap | None = None,
) -> PillowImage.Image:
    """The image, every stage's labels over it, the truth where known, what the stages changed, and a legend.

    With the truth it is also seen which changes were for the better.
    """
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
        if truth is not None:
            tiles.append(("mended (green), broken (red)", error_delta(image, first, last, truth)))
    maps = [labels for _, labels in stages] + ([] if truth is None else [truth])
    return stacked(grid(tiles), maps, classes, palette)


def overlay_with_legend(
    image: OneImage, labels: OneLabelMap, classes: Sequence[str], palette: Palette, opacity: float = 0.5
) -> PillowImage.Image:
    """The labels' colours over the image, at its size, and below it the names of the classes that occur."""
    return stacked(PillowImage.fromarray(overlay(image, labels, palette, opacity)), [labels], classes, palette)


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
