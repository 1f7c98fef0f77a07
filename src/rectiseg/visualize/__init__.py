"""Pictures of label maps and of what refiners do: a file each for colours, overlays, panels and refiners."""

from rectiseg.visualize.overlays import VERDICT_COLORS, VERDICTS, changes, error_delta, overlay, verdicts
from rectiseg.visualize.palette import OneImage, OneLabelMap, Palette, Pixels, colorize, default_palette, to_pixels
from rectiseg.visualize.panels import fitted, grid, overlay_with_legend, panel, stacked
from rectiseg.visualize.refiners import coefficient_map, residual_maps

__all__ = [
    "VERDICTS",
    "VERDICT_COLORS",
    "OneImage",
    "OneLabelMap",
    "Palette",
    "Pixels",
    "changes",
    "coefficient_map",
    "colorize",
    "default_palette",
    "error_delta",
    "fitted",
    "grid",
    "overlay",
    "overlay_with_legend",
    "panel",
    "residual_maps",
    "stacked",
    "to_pixels",
    "verdicts",
]
