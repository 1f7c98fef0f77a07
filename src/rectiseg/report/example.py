"""One image of a report: its labels on both sides of a slider, what was mended and broken, and why."""

from collections.abc import Sequence
from html import escape

import numpy as np
import torch
from jaxtyping import Integer
from PIL import Image as PillowImage

from rectiseg.report.cases import Case, Cases, Insight
from rectiseg.report.html import data_uri, filled, swatch
from rectiseg.report.measure import Outcome
from rectiseg.types import IGNORE_INDEX
from rectiseg.visualize import Palette, changes, error_delta, to_pixels, verdicts

LONGEST = 480
"""The longer side of a picture of the page, in pixels, at most."""


def example(cases: Cases, outcome: Outcome, labelled: bool) -> str:
    """The image at this place, as HTML."""
    case = cases[outcome.index]
    palette = np.asarray(cases.palette, np.uint8)
    name, (before_title, after_title) = escape(case.name), map(escape, cases.titles)
    sides = {"before": before_title, "input": "the image"} | ({"truth": "the truth"} if labelled else {})
    errors, errors_title = errors_of(case, palette, labelled)
    width, height = reduced(case.image.shape[2], case.image.shape[1])
    truth = f'<img class="map left truth" src="{label_uri(case.truth, palette)}" alt="{name}: the truth">'
    return filled(
        "example.html",
        name=name,
        fate=fate(outcome, labelled),
        width=width,
        height=height,
        image=data_uri(thumbnail(to_pixels(case.image)), "jpeg"),
        before=label_uri(case.before.labels, palette),
        after=label_uri(case.after.labels, palette),
        before_title=before_title,
        after_title=after_title,
        truth=truth if labelled else "",
        choices="".join(choice(f"left-{outcome.index}", value, title) for value, title in sides.items()),
        legend=legend(case, cases.classes, palette),
        errors=data_uri(thumbnail(errors), "jpeg"),
        errors_title=f"{name}: {errors_title}",
        insights="".join(map(insight, cases.insights(outcome.index))),
    )


def fate(outcome: Outcome, labelled: bool) -> str:
    changed = f"{100 * outcome.changed:.2f} % of the pixels changed"
    return f"Mean IoU {100 * outcome.gain:+.2f}, {changed}." if labelled else f"{changed}."


def errors_of(case: Case, palette: Palette, labelled: bool) -> tuple[Integer[np.ndarray, "height width 3"], str]:
    """What was mended and broken where the truth is known, else what was changed; and in words."""
    before, after = case.before.labels.numpy(), case.after.labels.numpy()
    if not labelled:
        return changes(case.image, before, after, palette), "changed pixels in the colours of their new classes"
    truth = case.truth.numpy()
    kinds = np.bincount(verdicts(before, after, truth).ravel(), minlength=5)
    _, mended, broken, still = 100 * kinds[:4] / max(kinds[:4].sum(), 1)
    title = f"{mended:.2f} % mended (green), {broken:.2f} % broken (red), {still:.2f} % still wrong (dim violet)"
    return error_delta(case.image, before, after, truth), title


def reduced(width: int, height: int) -> tuple[int, int]:
    factor = min(1.0, LONGEST / max(width, height))
    return max(1, round(factor * width)), max(1, round(factor * height))


def thumbnail(pixels: Integer[np.ndarray, "height width 3"]) -> PillowImage.Image:
    picture = PillowImage.fromarray(pixels)
    return picture.resize(reduced(*picture.size), PillowImage.Resampling.BOX)


def label_uri(labels: Integer[torch.Tensor, "height width"], palette: Palette) -> str:
    """A palette PNG, which the page lays over the image: a tenth of what the overlay itself would take."""
    picture = PillowImage.fromarray(labels.numpy().astype(np.uint8))
    picture = picture.resize(reduced(*picture.size), PillowImage.Resampling.NEAREST)
    picture.putpalette(palette.tobytes())
    return data_uri(picture, "png")


def choice(group: str, value: str, title: str) -> str:
    checked = " checked" if value == "before" else ""
    return f'<label><input type="radio" name="{group}" value="{value}"{checked}> {title}</label>'


def legend(case: Case, classes: Sequence[str], palette: Palette) -> str:
    """The classes that occur in any of its label maps."""
    maps = (case.before.labels, case.after.labels, case.truth)
    present = sorted({int(label) for labels in maps for label in labels.unique()} - {IGNORE_INDEX})
    return "".join(f"<li>{swatch(palette[index].tolist())}{escape(classes[index])}</li>" for index in present)


def insight(found: Insight) -> str:
    title, picture = found
    small = picture.resize(reduced(*picture.size), PillowImage.Resampling.BOX)
    image = f'<img src="{data_uri(small, "jpeg")}" alt="{escape(title)}" loading="lazy">'
    return f"<details><summary>{escape(title)}</summary>{image}</details>"
