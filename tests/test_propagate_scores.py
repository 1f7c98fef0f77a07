"""Eqs. 4 and 5 in one: the operator against its reference, in value and in each gradient."""

from functools import partial
from typing import get_args

import jaxtyping
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from propagation import assert_agree, gradient_alone, random_scores, random_slope, value_and_gradients
from rectiseg.models.lrn import LRN
from rectiseg.ops.kernels import compiled
from rectiseg.ops.propagate import (
    DEVICES,
    Border,
    Kernel,
    kernel_for,
    propagate_reference,
    propagate_scores,
    propagate_scores_reference,
)
from rectiseg.ops.propagate_cpu import ROWS, STRIP
from rectiseg.ops.strips import CLASSES, exponential

BORDERS = get_args(Border)
SIZES = [(1, 1), (1, 9), (6, 7), (5, 131), (3, STRIP + 3), (2, 2 * STRIP + 7)]
TOLERANCES = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 2**-10, torch.bfloat16: 2**-7}


def assert_agrees_with_the_reference(
    logits: Tensor, scores: Tensor, border: Border = "masked", dilation: int = 1
) -> None:
    """Half precision is compared with the reference in float32, which the kernels compute in too."""
    precise = torch.promote_types(logits.dtype, torch.float32)
    slope = random_slope(logits)
    reference, operator = (
        partial(one, border=border, dilation=dilation) for one in (propagate_scores_reference, propagate_scores)
    )
    expected = value_and_gradients(reference, logits.to(precise), scores.to(precise), slope.to(precise))
    ours = value_and_gradients(operator, logits, scores, slope)
    assert {tensor.dtype for tensor in ours.values()} == {logits.dtype}
    assert_agree(ours, expected, TOLERANCES[logits.dtype])


@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize("neighborhood", [1, 3, 7])
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_it_agrees_with_the_reference_on_any_size_and_neighborhood(
    neighborhood: int, height: int, width: int, border: Border
) -> None:
    assert_agrees_with_the_reference(*random_scores(2, 3, neighborhood, height, width), border)


@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize("dilation", [2, 5])
@pytest.mark.parametrize(("height", "width"), SIZES[:4])
def test_it_agrees_with_the_reference_where_neighbours_lie_apart(
    dilation: int, height: int, width: int, border: Border
) -> None:
    assert_agrees_with_the_reference(*random_scores(2, 3, 3, height, width), border, dilation)


@pytest.mark.parametrize("height", range(1, 2 * ROWS + 2))
@pytest.mark.parametrize("num_classes", [1, CLASSES, CLASSES + 1, 2 * CLASSES + 3])
def test_it_agrees_with_the_reference_for_any_number_of_rows_and_classes(height: int, num_classes: int) -> None:
    assert_agrees_with_the_reference(*random_scores(2, num_classes, 3, height, 7))


@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize("dtype", TOLERANCES)
def test_it_agrees_with_the_reference_in_every_precision(dtype: torch.dtype, border: Border) -> None:
    assert_agrees_with_the_reference(*random_scores(2, 5, 3, 5, 515, dtype), border)


def test_memory_can_lie_in_any_order() -> None:
    logits, scores = (tensor.transpose(2, 3)[..., ::2] for tensor in random_scores(2, 3, 3, 6, 7))
    assert not logits.is_contiguous()
    assert not scores.is_contiguous()
    assert_agrees_with_the_reference(logits, scores)


@pytest.mark.parametrize("wanted", [0, 1])
def test_one_gradient_can_be_wanted_alone(wanted: int) -> None:
    inputs = random_scores(1, 3, 3, 6, 7)
    ours, expected = (
        gradient_alone(operator, inputs, wanted) for operator in (propagate_scores, propagate_scores_reference)
    )
    torch.testing.assert_close(ours, expected)


