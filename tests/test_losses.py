"""The Lovász-Softmax loss: the mean of 1 - IoU where predictions are certain, continuous between."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from rectiseg.losses import lovasz_softmax
from rectiseg.metrics import ConfusionMatrix
from rectiseg.types import IGNORE_INDEX

K, H, W = 4, 6, 7


def certain(prediction: Tensor) -> Tensor:
    return 1e4 * F.one_hot(prediction, K).movedim(-1, 1).double()


def drawn(seed: int) -> tuple[Tensor, Tensor]:
    """A prediction and labels of two images, some of them ignored."""
    generator = torch.Generator().manual_seed(seed)
    prediction, labels = torch.randint(K, (2, 2, H, W), generator=generator)
    labels[torch.rand(labels.shape, generator=generator) < 0.2] = IGNORE_INDEX
    return prediction, labels


@pytest.mark.parametrize("seed", range(5))
def test_a_certain_prediction_costs_what_its_iou_lacks(seed: int):
    prediction, labels = drawn(seed)
    losses = lovasz_softmax(certain(prediction), labels)
    for index, loss in enumerate(losses):
        matrix = ConfusionMatrix(K)
        matrix.update(prediction[index : index + 1], labels[index : index + 1])
        assert loss.item() == pytest.approx(1 - matrix.scores().mean_iou)


def test_a_class_that_does_not_occur_is_left_out():
    labels = torch.zeros(1, H, W, dtype=torch.int64)
    prediction = labels.clone()
    prediction[0, 0, 0] = 3
    assert lovasz_softmax(certain(prediction), labels).item() == pytest.approx(1 / (H * W))


def test_every_image_stands_for_itself():
    _, labels = drawn(0)
    logits = torch.randn(2, K, H, W, generator=torch.Generator().manual_seed(1))
    alone = torch.cat([lovasz_softmax(logits[i : i + 1], labels[i : i + 1]) for i in range(2)])
    torch.testing.assert_close(lovasz_softmax(logits, labels), alone, rtol=0, atol=0)


def test_it_is_the_lovász_extension_of_one_minus_iou():
    """For two pixels of one class and one of another: summed by hand over the sorted errors."""
    probabilities = torch.tensor([[[0.9, 0.3, 0.4]], [[0.1, 0.7, 0.6]]], dtype=torch.float64)
    labels = torch.tensor([[[0, 0, 1]]])
    first = 0.7 * 1 / 2 + 0.4 * (1 - 1 / 3 - 1 / 2) + 0.1 * (1 - 2 / 3)  # errors 0.7, 0.4, 0.1
    second = 0.7 * 1 / 2 + 0.4 * (1 - 1 / 2) + 0.1 * 0
    assert lovasz_softmax(probabilities.log()[None], labels).item() == pytest.approx((first + second) / 2)


def test_its_gradient_is_right_and_ignored_pixels_have_none():
    _, labels = drawn(2)
    logits = torch.randn(2, K, H, W, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    logits.requires_grad_()
    assert torch.autograd.gradcheck(lambda values: lovasz_softmax(values, labels), logits)
    lovasz_softmax(logits, labels).sum().backward()
    assert logits.grad is not None
    of_pixels = logits.grad.abs().sum(dim=1)
    assert not of_pixels[labels == IGNORE_INDEX].any()
    assert of_pixels[labels != IGNORE_INDEX].all()


def test_without_an_annotated_pixel_it_is_zero_and_still_has_a_gradient():
    logits = torch.randn(1, K, H, W, requires_grad=True)
    loss = lovasz_softmax(logits, torch.full((1, H, W), IGNORE_INDEX))
    loss.sum().backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()
