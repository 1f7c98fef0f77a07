"""What a stage is held to beside cross-entropy."""

import torch
from jaxtyping import Float
from torch import Tensor

from rectiseg.types import IGNORE_INDEX, LabelMap, Logits


def lovasz_softmax(logits: Logits, labels: LabelMap) -> Float[Tensor, "batch"]:
    """Of each image, the mean over the classes that occur in it of 1 - IoU, made continuous in the probabilities.

    Berman et al., "The Lovász-Softmax loss", CVPR 2018. Ignored pixels are left out; with no others it is 0.
    """
    return torch.stack([lovasz_of_one(*pair) for pair in zip(logits, labels, strict=True)])


def lovasz_of_one(logits: Float[Tensor, "classes height width"], labels: Tensor) -> Float[Tensor, ""]:
    known = labels != IGNORE_INDEX
    probabilities, labels = logits.softmax(dim=0)[:, known], labels[known].long()
    occurring = labels.unique()
    if not len(occurring):
        return logits.sum() * 0
    truth = (labels == occurring[:, None]).to(logits.dtype)  # (occurring, pixels)
    errors, order = (truth - probabilities[occurring]).abs().sort(dim=1, descending=True)
    truth = truth.gather(1, order)
    area = truth.sum(dim=1, keepdim=True)
    losses = 1 - (area - truth.cumsum(dim=1)) / (area + (1 - truth).cumsum(dim=1))  # were all up to here mistaken
    return (errors * losses.diff(dim=1, prepend=torch.zeros_like(area))).sum(dim=1).mean()
