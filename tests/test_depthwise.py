"""Depthwise convolution against PyTorch's, in value and in each gradient."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from networks import random_logits
from rectiseg.ops.depthwise import CPU_REACH, depthwise_conv2d, trains_on_cpu

SIZES = [(1, 1), (1, 9), (6, 7), (13, 21)]
OURS = "_DepthwiseConv2dBackward"


def torchs_own(input: Tensor, weight: Tensor, dilation: int) -> Tensor:
    return F.conv2d(input, weight, padding=dilation * (weight.shape[-1] // 2), dilation=dilation, groups=len(weight))


def assert_close(name: str, ours: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-4, msg=lambda message: f"{name}: {message}")


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("dilation", [1, 2, 4])
@pytest.mark.parametrize("size", [3, 5, 11])
def test_value_and_gradients_are_torchs(size: int, dilation: int, height: int, width: int) -> None:
    input, weight = random_logits(2, 3, height, width).requires_grad_(), random_logits(3, 1, size, size, seed=2)
    weight.requires_grad_()
    ours, expected = depthwise_conv2d(input, weight, dilation), torchs_own(input, weight, dilation)
    assert ours.grad_fn is not None
    assert ours.grad_fn.name() == OURS
    slope = random_logits(2, 3, height, width, seed=3)
    gradients = [torch.autograd.grad(result, (input, weight), slope) for result in (ours, expected)]
    assert_close("value", ours, expected)
    for name, our_gradient, expected_gradient in zip(("d/dinput", "d/dweight"), *gradients, strict=True):
        assert_close(name, our_gradient, expected_gradient)


def test_the_reach_goes_beyond_the_image_and_beyond_torchs_fast_kernel() -> None:
    assert CPU_REACH < 4 * (5 // 2) > min(max(size) for size in SIZES)


@pytest.mark.parametrize("dilation", [1, 4])
def test_double_precision_and_mere_prediction_go_torchs_way(dilation: int) -> None:
    input, weight = random_logits(1, 3, 6, 7), random_logits(3, 1, 5, 5, seed=2).requires_grad_()
    in_double = depthwise_conv2d(input.double(), weight.double(), dilation)
    assert in_double.grad_fn is not None
    assert in_double.grad_fn.name() != OURS
    assert_close("double", in_double, torchs_own(input.double(), weight.double(), dilation))
    with torch.no_grad():
        assert not trains_on_cpu(input, weight)
        assert_close("prediction", depthwise_conv2d(input, weight, dilation), torchs_own(input, weight, dilation))


@pytest.mark.parametrize("wanted", [0, 1])
def test_one_gradient_can_be_wanted_alone(wanted: int) -> None:
    tensors = random_logits(2, 3, 6, 7), random_logits(3, 1, 3, 3, seed=2)
    tensors[wanted].requires_grad_()
    ours, expected = (operator(*tensors, 2).square().sum() for operator in (depthwise_conv2d, torchs_own))
    assert_close("gradient", *(torch.autograd.grad(loss, tensors[wanted])[0] for loss in (ours, expected)))
    assert tensors[1 - wanted].grad is None


def test_memory_can_lie_in_any_order() -> None:
    input = random_logits(2, 3, 6, 7).contiguous(memory_format=torch.channels_last)
    weight = random_logits(3, 1, 3, 3, seed=2).transpose(2, 3).requires_grad_()
    ours, expected = (operator(input, weight, 2) for operator in (depthwise_conv2d, torchs_own))
    slope = torch.ones(()).expand_as(ours)
    assert_close("d/dweight", *(torch.autograd.grad(result, weight, slope)[0] for result in (ours, expected)))


def test_a_second_derivative_is_refused() -> None:
    weight = random_logits(3, 1, 3, 3).requires_grad_()
    result = depthwise_conv2d(random_logits(1, 3, 6, 7).requires_grad_(), weight)
    (gradient,) = torch.autograd.grad(result.square().sum(), weight, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


@pytest.mark.parametrize("last", [False, True])
def test_the_input_stays_as_it_is_where_its_sides_are_multiples_of_the_dilation(last: bool) -> None:
    input, weight = random_logits(1, 3, 8, 12), random_logits(3, 1, 5, 5, seed=2)
    given = input.contiguous(memory_format=torch.channels_last) if last else input.clone()
    with torch.no_grad():
        result = depthwise_conv2d(given, weight, 4)
    assert torch.equal(given, input)
    assert_close("value", result, torchs_own(input, weight, 4))
