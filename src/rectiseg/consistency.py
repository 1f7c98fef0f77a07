"""How consistent a label map is: the wrong regions in it that a global context would have prevented."""

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from rectiseg.metrics import OneLabelMap, refuse_misfits
from rectiseg.types import IGNORE_INDEX

WRONG_REGIONS = "wrong regions an image"
"""What the measure is called where it stands beside others, which are per cent."""


class Inconsistency:
    """Predicted regions that are mostly wrong, per image.

    A region is a 4-connected component of one predicted class. It is counted if it has ``least_pixels`` or more
    annotated pixels, and more than half of these are of another class. Ignored pixels belong to regions and connect
    them, but neither make them large nor wrong.
    """

    def __init__(self, num_classes: int, least_pixels: int = 25):
        self.num_classes = num_classes
        self.least_pixels = least_pixels

    def counts(self, prediction: OneLabelMap, labels: OneLabelMap) -> Float64[Tensor, "2"]:
        """Such regions, and one image."""
        from scipy.ndimage import label

        refuse_misfits(prediction, labels, self.num_classes)
        predicted, annotated = prediction.numpy(), (labels != IGNORE_INDEX).numpy()
        wrong = annotated & (predicted != labels.numpy())
        count = 0
        for index in np.unique(predicted):
            regions = np.empty(predicted.shape, np.int32)  # 0 is what is predicted as something else
            label(predicted == index, output=regions)
            pixels, mistakes = (np.bincount(regions.ravel(), which.ravel())[1:] for which in (annotated, wrong))
            count += np.sum((pixels >= self.least_pixels) & (2 * mistakes > pixels))
        return torch.tensor([count, 1], dtype=torch.float64)

    def value(self, counts: Float64[Tensor, "*sums 2"]) -> Float64[Tensor, "*sums"]:
        return counts[..., 0] / counts[..., 1]
