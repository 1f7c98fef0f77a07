"""Whether a parser is as often right as it says: reliability by confidence, and its summary ECE.

Guo et al., "On calibration of modern neural networks", ICML 2017.
"""

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from rectiseg.metrics import OneLabelMap
from rectiseg.types import IGNORE_INDEX

BINS = 15

Reliability = Float64[Tensor, "bins 3"]
"""By confidence, in bins of equal width: pixels, the sum of their confidences, and how many are right. They add up."""


def reliability(
    prediction: OneLabelMap, confidence: Float[Tensor, "height width"], labels: OneLabelMap, bins: int = BINS
) -> Reliability:
    """Of one image's annotated pixels; ``confidence`` is the predicted class's probability."""
    valid = labels != IGNORE_INDEX
    sure = confidence[valid].double()
    right = (prediction == labels)[valid].double()
    places = (sure * bins).long().clamp(0, bins - 1)
    columns = [places.bincount(weights, bins) for weights in (torch.ones_like(sure), sure, right)]
    return torch.stack(columns, dim=-1).double()  # of no pixels they are whole numbers


def expected_calibration_error(counts: Reliability) -> float:
    """The mean distance between confidence and accuracy, every bin weighed by its pixels; nan without any."""
    pixels, confidence, right = counts.unbind(dim=-1)
    return float((confidence - right).abs().sum() / pixels.sum())


def curve(counts: Reliability) -> list[tuple[float, float]]:
    """Mean confidence and accuracy of every bin that has pixels."""
    pixels, confidence, right = counts[counts[:, 0] > 0].unbind(dim=-1)
    return list(zip((confidence / pixels).tolist(), (right / pixels).tolist(), strict=True))
