"""What a report says in numbers: sums over all images, before and after, and how every image fared."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from rectiseg.evaluate import as_json as scores_as_json
from rectiseg.evaluate import boundary_measures
from rectiseg.metrics import MeanIoU, OneLabelMap, Scores, confusion, known, scores_of
from rectiseg.progress import Reporter
from rectiseg.report.calibration import BINS, reliability
from rectiseg.report.cases import Answer, Cases


class Sums:
    """Of one side, before or after, over all images."""

    def __init__(self, num_classes: int):
        self.further = boundary_measures(num_classes)
        self.matrix = torch.zeros(num_classes, num_classes, dtype=torch.int64)
        self.counts = dict.fromkeys(self.further, torch.zeros(()))
        self.pixels = torch.zeros(num_classes, dtype=torch.int64)
        self.reliability = torch.zeros(BINS, 3, dtype=torch.float64)

    def update(self, answer: Answer, truth: OneLabelMap) -> Int[Tensor, "classes classes"]:
        """Add an image; returns its own confusion matrix."""
        matrix = confusion(answer.labels, truth, len(self.matrix))
        self.matrix += matrix
        self.pixels += answer.labels.flatten().bincount(minlength=len(self.pixels))
        for title, measure in self.further.items():
            self.counts[title] = self.counts[title] + measure.counts(answer.labels, truth)
        if answer.confidence is not None:
            self.reliability += reliability(answer.labels, answer.confidence, truth)
        return matrix

    @property
    def scores(self) -> Scores:
        values = {title: float(measure.value(self.counts[title])) for title, measure in self.further.items()}
        return replace(scores_of(self.matrix), further=values)


@dataclass(frozen=True)
class Outcome:
    """How one image fared: the share of its pixels that changed, and its gain in mean IoU, nan without annotation."""

    index: int
    name: str
    changed: float
    gain: float


@dataclass(frozen=True)
class Measured:
    """Both sides, and every image."""

    before: Sums
    after: Sums
    outcomes: Sequence[Outcome]

    @property
    def labelled(self) -> bool:
        """Whether any pixel is annotated."""
        return bool(self.before.matrix.any())


def measure(cases: Cases, reporter: Reporter) -> Measured:
    """Look at every image once."""
    num_classes = len(cases.classes)
    before, after = Sums(num_classes), Sums(num_classes)
    own = MeanIoU(num_classes)
    outcomes = []
    reporter.stage("report", len(cases))
    for index in range(len(cases)):
        case = cases[index]
        was, now = (sums.update(answer, case.truth) for sums, answer in ((before, case.before), (after, case.after)))
        changed = float((case.before.labels != case.after.labels).double().mean())
        gain = float(own.value(now.double()) - own.value(was.double()))
        outcomes.append(Outcome(index, case.name, changed, gain))
        reporter.advance()
    return Measured(before, after, outcomes)


def worst_and_best(measured: Measured, count: int) -> dict[str, list[Outcome]]:
    """Titled lists of so many images each: by gain in mean IoU, or without annotation by how much changed."""
    if measured.labelled:
        low, high = "Gained least", "Gained most"
        ranked = sorted((one for one in measured.outcomes if not math.isnan(one.gain)), key=lambda one: one.gain)
    else:
        low, high = "Changed most", "Changed least"
        ranked = sorted(measured.outcomes, key=lambda one: -one.changed)
    if len(ranked) <= 2 * count:
        return {f"{low} to {high.lower()}": ranked}
    return {low: ranked[:count], high: ranked[::-1][:count]}


def as_json(measured: Measured, classes: Sequence[str]) -> dict[str, Any]:
    """The scores of both sides as `rectiseg evaluate` writes them, and how every image fared; fractions of 1."""
    return {
        **scores_as_json({"before": measured.before.scores, "after": measured.after.scores}, classes),
        "images": [
            {"image": one.name, "changed": one.changed, "mean_iou_gained": known(one.gain)} for one in measured.outcomes
        ],
    }
