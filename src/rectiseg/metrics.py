"""What a label map is worth: pixel accuracy and intersection over union, from a confusion matrix."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from rectiseg.types import IGNORE_INDEX, LabelMap


@dataclass(frozen=True)
class Scores:
    """Fractions of 1. A class that occurs in no label map has an IoU of nan and stays out of the mean."""

    pixel_accuracy: float
    mean_iou: float
    iou: tuple[float, ...]

    @property
    def classes_counted(self) -> int:
        return sum(not np.isnan(value) for value in self.iou)


class ConfusionMatrix:
    """Counts of pixels by true class (row) and predicted class (column); ignored pixels are never counted."""

    def __init__(self, num_classes: int):
        self.counts = torch.zeros(num_classes, num_classes, dtype=torch.int64)

    def update(self, prediction: LabelMap, labels: LabelMap) -> None:
        """Add label maps of equal shape."""
        if prediction.shape != labels.shape:
            raise ValueError(f"a prediction of {list(prediction.shape)} cannot be held against {list(labels.shape)}")
        num_classes = len(self.counts)
        valid = labels != IGNORE_INDEX
        truth, predicted = labels[valid].long(), prediction[valid].long()
        for name, values in (("label", truth), ("prediction", predicted)):
            outside = values[(values < 0) | (values >= num_classes)]
            if len(outside):
                raise ValueError(f"{name} {int(outside[0])} is outside 0..{num_classes - 1}")
        pairs = truth * num_classes + predicted
        self.counts += torch.bincount(pairs.cpu(), minlength=num_classes**2).view(num_classes, num_classes)

    def scores(self, absent: Literal["left out", "zero"] = "left out") -> Scores:
        return scores_of(self.counts, absent)


def scores_of(counts: Tensor, absent: Literal["left out", "zero"] = "left out") -> Scores:
    """Long, Shelhamer and Darrell, "Fully convolutional networks", 2015, section 5.

    A class without a labelled pixel is left out of the mean IoU, or counted in it as zero.
    """
    matrix = counts.double().numpy()
    hits, truth, predicted = matrix.diagonal(), matrix.sum(axis=1), matrix.sum(axis=0)
    with np.errstate(invalid="ignore"):
        iou = np.where(truth > 0, hits / (truth + predicted - hits), np.nan)
    total = truth.sum()
    if total == 0:
        return Scores(float("nan"), float("nan"), tuple(iou.tolist()))
    mean_iou = np.nanmean(iou) if absent == "left out" else np.nan_to_num(iou).mean()
    return Scores(float(hits.sum() / total), float(mean_iou), tuple(iou.tolist()))


def class_weights(counts: Sequence[int], power: float = 1.0) -> tuple[float, ...]:
    """Median-frequency balancing (Eigen and Fergus, 2015) from pixel counts; 0 for a class that never occurs.

    A power below 1 balances less, and 0 not at all.
    """
    frequency = np.asarray(counts, dtype=np.float64)
    median = float(np.median(frequency[frequency > 0]))
    return tuple((median / value) ** power if value else 0.0 for value in frequency.tolist())
