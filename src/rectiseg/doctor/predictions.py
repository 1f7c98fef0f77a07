"""Faults of predictions beside the label maps of their images."""

from pathlib import Path

import numpy as np
from jaxtyping import Int64, Integer

from rectiseg.data.images import read_label_map
from rectiseg.data.predictions import read_prediction
from rectiseg.doctor.finding import Finding
from rectiseg.doctor.labels import histogram_of, out_of_range, outside_of, percent

OFFSETS = (0, 1, -1)
MOST_CLASSES = 2 / 3
"""A shift shows in so many of the classes that are met at all; mistaking one class for the next does not."""

MEND_BY_OFFSET = {
    1: "Subtract 1 from the predictions: they count what has no class as 0, as ADE20K's official ids do.",
    -1: "Change label 0 to 255 and subtract 1 from the others, as --dataset ade20k reads them, "
    "if 0 means 'no class' there; else add 1 to the predictions.",
}


def read_indices(path: Path) -> Integer[np.ndarray, "height width"]:
    """The predicted class of every pixel, from a label map or from confidence maps; ValueError names a bad file."""
    if path.suffix.lower() == ".png":
        return read_label_map(path)
    return read_prediction(path).logits.argmax(dim=0).numpy()


def range_findings(path: Path, prediction: Integer[np.ndarray, "height width"], num_classes: int) -> list[Finding]:
    histogram = histogram_of(prediction)
    outside = outside_of(histogram, num_classes)
    if not outside:
        return []
    mend = "Predict with the classes of the labels, as class indices: not as official ids, not with a class for 'none'."
    sentence = out_of_range(histogram, outside, "class", num_classes)
    return [Finding("prediction out of range", path, sentence, mend)]


def agreement(
    prediction: Integer[np.ndarray, "height width"], labels: Int64[np.ndarray, "height width"], num_classes: int
) -> Int64[np.ndarray, "4 classes"]:
    """The pixels of each class, and how many are predicted as its index with each of OFFSETS added."""
    annotated = labels < num_classes
    labels = labels[annotated]
    difference = prediction[annotated] - labels
    chosen = [labels, *(labels[difference == offset] for offset in OFFSETS)]
    return np.stack([np.bincount(some_labels, minlength=num_classes) for some_labels in chosen])


def shift_findings(folder: Path, counts: Int64[np.ndarray, "4 classes"]) -> list[Finding]:
    """Whether the predictions of a split follow its labels at a distance of 1, by the sum of the agreements.

    So they do if twice as many pixels are met with the offset as without, and if so it is in most of the classes.
    """
    pixels, straight = counts[:2]
    for offset, shifted in zip(OFFSETS[1:], counts[2:], strict=True):
        better = (shifted > straight).sum()
        met = ((shifted > 0) | (straight > 0)).sum()
        if shifted.sum() >= 2 * straight.sum() and better >= max(2, MOST_CLASSES * met):
            sentence = (
                f"predicted indices are the label {offset:+d} on {percent(shifted.sum() / pixels.sum())} of the "
                f"pixels, and the label itself on {percent(straight.sum() / pixels.sum())}"
            )
            return [Finding("shift by one", folder, sentence, MEND_BY_OFFSET[offset])]
    return []
