"""Plots: what is drawn, in both forms."""

import math
from xml.etree import ElementTree

import numpy as np
import pytest

from rectiseg.plots import COLORS, SCALE, Axis, Plot, Series, around, as_picture, as_svg, bar_plot, line_plot

RISING = Series("rising", [(0, 0), (1, 5), (2, 10)])


def element(plot: Plot) -> ElementTree.Element:
    return ElementTree.fromstring(as_svg(plot))


def rectangles(plot: Plot, color: str) -> list[dict[str, float]]:
    sides = ("x", "y", "width", "height")
    found = [one for one in element(plot).iter("rect") if one.get("fill") == color]
    return [{side: float(one.attrib[side]) for side in sides} for one in found]


def color_of(number: int) -> list[int]:
    return list(bytes.fromhex(COLORS[number][1:]))


def test_a_bar_is_as_long_as_its_value_and_says_it():
    plot = bar_plot("IoU", ["road", "<car>"], [("before", [0.25, math.nan]), ("after", [0.5, 1.0])])
    (_, quarter, nothing), (_, half, whole) = (rectangles(plot, color) for color in COLORS[:2])
    assert nothing["width"] == 0
    assert half["width"] == pytest.approx(2 * quarter["width"], abs=0.2)
    assert whole["width"] == pytest.approx(4 * quarter["width"], abs=0.2)
    words = [one.text for one in element(plot).iter("text")]
    assert words == ["IoU", "before", "after", "road", "25.0", "50.0", "<car>", "-", "100.0"]


def test_lines_rise_where_their_values_do_and_leave_out_what_is_not_known():
    gaps = Series("gaps", [(0, 10), (1, math.nan), (2, 0)])
    plot = line_plot("Lines", Axis("steps", 0, 2), Axis("loss", 0, 10), [RISING, gaps])
    lines = {one.get("stroke"): one.attrib["points"] for one in element(plot).iter("polyline")}
    rising, falling = ([tuple(map(float, p.split(","))) for p in lines[color].split()] for color in COLORS[:2])
    assert len(rising) == 3
    assert len(falling) == 2
    assert rising[0][1] > rising[1][1] > rising[2][1]  # up is less
    assert falling == [(rising[0][0], rising[2][1]), (rising[2][0], rising[0][1])]


def test_a_picture_has_the_colours_of_the_svg_and_stacks_plots():
    plot = line_plot("Lines", Axis("steps", 0, 2), Axis("loss", 0, 10), [RISING])
    one, two = np.asarray(as_picture(plot)), np.asarray(as_picture(plot, plot))
    assert one.shape == (SCALE * plot.height, SCALE * plot.width, 3)
    assert two.shape[0] == 2 * one.shape[0]
    assert (one == color_of(0)).all(axis=-1).any()
    assert not (one == color_of(1)).all(axis=-1).any()


def test_many_and_long_names_widen_a_plot():
    names = [f"a rather long name {number}" for number in range(9)]
    plot = bar_plot("IoU", names, [(name, [0.5] * 9) for name in names])
    right = max(one["x"] + one["width"] for color in COLORS for one in rectangles(plot, color))
    assert right < plot.width


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [(0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]), (70.2, 74.9, [71, 72, 73, 74]), (0, 4600, [0, 1000, 2000, 3000, 4000])],
)
def test_ticks_are_round_numbers(low: float, high: float, ticks: list[float]):
    assert Axis("", low, high).ticks == pytest.approx(ticks)


@pytest.mark.parametrize("values", [[], [math.nan], [3.0, 3.0]])
def test_an_axis_around_nothing_or_one_value_has_room(values: list[float]):
    axis = around("per cent", values)
    assert axis.low < axis.high
