"""How well class boundaries are met: Boundary IoU, the boundary F-score and the IoU within a trimap.

What is predicted where nobody annotated never matters, and no boundary is seen between a class and ignored pixels:
nobody knows what is there.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float64, Int
from torch import Tensor

from rectiseg.metrics import ClassMeasure, MeanIoU, OneLabelMap, iou_of, refuse_misfits
from rectiseg.types import IGNORE_INDEX

NONE = -1
"""Neither a class nor IGNORE_INDEX: what lies off a boundary or beyond the image."""


class BoundaryIoU(ClassMeasure):
    """IoU of the pixels that lie inside a class and near its contour, all images together.

    Cheng et al., "Boundary IoU", CVPR 2021. As in their code, near means within ``ratio`` of the image's diagonal,
    rounded, and at least one pixel, along rows and columns alike (a square, not a disc), and the image's edge is a
    contour of what it cuts off.
    """

    def __init__(self, num_classes: int, ratio: float = 0.02):
        self.num_classes = num_classes
        self.ratio = ratio

    def counts(self, prediction: OneLabelMap, labels: OneLabelMap) -> Float64[Tensor, "3 classes"]:
        """Pixels near the contour by class: in both maps, in the labels, in the prediction."""
        reach = max(1, round(self.ratio * math.hypot(*labels.shape)))
        maps = (labels, hidden_where_ignored(prediction, labels, self.num_classes))
        truth, predicted = (classes.where(near_contour(classes, reach), NONE) for classes in maps)
        parts = (truth[truth == predicted], truth, predicted)
        return torch.stack([part[part != NONE].bincount(minlength=self.num_classes) for part in parts]).double()

    def per_class(self, counts: Float64[Tensor, "*sums 3 classes"]) -> Float64[Tensor, "*sums classes"]:
        return iou_of(*counts.unbind(dim=-2))


class BoundaryF(ClassMeasure):
    """F-score of a class's one-pixel boundary within ``distance`` pixels (Euclidean), averaged over images.

    Precision is the share of the predicted boundary's pixels within reach of the true one of the same class, recall the
    share of the true boundary's within reach of the predicted one. Boundary pixels within ``distance`` of an ignored
    pixel are not counted, for their counterpart may lie hidden there, but they can be the counterpart of others. Where
    only one map has boundary to count, the other's share is 1: F is 0 unless what was counted has a counterpart that
    was not. An image where neither map has any is left out of the class's mean.
    """

    def __init__(self, num_classes: int, distance: int):
        self.num_classes = num_classes
        self.distance = distance

    def counts(self, prediction: OneLabelMap, labels: OneLabelMap) -> Float64[Tensor, "classes 2"]:
        """By class: its F in this image, or 0 if it has none, and whether it has one."""
        prediction = hidden_where_ignored(prediction, labels, self.num_classes)
        margin = [self.distance] * 4
        padded = F.pad(labels, margin, value=NONE)
        true, predicted = (F.pad(outlines(classes), margin, value=NONE) for classes in (labels, prediction))
        precision, predicted_pixels = self.share_found(predicted, true, padded)
        recall, true_pixels = self.share_found(true, predicted, padded)
        has_one = (true_pixels + predicted_pixels > 0).double()
        score = (2 * precision * recall / (precision + recall)).nan_to_num()
        return torch.stack([has_one * score, has_one], dim=-1)

    def per_class(self, counts: Float64[Tensor, "*sums classes 2"]) -> Float64[Tensor, "*sums classes"]:
        return counts[..., 0] / counts[..., 1]

    def share_found(
        self, boundary: OneLabelMap, other: OneLabelMap, labels: OneLabelMap
    ) -> tuple[Float64[Tensor, "classes"], Float64[Tensor, "classes"]]:
        """Of each class's boundary, the share that lies within reach of the other map's, and how many pixels count."""
        places = (boundary != NONE).flatten().nonzero().squeeze(dim=1)
        places = places[~self.within_reach(labels, places, IGNORE_INDEX)]
        classes = boundary.flatten()[places]
        found = self.within_reach(other, places, classes)
        pixels = classes.bincount(minlength=self.num_classes).double()
        share = classes.bincount(found.double(), minlength=self.num_classes) / pixels
        return share.where(pixels > 0, 1.0), pixels

    def within_reach(
        self, values: OneLabelMap, places: Int[Tensor, "places"], wanted: Int[Tensor, "places"] | int
    ) -> Bool[Tensor, "places"]:
        """Whether the value that a place wants is in the disc around it; places count row by row."""
        flat, width = values.flatten(), values.shape[1]
        reach = range(-self.distance, self.distance + 1)
        found = torch.zeros_like(places, dtype=torch.bool)
        for offset in (y * width + x for y in reach for x in reach if y * y + x * x <= self.distance**2):
            found |= flat[places + offset] == wanted
        return found


class TrimapIoU(MeanIoU):
    """Mean IoU over the pixels within ``width`` (Euclidean) of a boundary pixel of the labels; several make a curve.

    Kohli et al., "Robust higher order potentials", 2009; Krähenbühl and Koltun, 2011.
    """

    def __init__(self, num_classes: int, width: float):
        super().__init__(num_classes)
        self.width = width

    def counts(self, prediction: OneLabelMap, labels: OneLabelMap) -> Float64[Tensor, "classes classes"]:
        return super().counts(prediction, labels.where(near_boundary(labels, self.width), IGNORE_INDEX))


def hidden_where_ignored(prediction: OneLabelMap, labels: OneLabelMap, num_classes: int) -> OneLabelMap:
    refuse_misfits(prediction, labels, num_classes)
    return prediction.where(labels != IGNORE_INDEX, IGNORE_INDEX)


def on_boundary(labels: OneLabelMap) -> Bool[Tensor, "height width"]:
    """Pixels with a 4-neighbour of another class; ignored pixels are no class, and the image's edge is no neighbour."""
    found = torch.zeros_like(labels, dtype=torch.bool)
    for classes, marks in ((labels, found), (labels.T, found.T)):
        upper, lower = classes[:-1], classes[1:]
        differ = (upper != lower) & (upper != IGNORE_INDEX) & (lower != IGNORE_INDEX)
        marks[:-1] |= differ
        marks[1:] |= differ
    return found


def outlines(labels: OneLabelMap) -> OneLabelMap:
    """The classes of boundary pixels, NONE elsewhere."""
    return labels.where(on_boundary(labels), NONE)


def near_boundary(labels: OneLabelMap, distance: float) -> Bool[Tensor, "height width"]:
    from scipy.ndimage import distance_transform_edt

    boundary = on_boundary(labels)
    if not boundary.any():
        return boundary
    return torch.from_numpy(np.asarray(distance_transform_edt(~boundary.numpy())) <= distance)


def near_contour(labels: OneLabelMap, reach: int) -> Bool[Tensor, "height width"]:
    """Pixels whose square of 2 * reach + 1 pixels a side holds another class, or reaches beyond the image."""
    from scipy.ndimage import maximum_filter, minimum_filter

    valid = labels != IGNORE_INDEX
    square = {"size": 2 * reach + 1, "mode": "constant", "cval": NONE}
    highest = maximum_filter(labels.where(valid, NONE).numpy(), **square)
    lowest = minimum_filter(labels.numpy(), **square)  # IGNORE_INDEX is above all classes
    return valid & torch.from_numpy(lowest != highest)
