"""Plots of bars and lines, drawn alike as inline SVG for a page and as pixels for a PNG."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from html import escape
from typing import Literal, Protocol, runtime_checkable

from PIL import Image as PillowImage
from PIL import ImageDraw, ImageFont

Anchor = Literal["start", "middle", "end"]
Point = tuple[float, float]

FAINT = "#8888887f"
COLORS = ("#d9812b", "#2f80c8", "#4aa564", "#b05fb8", "#c0504d", "#8a8a3a")
"""Of the first, second, ... thing that is plotted; readable on white and on black."""

TEXT_SIZE = 12
WIDTH, HEIGHT = 480, 300  # of a plot that needs no more
LEFT, RIGHT, TOP, BOTTOM = 52, 16, 54, 44  # around the data
SWATCH = 12
SCALE = 2  # a PNG has so many pixels for each of a plot's


@runtime_checkable
class Canvas(Protocol):
    """What a plot is drawn on, in pixels from the top left."""

    def line(self, points: Sequence[Point], color: str, width: float = 1.0) -> None: ...
    def box(self, left: float, top: float, width: float, height: float, color: str) -> None: ...
    def text(self, x: float, y: float, words: str, anchor: Anchor = "start") -> None: ...


Drawing = Callable[[Canvas], None]


@dataclass(frozen=True)
class Plot:
    """Something to draw, of a size in pixels."""

    title: str
    width: int
    height: int
    draw: Drawing


@dataclass(frozen=True)
class Series:
    """One line of a plot; points that are not known, nan, are left out."""

    name: str
    points: Sequence[Point]

    @property
    def known(self) -> list[Point]:
        return [point for point in self.points if not math.isnan(point[1])]


@dataclass(frozen=True)
class Axis:
    """A direction of a plot: what it measures, and from where to where."""

    title: str
    low: float
    high: float

    def share(self, value: float) -> float:
        return (value - self.low) / (self.high - self.low)

    @property
    def ticks(self) -> list[float]:
        """Four to nine round numbers: multiples of 1, 2 or 5 times a power of ten."""
        rough = (self.high - self.low) / 5
        power = 10 ** math.floor(math.log10(rough))
        step = power * next(factor for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [step * number for number in range(first, last + 1)]


def around(title: str, values: Sequence[float]) -> Axis:
    """An axis that holds these values, with some room above and below."""
    known = [value for value in values if math.isfinite(value)] or [0.0]
    room = 0.05 * (max(known) - min(known)) or 0.5
    return Axis(title, min(known) - room, max(known) + room)


def line_plot(title: str, x: Axis, y: Axis, series: Sequence[Series], dots: bool = True) -> Plot:
    """Lines between two axes, below their legend."""
    names = [one.name for one in series]
    width = max(WIDTH, legend_width(names))

    def place(point: Point) -> Point:
        return (
            LEFT + x.share(point[0]) * (width - LEFT - RIGHT),
            HEIGHT - BOTTOM - y.share(point[1]) * (HEIGHT - TOP - BOTTOM),
        )

    def draw(canvas: Canvas) -> None:
        heading(canvas, title, names)
        for tick in y.ticks:
            (left, height), (right, _) = place((x.low, tick)), place((x.high, tick))
            canvas.line([(left, height), (right, height)], FAINT)
            canvas.text(left - 6, height, f"{tick:.5g}", "end")
        for tick in x.ticks:
            canvas.text(place((tick, y.low))[0], HEIGHT - BOTTOM + 12, f"{tick:.5g}", "middle")
        canvas.text((LEFT + width - RIGHT) / 2, HEIGHT - 10, f"{x.title} (across), {y.title} (up)", "middle")
        for one, color in zip(series, colors(len(series)), strict=True):
            points = [place(point) for point in one.known]
            canvas.line(points, color, width=2.0)
            for across, up in points if dots else ():
                canvas.box(across - 3, up - 3, 6, 6, color)

    return Plot(title, width, HEIGHT, draw)


def bar_plot(title: str, labels: Sequence[str], bars: Sequence[tuple[str, Sequence[float]]]) -> Plot:
    """For each label a horizontal bar of each named row, fractions of 1 with their per cent; nan has none."""
    names = [name for name, _ in bars]
    thickness = 12
    group = thickness * len(bars) + 8
    left = 16 + max(text_width(label) for label in labels)
    width = max(WIDTH, left + WIDTH // 2, legend_width(names))
    full = width - left - 48  # a bar of 1; its number stands to its right

    def draw(canvas: Canvas) -> None:
        heading(canvas, title, names)
        for place, label in enumerate(labels):
            top = TOP + place * group
            canvas.text(left - 8, top + thickness * len(bars) / 2, label, "end")
            for number, ((_, values), color) in enumerate(zip(bars, colors(len(bars)), strict=True)):
                value, middle = values[place], top + (number + 0.5) * thickness
                length = 0.0 if math.isnan(value) else full * value
                canvas.box(left, middle - thickness / 2 + 1, length, thickness - 2, color)
                canvas.text(left + length + 5, middle, "-" if math.isnan(value) else f"{100 * value:.1f}")

    return Plot(title, width, TOP + group * len(labels), draw)


def heading(canvas: Canvas, title: str, names: Sequence[str]) -> None:
    """The title, and below it the names in their colours."""
    canvas.text(8, 14, title)
    left = 8
    for name, color in zip(names, colors(len(names)), strict=True):
        canvas.box(left, 30, SWATCH, SWATCH, color)
        canvas.text(left + SWATCH + 5, 36, name)
        left += legend_width([name])


def legend_width(names: Sequence[str]) -> int:
    return sum(SWATCH + 5 + text_width(name) + 24 for name in names)


def colors(count: int) -> list[str]:
    return [COLORS[number % len(COLORS)] for number in range(count)]


@dataclass
class SvgCanvas:
    """Collects the elements of an SVG."""

    elements: list[str] = field(default_factory=list)

    def line(self, points: Sequence[Point], color: str, width: float = 1.0) -> None:
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        self.elements.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="{width}"/>')

    def box(self, left: float, top: float, width: float, height: float, color: str) -> None:
        sides = f'x="{left:.1f}" y="{top:.1f}" width="{width:.1f}" height="{height:.1f}"'
        self.elements.append(f'<rect {sides} fill="{color}"/>')

    def text(self, x: float, y: float, words: str, anchor: Anchor = "start") -> None:
        place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" dominant-baseline="central"'
        self.elements.append(f"<text {place}>{escape(words)}</text>")


class PixelCanvas:
    """Draws on white, larger by SCALE."""

    def __init__(self, width: int, height: int):
        self.picture = PillowImage.new("RGB", (SCALE * width, SCALE * height), "white")
        self.draw = ImageDraw.Draw(self.picture, "RGBA")

    def line(self, points: Sequence[Point], color: str, width: float = 1.0) -> None:
        self.draw.line([(SCALE * x, SCALE * y) for x, y in points], color, round(SCALE * width), joint="curve")

    def box(self, left: float, top: float, width: float, height: float, color: str) -> None:
        right, bottom = left + width, top + height
        self.draw.rectangle((SCALE * left, SCALE * top, SCALE * right, SCALE * bottom), fill=color)

    def text(self, x: float, y: float, words: str, anchor: Anchor = "start") -> None:
        place = {"start": "lm", "middle": "mm", "end": "rm"}[anchor]
        self.draw.text((SCALE * x, SCALE * y), words, "black", font(SCALE * TEXT_SIZE), anchor=place)


def as_svg(plot: Plot) -> str:
    """An element for a page: it has the width of its place, and words of the page's colour."""
    canvas = SvgCanvas()
    plot.draw(canvas)
    about = f'role="img" aria-label="{escape(plot.title)}" font-size="{TEXT_SIZE}" fill="currentColor"'
    return f'<svg viewBox="0 0 {plot.width} {plot.height}" {about}>{"".join(canvas.elements)}</svg>'


def as_picture(*plots: Plot) -> PillowImage.Image:
    """The plots, one below the other."""
    pictures = []
    for plot in plots:
        canvas = PixelCanvas(plot.width, plot.height)
        plot.draw(canvas)
        pictures.append(canvas.picture)
    size = max(picture.width for picture in pictures), sum(picture.height for picture in pictures)
    whole = PillowImage.new("RGB", size, "white")
    top = 0
    for picture in pictures:
        whole.paste(picture, (0, top))
        top += picture.height
    return whole


@cache
def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=size)


def text_width(words: str) -> int:
    return math.ceil(font(TEXT_SIZE).getlength(words))
