"""Measure a parser on a data set, after its front and after each of its refiners."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from rich.table import Table

from rectiseg.data.datasets import Dataset
from rectiseg.inference import device_of, stages
from rectiseg.metrics import ConfusionMatrix, Scores
from rectiseg.models.fusion import known_classes
from rectiseg.progress import Reporter
from rectiseg.types import Logits, Parser, Refiner


def evaluate_parser(
    parser: Parser, refiners: Mapping[str, Refiner], dataset: Dataset, reporter: Reporter
) -> dict[str, Scores]:
    """Scores by row: the front, then with each refiner of the parser, then the front with each further refiner.

    Whole images, one by one (section 4.1).
    """
    check_classes(parser, dataset)
    matrices: dict[str, ConfusionMatrix] = {}
    num_classes = len(dataset.classes)
    device = device_of(parser)
    reporter.stage("evaluate", len(dataset))
    with torch.inference_mode():
        for index in range(len(dataset)):
            sample = dataset[index]
            image = sample.image[None].to(device)
            rows = dict(cumulative(stages(parser, image)))
            start, front = next(iter(rows.items()))
            rows |= {f"{start} +{name}": refiner(image, front) for name, refiner in refiners.items()}
            for name, logits in rows.items():
                matrix = matrices.setdefault(name, ConfusionMatrix(num_classes))
                matrix.update(logits.argmax(dim=1).cpu(), sample.labels[None])
            reporter.advance()
    return {name: matrix.scores() for name, matrix in matrices.items()}


def check_classes(parser: Parser, dataset: Dataset) -> None:
    """Refuse a parser whose classes, where it knows them, are not the data set's in the same order."""
    known = known_classes(parser)
    if known and known != tuple(dataset.classes):
        raise ValueError(
            f"the model's {len(known)} classes ({', '.join(known)}) are not the data set's {len(dataset.classes)} "
            f"({', '.join(dataset.classes)}): choose a model that was trained on these classes"
        )


def cumulative(named: Iterable[tuple[str, Logits]]) -> Iterator[tuple[str, Logits]]:
    """Name every stage by all that it stands on: front, front +GRN, front +GRN +LRN."""
    title = ""
    for name, logits in named:
        title = f"{title} {name}".strip()
        yield title, logits


def as_table(rows: Mapping[str, Scores], classes: Sequence[str]) -> Table:
    """Per cent: one column a row of scores, one line a class."""
    table = Table("", *rows, title="per cent")
    table.add_row("mean IoU", *(percent(scores.mean_iou) for scores in rows.values()))
    table.add_row("pixel accuracy", *(percent(scores.pixel_accuracy) for scores in rows.values()))
    weighted = (percent(scores.frequency_weighted_iou) for scores in rows.values())
    table.add_row("frequency-weighted IoU", *weighted, end_section=True)
    for index, name in enumerate(classes):
        table.add_row(name, *(percent(scores.iou[index]) for scores in rows.values()))
    counted = next(iter(rows.values())).classes_counted
    table.caption = f"mean over the {counted} of {len(classes)} classes that occur"
    return table


def as_json(rows: Mapping[str, Scores], classes: Sequence[str]) -> dict[str, Any]:
    """Fractions of 1; what was not to be measured, such as a class that does not occur, is null."""
    return {
        name: {
            "mean_iou": known(scores.mean_iou),
            "pixel_accuracy": known(scores.pixel_accuracy),
            "frequency_weighted_iou": known(scores.frequency_weighted_iou),
            "classes_counted": scores.classes_counted,
            "iou": {label: known(iou) for label, iou in zip(classes, scores.iou, strict=True)},
        }
        for name, scores in rows.items()
    }


def known(fraction: float) -> float | None:
    return None if math.isnan(fraction) else fraction


def percent(fraction: float) -> str:
    return "-" if math.isnan(fraction) else f"{100 * fraction:.2f}"
