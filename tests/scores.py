"""Confidence maps without a trained network, for tests of what an untrained refiner leaves whole."""

import torch
import torch.nn.functional as F
from torch import Tensor

from rectiseg.metrics import ConfusionMatrix, Scores
from rectiseg.types import LabelMap, Logits


def perfect(labels: LabelMap, num_classes: int) -> Logits:
    """Sure of the truth."""
    return 10 * one_hot(labels, num_classes)


def coarse(labels: LabelMap, num_classes: int, stride: int = 8) -> Logits:
    """What a front at this output stride can know: cells' shares of the classes, upsampled bilinearly."""
    height, width = labels.shape[-2:]
    shares = F.avg_pool2d(one_hot(labels, num_classes), stride, ceil_mode=True)
    pixels = F.interpolate(shares, scale_factor=stride, mode="bilinear")[..., :height, :width]
    return (pixels + 1e-3).log()


def one_hot(labels: LabelMap, num_classes: int) -> Tensor:
    return F.one_hot(labels, num_classes).movedim(-1, 1).float()


def kept(logits: Logits, refined: Logits) -> Scores:
    """How far the labels stay: the refined ones measured against those before."""
    matrix = ConfusionMatrix(logits.shape[1])
    matrix.update(refined.argmax(dim=1), logits.argmax(dim=1))
    return matrix.scores()


def label_maps(samples: list[Tensor], void: int, num_classes: int) -> LabelMap:
    """A batch in which what nobody annotated is one more class."""
    labels = torch.stack(samples)
    return labels.where(labels != void, num_classes)