def test_without_pictures_nothing_comes_out() -> None:
    results = value_and_gradients(propagate_scores, *random_scores(0, 3, 3, 6, 7))
    assert [tuple(tensor.shape) for tensor in results.values()] == [(0, 3, 6, 7), (0, 3, 6, 7), (0, 9, 6, 7)]


@pytest.mark.parametrize("border", BORDERS)
def test_the_gradients_are_the_slopes(border: Border) -> None:
    logits, scores = random_scores(2, 2, 3, 3, 4)
    operator = partial(propagate_scores, border=border)
    assert torch.autograd.gradcheck(operator, (logits.requires_grad_(), scores.requires_grad_()))


def test_the_operators_keep_torch_librarys_rules() -> None:
    logits, scores = random_scores(2, 3, 3, 6, 7, torch.float32)
    operators = torch.ops.rectiseg
    statistics = operators.propagate_scores(logits, scores, True)[1]
    torch.library.opcheck(operators.propagate_scores_logits_gradient.default, (logits, scores, statistics))
    torch.library.opcheck(operators.propagate_scores_gradient.default, (logits, logits, scores, statistics, True))
    inputs = (logits.requires_grad_(), scores.requires_grad_(), True)
    torch.library.opcheck(operators.propagate_scores.default, inputs)


# The softmax


def test_a_constant_added_to_a_pixels_scores_changes_nothing() -> None:
    logits, scores = random_scores(1, 3, 3, 6, 7, torch.float32)
    torch.testing.assert_close(propagate_scores(logits, scores + 300), propagate_scores(logits, scores))


def test_a_score_far_below_the_largest_has_no_weight() -> None:
    logits, scores = random_scores(1, 3, 3, 6, 7, torch.float32)
    scores[:, 4] += 1000
    assert torch.equal(propagate_scores(logits, scores), logits)


def test_a_score_of_minus_infinity_has_no_weight_and_no_gradient() -> None:
    logits, scores = random_scores(1, 3, 3, 6, 7, torch.float32)
    scores[:, 2] = -torch.inf
    assert_agrees_with_the_reference(logits, scores)
    assert not value_and_gradients(propagate_scores, logits, scores)["d/dweights"][:, 2].any()


def test_a_class_that_is_impossible_everywhere_stays_so_and_disturbs_no_other() -> None:
    logits, scores = random_scores(1, 3, 3, 9, 11, torch.float32)
    logits[:, 1] = -torch.inf
    refined = propagate_scores(logits, scores, border="zeros", kernel="cpu")
    assert refined[:, 1, 1:-1, 1:-1].isneginf().all()
    torch.testing.assert_close(refined[:, ::2], propagate_scores(logits[:, ::2], scores, border="zeros"))


@pytest.mark.parametrize("row", range(9))
def test_an_infinite_logit_reaches_its_own_neighbourhood_only(row: int) -> None:
    logits, scores = random_scores(1, 1, 3, 9, 11, torch.float32)
    logits[0, 0, row, 5] = torch.inf
    infinite = torch.zeros(9, 11, dtype=torch.bool)
    infinite[max(0, row - 1) : row + 2, 4:7] = True
    refined = propagate_scores(logits, scores)[0, 0]
    assert refined[infinite].isposinf().all()
    assert refined[~infinite].isfinite().all()


@pytest.mark.parametrize("place", [0, 4, 8])
def test_a_score_that_is_no_number_spoils_its_pixel_only(place: int) -> None:
    logits, scores = random_scores(1, 3, 3, 6, 7, torch.float32)
    scores[0, place, 2, 3] = torch.nan
    spoilt = propagate_scores(logits, scores).isnan().any(dim=1)[0]
    assert spoilt.nonzero().tolist() == [[2, 3]]


@compiled("contract")
def exponentials(values: np.ndarray, results: np.ndarray) -> None:
    for index in range(len(values)):
        results[index] = exponential(values[index])


