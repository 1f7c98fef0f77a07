"""What is laid over an image: labels, changes of labels, and which changes were for the better."""

import numpy as np
from jaxtyping import Float, UInt8

from rectiseg.types import IGNORE_INDEX
from rectiseg.visualize.palette import OneImage, OneLabelMap, Palette, Pixels, colorize, to_pixels

VERDICTS = ("right as before", "mended", "broken", "still wrong", "not annotated")
VERDICT_COLORS = np.array([[104, 104, 104], [70, 205, 95], [225, 45, 45], [92, 66, 112], [0, 0, 0]], np.uint8)
"""Of a verdict: its name, and its colour. What stayed right shows the image in grey instead."""


def overlay(image: OneImage, labels: OneLabelMap, palette: Palette, opacity: float = 0.5) -> Pixels:
    """The labels' colours over the image: 0 shows the image alone, 1 the colours alone."""
    if tuple(image.shape[1:]) != labels.shape:
        raise ValueError(f"the image is {tuple(image.shape[1:])} and its label map {labels.shape}: sizes must agree")
    mixed = (1 - opacity) * to_pixels(image) + opacity * colorize(labels, palette)
    return mixed.round().astype(np.uint8)


def changes(image: OneImage, before: OneLabelMap, after: OneLabelMap, palette: Palette) -> Pixels:
    """The new class where it is new, on a dim grey image."""
    changed = (before != after)[:, :, np.newaxis]
    return np.where(changed, colorize(after, palette), dim_grey(image)).astype(np.uint8)


def error_delta(image: OneImage, before: OneLabelMap, after: OneLabelMap, truth: OneLabelMap) -> Pixels:
    """Every pixel's verdict in its colour; what stayed right is the image, dim and grey."""
    kinds = verdicts(before, after, truth)
    colors = VERDICT_COLORS[kinds]
    return np.where((kinds == 0)[:, :, np.newaxis], dim_grey(image), colors).astype(np.uint8)


def verdicts(before: OneLabelMap, after: OneLabelMap, truth: OneLabelMap) -> UInt8[np.ndarray, "height width"]:
    """Where in VERDICTS every pixel belongs. Another mistake than before is still wrong."""
    if not before.shape == after.shape == truth.shape:
        raise ValueError(f"label maps of {before.shape}, {after.shape} and {truth.shape}: sizes must agree")
    was, now = before == truth, after == truth
    return np.select([truth == IGNORE_INDEX, was & now, now, was], [4, 0, 1, 2], 3).astype(np.uint8)


def dim_grey(image: OneImage) -> Float[np.ndarray, "height width 1"]:
    return 40 + 0.4 * to_pixels(image).mean(axis=-1, keepdims=True)
