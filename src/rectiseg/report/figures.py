"""The plots of a report, of `rectiseg evaluate` and of `rectiseg train`."""

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from rectiseg.data.files import atomic_path
from rectiseg.evaluate import TRIMAPS
from rectiseg.metrics import Scores
from rectiseg.plots import Axis, Plot, Series, around, as_picture, bar_plot, line_plot
from rectiseg.report.calibration import Reliability, curve, expected_calibration_error

DISTANCES = (1, 3, 5)


def iou_bars(rows: Mapping[str, Scores], classes: Sequence[str]) -> Plot:
    """Every class's IoU, and the mean."""
    bars = [(name, [*scores.iou, scores.mean_iou]) for name, scores in rows.items()]
    return bar_plot("IoU of every class, per cent", [*classes, "mean"], bars)


def boundary_plots(rows: Mapping[str, Scores]) -> list[Plot]:
    """From narrow to wide: the F-score of the boundaries, and the IoU of the pixels around them."""
    return [
        further_plot("Boundary F-score", "boundary F at {} px", DISTANCES, rows),
        further_plot("Mean IoU around boundaries (trimap)", "trimap IoU at {} px", TRIMAPS, rows),
    ]


def further_plot(title: str, measure: str, distances: Sequence[int], rows: Mapping[str, Scores]) -> Plot:
    series = [
        Series(name, [(pixels, 100 * scores.further[measure.format(pixels)]) for pixels in distances])
        for name, scores in rows.items()
    ]
    values = [value for one in series for _, value in one.points]
    return line_plot(title, Axis("pixels", 0, distances[-1] + 1), around("per cent", values), series)


def reliability_plot(sides: Mapping[str, Reliability]) -> Plot:
    """Accuracy by confidence: who is as often right as sure lies on the diagonal."""
    series = [
        Series(f"{name}, ECE {100 * expected_calibration_error(counts):.2f} %", curve(counts))
        for name, counts in sides.items()
    ]
    diagonal = Series("as sure as right", [(0.0, 0.0), (1.0, 1.0)])
    return line_plot("Reliability", Axis("confidence", 0, 1), Axis("accuracy", 0, 1), [*series, diagonal])


def plot_trainings(output: Path) -> None:
    """Beside the curves.csv of every stage that is trained, the same as a picture."""
    for weights in sorted(output.glob("*.safetensors")):
        curves = output / weights.stem / "curves.csv"
        if curves.exists():
            with atomic_path(curves.with_suffix(".png")) as path:
                as_picture(*training_plots(curves)).save(path)


def training_plots(curves: Path) -> list[Plot]:
    """Loss of every step, and the validations' mean IoU and pixel accuracy, from a stage's curves.csv."""
    with curves.open(newline="", encoding="utf-8") as file:
        rows = [{name: float(value or math.nan) for name, value in row.items()} for row in csv.DictReader(file)]
    step = Axis("step", 0, max((row["step"] for row in rows), default=1.0))

    def series(name: str, column: str, scale: float) -> Series:
        return Series(name, [(row["step"], scale * row[column]) for row in rows])

    loss = series("loss", "loss", 1)
    scores = [series("mean IoU", "mean_iou", 100), series("pixel accuracy", "pixel_accuracy", 100)]
    plots = [
        line_plot(f"Training loss of {curves.parent.name}", step, around("loss", values_of(loss)), [loss], dots=False)
    ]
    if known := [value for one in scores for value in values_of(one)]:
        plots.append(line_plot(f"Validation of {curves.parent.name}", step, around("per cent", known), scores))
    return plots


def values_of(series: Series) -> list[float]:
    return [value for _, value in series.known]
