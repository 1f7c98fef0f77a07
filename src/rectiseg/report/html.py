"""Pieces of a page: filled templates, pictures as data, and marked changes."""

import base64
import math
from collections.abc import Iterable
from html import escape
from importlib.resources import files
from io import BytesIO
from string import Template
from typing import Literal

from PIL import Image as PillowImage


def filled(template: str, /, **words: object) -> str:
    """The template of that name beside this file; what goes in is HTML already."""
    return Template(files("rectiseg.report").joinpath(template).read_text(encoding="utf-8")).substitute(words)


def data_uri(picture: PillowImage.Image, kind: Literal["png", "jpeg"]) -> str:
    """The picture itself in place of its address: JPEG for photographs, PNG for flat colours."""
    buffer = BytesIO()
    picture.save(buffer, kind, optimize=True, quality=80, subsampling=0)  # thin lines keep their colours
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def section(title: str, kind: str, parts: Iterable[str]) -> str:
    """A headed part of the page that lays its parts out in a grid."""
    return f'<section><h2>{escape(title)}</h2><div class="{kind}">{"".join(parts)}</div></section>'


def swatch(color: Iterable[int]) -> str:
    red, green, blue = color
    return f'<span class="swatch" style="background: rgb({red} {green} {blue})"></span>'


def row(title: str, before: float, after: float, scale: float = 100, better: Literal[-1, 0, 1] = 1) -> str:
    """A line of a table: both numbers and their difference, marked if more (1) or less (-1) of it is better."""
    gain = scale * (after - before)
    rounded = better * round(gain, 2)
    mark = ' class="better"' if rounded > 0 else ' class="worse"' if rounded < 0 else ""
    numbers = "".join(f"<td>{number(scale * value)}</td>" for value in (before, after))
    change = "-" if math.isnan(gain) else f"{gain:+.2f}"
    return f'<tr><th scope="row">{title}</th>{numbers}<td{mark}>{change}</td></tr>'


def number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f}"


def table(caption: str, rows: Iterable[str]) -> str:
    heads = "".join(f'<th scope="col">{word}</th>' for word in ("", "before", "after", "change"))
    head = f"<caption>{escape(caption)}</caption><thead><tr>{heads}</tr></thead>"
    return f"<table>{head}<tbody>{''.join(rows)}</tbody></table>"
