"""Eq. 5 with coefficients that keep to what looks alike: a learned score, less a distance between features."""

import torch
from jaxtyping import Float
from torch import Tensor

from rectiseg.ops import bilateral_cpu
from rectiseg.ops.kernels import merely_answers
from rectiseg.ops.propagate import check, mask_border, neighborhood_of, propagate_scores
from rectiseg.ops.similarity import Features, squared_distances
from rectiseg.types import Coefficients, Logits


def propagate_alike(
    logits: Logits, scores: Coefficients, features: Features, weights: Float[Tensor, "features"], dilation: int = 1
) -> Logits:
    """Eq. 5, where from Eq. 4's scores the weighted squared distances to the neighbours' features are taken first.

    Weights are positive. Neighbours lie ``dilation`` pixels apart; those outside the image get no weight. On a CPU,
    where nothing is learned, all of it is one pass over memory. Sizes that differ, and scores of no m x m
    neighbourhood, raise ValueError.
    """
    scores = scores.to(logits.dtype)
    check(logits, scores)
    if (logits.shape[0], weights.shape[0], *logits.shape[2:]) != tuple(features.shape):  # len() would fix the batch
        raise ValueError(
            f"features of {list(features.shape)} for logits of {list(logits.shape)} and {weights.shape[0]} weights: "
            "batch, height and width have to be equal, and every feature needs a weight"
        )
    if in_one_pass(logits, scores, features):
        return bilateral_cpu.propagate_alike(logits, scores, features, weights, dilation)
    return propagate_scores(
        logits, alike(scores, features, weights, dilation).to(logits.dtype), border="zeros", dilation=dilation
    )


def alike(
    scores: Coefficients, features: Features, weights: Float[Tensor, "features"], dilation: int = 1
) -> Coefficients:
    """Eq. 4 before its softmax: the scores less the distances, and -inf for neighbours outside the image."""
    scaled = features * weights.sqrt().view(-1, 1, 1)
    return mask_border(scores - squared_distances(scaled, neighborhood_of(scores), dilation), dilation)


def in_one_pass(*maps: Tensor) -> bool:
    return not torch.compiler.is_compiling() and all(merely_answers(m) and m.dtype == torch.float32 for m in maps)
