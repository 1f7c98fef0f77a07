"""What a label map is worth: pixel accuracy and intersection over union, from a confusion matrix."""

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float64, Int
from torch import Tensor

from rectiseg.types import IGNORE_INDEX, LabelMap

OneLabelMap = Int[Tensor, "height width"]
"""One image's label map."""


@runtime_checkable
class Measure(Protocol):
    """A number that many images have together, from counts that each of them has alone.

    A measure's counts are float64, always of one shape, and add up: a sum in which an image weighs 2 is that of a set
    in which it occurs twice.
    """

    def counts(self, prediction: OneLabelMap, labels: OneLabelMap) -> Float64[Tensor, "..."]:
        """What one image adds. Maps of unequal shape and classes that do not exist raise ValueError."""
        ...

    def value(self, counts: Float64[Tensor, "..."]) -> Float64[Tensor, "*sums"]:
        """One number for each sum of counts: further dimensions before the counts' own are kept."""
        ...


@runtime_checkable
class ClassMeasure(Measure, Protocol):
    """A measure that every class has by itself, nan where there is nothing to measure; together the others' mean."""

    @abstractmethod
    def per_class(self, counts: Float64[Tensor, "..."]) -> Float64[Tensor, "*sums classes"]: ...

    def value(self, counts: Float64[Tensor, "..."]) -> Float64[Tensor, "*sums"]:
        return self.per_class(counts).nanmean(dim=-1)


class ConfusionMeasure:
    """What is read off a confusion matrix: true class by predicted class."""

    def __init__(self, num_classes: int):
        self.num_classes = num_classes

    def counts(self, prediction: OneLabelMap, labels: OneLabelMap) -> Float64[Tensor, "classes classes"]:
        return confusion(prediction, labels, self.num_classes).double()


class PixelAccuracy(ConfusionMeasure):
    """The share of annotated pixels whose class is right."""

    def value(self, counts: Float64[Tensor, "*sums classes classes"]) -> Float64[Tensor, "*sums"]:
        return counts.diagonal(dim1=-2, dim2=-1).sum(dim=-1) / counts.sum(dim=(-2, -1))


class MeanIoU(ConfusionMeasure, ClassMeasure):
    """Intersection over union; a class without a labelled pixel is left out of the mean."""

    def per_class(self, counts: Float64[Tensor, "*sums classes classes"]) -> Float64[Tensor, "*sums classes"]:
        return iou_of(counts.diagonal(dim1=-2, dim2=-1), counts.sum(dim=-1), counts.sum(dim=-2))


class FrequencyWeightedIoU(MeanIoU):
    """The mean of the classes' IoU, each weighed by its share of the labelled pixels."""

    def value(self, counts: Float64[Tensor, "*sums classes classes"]) -> Float64[Tensor, "*sums"]:
        truth = counts.sum(dim=-1)
        return (truth * self.per_class(counts).nan_to_num()).sum(dim=-1) / truth.sum(dim=-1)


def iou_of(
    hits: Float64[Tensor, "*sums classes"],
    truth: Float64[Tensor, "*sums classes"],
    predicted: Float64[Tensor, "*sums classes"],
) -> Float64[Tensor, "*sums classes"]:
    """From numbers of pixels; nan without a true one."""
    return (hits / (truth + predicted - hits)).where(truth > 0, math.nan)


def confusion(
    prediction: Int[Tensor, "*pixels"], labels: Int[Tensor, "*pixels"], num_classes: int
) -> Int[Tensor, "classes classes"]:
    """Pixels by true class (row) and predicted class (column); ignored ones are not counted."""
    refuse_misfits(prediction, labels, num_classes)
    valid = labels != IGNORE_INDEX
    pairs = labels[valid].long() * num_classes + prediction[valid].long()
    return torch.bincount(pairs.cpu(), minlength=num_classes**2).view(num_classes, num_classes)


def refuse_misfits(prediction: Int[Tensor, "*pixels"], labels: Int[Tensor, "*pixels"], num_classes: int) -> None:
    """Refuse maps of unequal shape, and where a pixel is annotated classes outside of 0..num_classes - 1."""
    if prediction.shape != labels.shape:
        raise ValueError(f"a prediction of {list(prediction.shape)} cannot be held against {list(labels.shape)}")
    valid = labels != IGNORE_INDEX
    for name, values in (("label", labels[valid]), ("prediction", prediction[valid])):
        outside = values[(values < 0) | (values >= num_classes)]
        if len(outside):
            raise ValueError(f"{name} {int(outside[0])} is outside 0..{num_classes - 1}")


@dataclass(frozen=True)
class Scores:
    """Fractions of 1. A class that occurs in no label map has an IoU of nan and stays out of the mean.

    ``further`` is what was measured beside them, by name.
    """

    pixel_accuracy: float
    mean_iou: float
    iou: tuple[float, ...]
    frequency_weighted_iou: float = math.nan
    further: Mapping[str, float] = field(default_factory=dict)

    @property
    def classes_counted(self) -> int:
        return sum(not np.isnan(value) for value in self.iou)


class ConfusionMatrix:
    """Counts of pixels by true class (row) and predicted class (column); ignored pixels are never counted."""

    def __init__(self, num_classes: int):
        self.counts = torch.zeros(num_classes, num_classes, dtype=torch.int64)

    def update(self, prediction: LabelMap, labels: LabelMap) -> None:
        """Add label maps of equal shape."""
        self.counts += confusion(prediction, labels, len(self.counts))

    def scores(self, absent: Literal["left out", "zero"] = "left out") -> Scores:
        return scores_of(self.counts, absent)


def scores_of(counts: Tensor, absent: Literal["left out", "zero"] = "left out") -> Scores:
    """Long, Shelhamer and Darrell, "Fully convolutional networks", 2015, section 5.

    A class without a labelled pixel is left out of the mean IoU, or counted in it as zero.
    """
    matrix = counts.double()
    accuracy, mean_iou, frequency_weighted = (
        float(measure(len(matrix)).value(matrix)) for measure in (PixelAccuracy, MeanIoU, FrequencyWeightedIoU)
    )
    iou = MeanIoU(len(matrix)).per_class(matrix)
    if absent == "zero" and matrix.any():
        mean_iou = float(iou.nan_to_num().mean())
    return Scores(accuracy, mean_iou, tuple(iou.tolist()), frequency_weighted)


def known(value: float) -> float | None:
    """As JSON has it: null for what was not to be measured."""
    return None if math.isnan(value) else value


def class_weights(counts: Sequence[int], power: float = 1.0) -> tuple[float, ...]:
    """Median-frequency balancing from pixel counts; 0 for a class that never occurs.

    A class's frequency is of all images, where Eigen and Fergus (ICCV 2015) count those only in which it occurs. A
    power below 1 balances less, and 0 not at all.
    """
    frequency = np.asarray(counts, dtype=np.float64)
    median = float(np.median(frequency[frequency > 0]))
    return tuple((median / value) ** power if value else 0.0 for value in frequency.tolist())
