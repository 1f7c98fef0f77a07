"""A report as one HTML file that needs nothing else: its styles, script, plots and pictures are inside."""

from html import escape

from rectiseg.consistency import WRONG_REGIONS
from rectiseg.plots import Plot, as_svg
from rectiseg.report.calibration import Reliability, expected_calibration_error
from rectiseg.report.cases import Cases
from rectiseg.report.example import example
from rectiseg.report.figures import boundary_plots, iou_bars, reliability_plot
from rectiseg.report.html import filled, row, section, swatch, table
from rectiseg.report.measure import Measured, worst_and_best


def page(cases: Cases, measured: Measured, about: str, count: int) -> str:
    """``about`` says what it is of; so many images are shown of the worst, and as many of the best."""
    before, after = cases.titles
    examples = [
        section(title, "examples", [example(cases, outcome, measured.labelled) for outcome in outcomes])
        for title, outcomes in worst_and_best(measured, count).items()
    ]
    figures = [as_svg(plot) for plot in plots(cases, measured)]
    return filled(
        "page.html",
        title="rectiseg report",
        about=escape(f"Of {about}. Images: {len(cases)}. Before: {before}. After: {after}."),
        tables=tables(cases, measured),
        plots=section("Plots", "plots", figures) if figures else "",
        examples="".join(examples),
        footer=remark(measured),
    )


def tables(cases: Cases, measured: Measured) -> str:
    """What both sides are worth, and every class; without annotation how much of the images each class takes."""
    titles = [f"{swatch(color)}{escape(name)}" for name, color in zip(cases.classes, cases.palette, strict=True)]
    before, after = measured.before, measured.after
    if not measured.labelled:
        was, now = ((side.pixels / side.pixels.sum()).tolist() for side in (before, after))
        rows = [row(*entry, better=0) for entry in zip(titles, was, now, strict=True)]
        return table("Share of the pixels, per cent", rows)
    was, now = before.scores, after.scores
    rows = [
        row("mean IoU", was.mean_iou, now.mean_iou),
        row("pixel accuracy", was.pixel_accuracy, now.pixel_accuracy),
        row("frequency-weighted IoU", was.frequency_weighted_iou, now.frequency_weighted_iou),
    ]
    for title, value in was.further.items():
        scale, better = (1, -1) if title == WRONG_REGIONS else (100, 1)
        rows.append(row(title, value, now.further[title], scale, better))
    unsure, sure = (expected_calibration_error(side.reliability) for side in (before, after))
    rows.append(row("expected calibration error", unsure, sure, better=-1))
    classes = [row(*entry) for entry in zip(titles, was.iou, now.iou, strict=True)]
    return table("All images: per cent, but for the count of wrong regions", rows) + table(
        "IoU of every class, per cent", classes
    )


def plots(cases: Cases, measured: Measured) -> list[Plot]:
    """None without annotation."""
    if not measured.labelled:
        return []
    rows = {"before": measured.before.scores, "after": measured.after.scores}
    found = [iou_bars(rows, cases.classes), *boundary_plots(rows)]
    sides = known_reliability(measured)
    return [*found, reliability_plot(sides)] if sides else found


def known_reliability(measured: Measured) -> dict[str, Reliability]:
    """Of the sides that said how sure they were."""
    sides = {"before": measured.before.reliability, "after": measured.after.reliability}
    return {name: counts for name, counts in sides.items() if counts.any()}


def remark(measured: Measured) -> str:
    """What is not shown, and why."""
    if not measured.labelled:
        return "Nothing is annotated here: the images are ordered by how much changed, and nothing is measured."
    if len(known_reliability(measured)) < 2:
        return "Label maps do not say how sure their model was: their calibration cannot be measured."
    return ""
