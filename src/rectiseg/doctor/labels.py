"""Faults of a label map: what it holds, and whose size it has."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
from jaxtyping import Int64, Integer
from PIL import Image as PillowImage

from rectiseg.data.cityscapes import Cityscapes
from rectiseg.data.datasets import CamVid
from rectiseg.data.images import IMAGE_FORMATS, decode, read_label_map
from rectiseg.doctor.classes import Classes, Color
from rectiseg.doctor.finding import Finding, Kind, read_or_find, some
from rectiseg.types import IGNORE_INDEX

MOST_COLORS = 256
"""A label map drawn in colours has no more; a photograph and a JPEG do."""

Size = tuple[int, int]  # height, width
Palettes = Mapping[str, Mapping[Color, str]]


def known_palettes(classes: Classes) -> Palettes:
    """The names of colours, the data set's own before those of published ones."""
    own = dict(zip(classes.palette, classes.names, strict=True)) if classes.palette else {}
    return {
        "the classes'": own,
        "CamVid's": dict(zip(CamVid.PALETTE, CamVid.CLASSES, strict=True)),
        "Cityscapes'": dict(zip(Cityscapes.PALETTE, Cityscapes.CLASSES, strict=True)),
    }


def read_labels(path: Path, palettes: Palettes) -> Integer[np.ndarray, "height width"] | Finding:
    """The stored values; of a file in colours, which they are."""
    labels = read_or_find(read_label_map, path)
    if not isinstance(labels, Finding):
        return labels
    picture = read_or_find(partial(decode, formats=IMAGE_FORMATS), path)
    if isinstance(picture, Finding) or len(picture.getbands()) == 1:
        return labels
    return in_colors(path, picture, palettes)


def in_colors(path: Path, picture: PillowImage.Image, palettes: Palettes) -> Finding:
    """Which colours the picture has, in the words of the palette that knows most of them."""
    counted = picture.convert("RGB").getcolors(MOST_COLORS)
    if counted is None:
        sentence = f"holds more than {MOST_COLORS} colours, as photographs and JPEG files do, not class indices"
        return Finding("colours", path, sentence, "Draw the label map anew from its annotation, as a grey PNG.")
    colors = sorted(cast(Color, color) for _, color in counted)
    if all(red == green == blue for red, green, blue in colors):
        sentence = f"holds {some(grey for grey, _, _ in colors)} in each of several channels, not in one"
        return Finding("colours", path, sentence, "Keep one channel and save it as a grey PNG.")
    owner, names = max(palettes.items(), key=lambda item: len(item[1].keys() & set(colors)))
    named = [f"{names[color]} {color}" for color in colors if color in names]
    if not named:
        mend = (
            "Replace every colour by the index of its class, say which is which with --classes FILE, save a grey PNG."
        )
        return Finding("colours", path, f"holds colours, not class indices: {some(colors)}", mend)
    others = [color for color in colors if color not in names]
    rest = f"; of no class: {some(others)}" if others else ""
    mend = f"Replace every colour by its class's place in {owner} list, other colours by 255, and save a grey PNG."
    return Finding("colours", path, f"holds {owner} colours, not class indices: {some(named)}{rest}", mend)


def histogram_of(labels: Integer[np.ndarray, "height width"]) -> Int64[np.ndarray, "values"]:
    """How many pixels every value has, from 0 to the largest."""
    return np.bincount(labels.ravel()).astype(np.int64)


def label_findings(path: Path, histogram: Int64[np.ndarray, "values"], classes: Classes) -> list[Finding]:
    """Values that stand for nothing; a map that teaches nothing."""
    outside = outside_of(histogram, len(classes.indices))
    if outside:
        mend = "Set the list or the number of the classes right, or change these values: to 255 where nobody annotated."
        sentence = out_of_range(histogram, outside, "label", len(classes.indices))
        return [Finding("label out of range", path, sentence, mend)]
    if not classes.pixels(histogram).any():
        mend = "Annotate it, or leave it out with its image."
        return [Finding("all ignored", path, "no pixel has a class, all are ignored", mend)]
    return []


def outside_of(histogram: Int64[np.ndarray, "values"], limit: int) -> list[int]:
    """The values that occur, are not below the limit and are not IGNORE_INDEX."""
    return [int(value) for value in np.flatnonzero(histogram) if value >= limit and value != IGNORE_INDEX]


def out_of_range(histogram: Int64[np.ndarray, "values"], outside: list[int], what: str, limit: int) -> str:
    share = histogram[outside].sum() / histogram.sum()
    return f"{what} {some(outside)} on {percent(share)} of the pixels: outside 0..{limit - 1}"


def mask_findings(folder: Path, histogram: Int64[np.ndarray, "values"]) -> list[Finding]:
    """Whether all label maps together hold 0 and 255 alone: a single one may be half annotated."""
    if np.flatnonzero(histogram).tolist() != [0, IGNORE_INDEX]:
        return []
    sentence = f"all label maps hold 0 and {IGNORE_INDEX} only, and {IGNORE_INDEX} means 'not annotated'"
    mend = f"Write the object as 1, the rest as 0; keep {IGNORE_INDEX} for what nobody annotated."
    return [Finding("0/255 masks", folder, sentence, mend)]


def size_findings(kind: Kind, path: Path, size: tuple[int, ...], wanted: Size | None, mend: str) -> list[Finding]:
    """Whether a file has its image's size, where that is known."""
    if wanted is None or size == wanted:
        return []
    sentence = f"is {size[1]}x{size[0]}, its image {wanted[1]}x{wanted[0]}"
    if size != wanted[::-1]:
        return [Finding(kind, path, sentence, mend)]
    turned = "Turn it as its image is turned: images are read upright, as their EXIF block says."
    return [Finding(kind, path, f"{sentence}: a quarter turn", turned)]


def percent(fraction: float) -> str:
    return f"{100 * fraction:.3g} %"
