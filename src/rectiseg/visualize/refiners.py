"""What refiners do inside: LRN's coefficients of one pixel, and GRN's residual of each iteration."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image as PillowImage
from PIL import ImageDraw
from torch import Tensor

from rectiseg.visualize.palette import OneImage, to_pixels
from rectiseg.visualize.panels import GAP, LARGEST_TILE, LINE, font, grid

SCALE = np.array(
    [
        [0, 0, 4],
        [40, 11, 84],
        [101, 21, 110],
        [159, 42, 99],
        [212, 72, 66],
        [245, 125, 21],
        [250, 193, 39],
        [252, 255, 164],
    ]
)
"""Matplotlib's inferno at even distances: from none, dark, to the most, bright, also for who sees no colours."""

MARGIN = 4  # pixels of the image around the neighbourhood
ENLARGED = 360  # the side of the picture, or little less: it has whole cells
HEAT = 0.7  # how much of a neighbour's colour is its weight's; the rest is the image's
FRAME = (0, 200, 255)
BAR = 14  # the height of a colour bar


def coefficient_map(
    image: OneImage, coefficients: Float[Tensor, "side side"], row: int, column: int
) -> UInt8[np.ndarray, "rows rows 3"]:
    """What an LRN gives to each neighbour of one pixel (Eq. 4), as colours over them.

    The neighbourhood lies in an enlarged crop of the image, where what is outside the image is white; the pixel itself
    has a frame. The brightest colour is the largest of these coefficients. A pixel outside the image raises ValueError.
    """
    height, width = image.shape[1:]
    if not (0 <= row < height and 0 <= column < width):
        raise ValueError(f"row {row}, column {column} is outside the image of {height} rows and {width} columns")
    side = len(coefficients)
    reach = side // 2 + MARGIN
    padded = np.pad(to_pixels(image), ((reach, reach), (reach, reach), (0, 0)), constant_values=255)
    crop = padded[row : row + 2 * reach + 1, column : column + 2 * reach + 1].copy()
    weights = coefficients.detach().cpu().float().numpy()
    neighbors = crop[MARGIN : MARGIN + side, MARGIN : MARGIN + side]
    neighbors[:] = np.round(HEAT * scale_colors(weights / weights.max()) + (1 - HEAT) * neighbors)
    cell = max(1, ENLARGED // len(crop))
    picture = PillowImage.fromarray(crop.repeat(cell, axis=0).repeat(cell, axis=1))
    corner = reach * cell
    line = 3 if cell > 6 else 1
    ImageDraw.Draw(picture).rectangle((corner, corner, corner + cell - 1, corner + cell - 1), outline=FRAME, width=line)
    return np.array(picture)


def residual_maps(residuals: Sequence[Float[Tensor, "classes height width"]]) -> PillowImage.Image:
    """The size of GRN's residual at every pixel, iteration by iteration, on one scale of colours with its numbers."""
    sizes = [residual_size(residual) for residual in residuals]
    largest = max(float(size.max()) for size in sizes)
    pixels = [scale_colors(size / (largest or 1.0)) for size in sizes]
    tiles = [(f"residual of iteration {number}", colors) for number, colors in enumerate(pixels, start=1)]
    return above_scale(grid(tiles), largest)


def residual_size(residual: Float[Tensor, "classes height width"]) -> Float[np.ndarray, "height width"]:
    """The largest change of any class's confidence against the mean class's: what all gain alike changes nothing."""
    against_mean = residual - residual.mean(dim=0, keepdim=True)
    return against_mean.abs().amax(dim=0).detach().cpu().float().numpy()


def scale_colors(shares: Float[np.ndarray, "height width"]) -> UInt8[np.ndarray, "height width 3"]:
    """Colours of shares of the largest value, 0 to 1."""
    places = np.linspace(0, 1, len(SCALE))
    bands = [np.interp(shares, places, SCALE[:, band]) for band in range(3)]
    return np.stack(bands, axis=-1).round().astype(np.uint8)


def above_scale(tiles: PillowImage.Image, largest: float) -> PillowImage.Image:
    """The tiles above a bar of the colours from 0 to the largest value, in logits."""
    canvas = PillowImage.new("RGB", (tiles.width, tiles.height + BAR + LINE + GAP), "white")
    canvas.paste(tiles, (0, 0))
    width = min(tiles.width - 2 * GAP, LARGEST_TILE)
    bar = scale_colors(np.linspace(0, 1, width)[np.newaxis].repeat(BAR, axis=0))
    canvas.paste(PillowImage.fromarray(bar), (GAP, tiles.height))
    draw = ImageDraw.Draw(canvas)
    middle = tiles.height + BAR + LINE / 2
    draw.text((GAP, middle), "0", fill="black", font=font(), anchor="lm")
    draw.text((GAP + width, middle), f"{largest:.2g} logits", fill="black", font=font(), anchor="rm")
    return canvas