def test_the_fast_exponential_is_as_exact_as_it_says() -> None:
    values = -np.logspace(-9, np.log10(86.9), 200_000).astype(np.float32)
    results, expected = np.empty_like(values), np.exp(values.astype(np.float64))
    exponentials(values, results)
    assert (np.abs(results / expected - 1) <= 1e-7 * (3 - values)).all()
    exponentials(np.array([0, -87.1, -1e30, -np.inf, np.nan], np.float32), results[:5])
    np.testing.assert_array_equal(results[:5], np.array([1, 0, 0, 0, np.nan], np.float32))


# The kernel's name


def test_a_cpu_takes_its_own_kernel() -> None:
    logits, scores = random_scores(1, 3, 3, 6, 7)
    assert kernel_for(logits) == "cpu"
    assert torch.equal(propagate_scores(logits, scores), propagate_scores(logits, scores, kernel="cpu"))


def test_the_reference_can_be_asked_for() -> None:
    logits, scores = random_scores(1, 3, 3, 6, 7)
    refined = propagate_scores(logits, scores, kernel="reference")
    assert torch.equal(refined, propagate_scores_reference(logits, scores))


def test_a_device_without_a_kernel_takes_the_reference() -> None:
    assert kernel_for(torch.empty(1, 3, 6, 7, device="meta")) == "reference"


@pytest.mark.parametrize(
    ("dtype", "installed", "chosen"),
    [
        (torch.float32, True, "triton"),
        (torch.bfloat16, True, "triton"),
        (torch.float64, True, "reference"),
        (torch.float32, False, "reference"),
    ],
)
def test_a_gpu_takes_triton_where_that_is_installed_and_exact_enough(
    dtype: torch.dtype, installed: bool, chosen: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rectiseg.ops.propagate.HAS_TRITON", installed)
    with FakeTensorMode():
        assert kernel_for(torch.empty(1, 3, 6, 7, dtype=dtype, device="cuda")) == chosen


@pytest.mark.parametrize(("kernel", "needed"), DEVICES.items())
def test_a_kernel_of_another_device_is_refused_with_the_reason(kernel: Kernel, needed: str) -> None:
    logits, scores = (tensor.to("meta") for tensor in random_scores(1, 3, 3, 6, 7))
    with pytest.raises(
        ValueError, match=f"'{kernel}' needs tensors on the device {needed}, not on meta; .*'reference'"
    ):
        propagate_scores(logits, scores, kernel=kernel)


@pytest.mark.parametrize(("name", "value"), [("kernel", "numba"), ("border", "mask")])
def test_what_is_misspelt_is_refused(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # outside the tests nothing checks types
    with pytest.raises(ValueError, match=f"{name}='{value}' is none of"):
        propagate_scores(*random_scores(1, 3, 3, 6, 7), **{name: value})  # pyright: ignore[reportArgumentType]


def test_mixed_precisions_are_named() -> None:
    logits, scores = random_scores(1, 3, 3, 6, 7)
    with pytest.raises(ValueError, match="cast one"):
        propagate_scores(logits, scores.float())


# LRN


@pytest.mark.parametrize("border", BORDERS)
def test_an_lrn_is_its_coefficients_applied(border: Border) -> None:
    torch.manual_seed(5)
    lrn = LRN(5, 3, widths=(6, 7), border=border).eval()
    nn.init.normal_(lrn.head.weight, std=0.5)
    image, logits = torch.rand(1, 3, 6, 7), torch.randn(1, 5, 6, 7)
    with torch.inference_mode():
        coefficients = lrn.coefficients(image, logits)
        torch.testing.assert_close(lrn(image, logits), propagate_reference(logits, coefficients))


def test_an_lrn_computes_scores_in_half_precision_and_refines_in_single() -> None:
    torch.manual_seed(5)
    lrn = LRN(5, 3, widths=(6, 7))
    image, logits = torch.rand(2, 3, 6, 7), torch.randn(2, 5, 6, 7, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        (refined,) = lrn.supervised(image, logits)
    refined.square().sum().backward()
    assert refined.dtype == torch.float32
    assert lrn.head.weight.grad is not None
    assert lrn.head.weight.grad.any()
