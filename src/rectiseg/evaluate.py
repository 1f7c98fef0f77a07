"""Measure a parser on a data set, after its front and after each of its refiners."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from rich.table import Table
from torch import Tensor

from rectiseg.boundaries import BoundaryF, BoundaryIoU, TrimapIoU
from rectiseg.consistency import WRONG_REGIONS, Inconsistency
from rectiseg.data.datasets import Dataset
from rectiseg.inference import device_of, refuse_nan, stages
from rectiseg.metrics import ConfusionMatrix, Measure, Scores, known
from rectiseg.models.fusion import known_classes
from rectiseg.ops.likeliest import likeliest
from rectiseg.progress import Reporter
from rectiseg.types import Logits, Parser, Refiner

TRIMAPS = (1, 2, 4, 8, 16)


def boundary_measures(num_classes: int) -> dict[str, Measure]:
    """How well boundaries are met, near and far, and the count of an image's wrong regions."""
    return {
        **{f"boundary F at {distance} px": BoundaryF(num_classes, distance) for distance in (1, 3, 5)},
        "boundary IoU": BoundaryIoU(num_classes),
        **{f"trimap IoU at {width} px": TrimapIoU(num_classes, width) for width in TRIMAPS},
        WRONG_REGIONS: Inconsistency(num_classes),
    }


def evaluate_parser(
    parser: Parser,
    refiners: Mapping[str, Refiner],
    dataset: Dataset,
    reporter: Reporter,
    further: Mapping[str, Measure] | None = None,
) -> dict[str, Scores]:
    """Scores by row: the front, then with each refiner of the parser, then the front with each further refiner.

    Whole images, one by one (section 4.1).
    """
    check_classes(parser, dataset)
    further = further or {}
    matrices: dict[str, ConfusionMatrix] = {}
    sums: dict[tuple[str, str], Tensor] = {}
    num_classes = len(dataset.classes)
    device = device_of(parser)
    reporter.stage("evaluate", len(dataset))
    with torch.inference_mode():
        for index in range(len(dataset)):
            sample = dataset[index]
            image = sample.image[None].to(device)
            rows = dict(cumulative(stages(parser, image)))
            start, front = next(iter(rows.items()))
            for name, refiner in refiners.items():
                rows[f"{start} +{name}"] = refined = refiner(image, front)
                refuse_nan(refined)
            for name, logits in rows.items():
                prediction = likeliest(logits).cpu()
                matrices.setdefault(name, ConfusionMatrix(num_classes)).update(prediction, sample.labels[None])
                for title, measure in further.items():
                    counts = measure.counts(prediction[0], sample.labels)
                    sums[name, title] = sums[name, title] + counts if (name, title) in sums else counts
            reporter.advance()
    if not any(matrix.counts.any() for matrix in matrices.values()):
        raise ValueError("no pixel of the data set has a label: `rectiseg doctor` says what its label maps hold")
    return {
        name: replace(
            matrix.scores(),
            further={title: float(measure.value(sums[name, title])) for title, measure in further.items()},
        )
        for name, matrix in matrices.items()
    }


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
    for title, cells in further_cells(rows).items():
        table.add_row(title, *cells)
    table.add_section()
    for index, name in enumerate(classes):
        table.add_row(name, *(percent(scores.iou[index]) for scores in rows.values()))
    counted = next(iter(rows.values())).classes_counted
    table.caption = f"mean over the {counted} of {len(classes)} classes that occur"
    return table


def further_cells(rows: Mapping[str, Scores]) -> dict[str, list[str]]:
    """A line for each further measure: per cent, but for the count of wrong regions."""
    titles = next(iter(rows.values())).further
    return {
        title: [
            f"{scores.further[title]:.2f}" if title == WRONG_REGIONS else percent(scores.further[title])
            for scores in rows.values()
        ]
        for title in titles
    }


def as_json(rows: Mapping[str, Scores], classes: Sequence[str]) -> dict[str, Any]:
    """Fractions of 1; what was not to be measured, such as a class that does not occur, is null."""
    return {
        name: {
            "mean_iou": known(scores.mean_iou),
            "pixel_accuracy": known(scores.pixel_accuracy),
            "frequency_weighted_iou": known(scores.frequency_weighted_iou),
            "classes_counted": scores.classes_counted,
            "iou": {label: known(iou) for label, iou in zip(classes, scores.iou, strict=True)},
            **({"further": {title: known(value) for title, value in scores.further.items()}} if scores.further else {}),
        }
        for name, scores in rows.items()
    }


def percent(fraction: float) -> str:
    return "-" if math.isnan(fraction) else f"{100 * fraction:.2f}"
