"""Eq. 5: the operator against its reference, in value and in each gradient."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from propagation import assert_agree, gradient_alone, random_inputs, random_slope, value_and_gradients
from rectiseg.ops.propagate import check, mask_border, neighborhood_of, propagate, propagate_reference
from rectiseg.ops.propagate_cpu import STRIP

SIZES = [(1, 1), (1, 9), (6, 7), (5, 131), (3, 515), (2, 1031)]
TOLERANCES = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 2**-10, torch.bfloat16: 2**-7}


def assert_agrees_with_the_reference(logits: Tensor, coefficients: Tensor) -> None:
    """Half precision is compared with the reference in float32, which the kernels compute in too."""
    precise = torch.promote_types(logits.dtype, torch.float32)
    slope = random_slope(logits)
    expected = value_and_gradients(propagate_reference, logits.to(precise), coefficients.to(precise), slope.to(precise))
    ours = value_and_gradients(propagate, logits, coefficients, slope)
    assert {tensor.dtype for tensor in ours.values()} == {logits.dtype}
    assert_agree(ours, expected, TOLERANCES[logits.dtype])


@pytest.mark.parametrize("neighborhood", [1, 3, 5, 7, 9])
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_it_agrees_with_the_reference_on_any_size_and_neighborhood(neighborhood: int, height: int, width: int) -> None:
    assert_agrees_with_the_reference(*random_inputs(2, 3, neighborhood, height, width))


def test_one_size_is_wider_than_a_strip_and_one_than_two() -> None:
    assert [width // STRIP for _, width in SIZES[-2:]] == [1, 2]


@pytest.mark.parametrize("num_classes", [1, 2, 4, 5])
@pytest.mark.parametrize("batch", [1, 2])
def test_it_agrees_with_the_reference_for_any_batch_and_number_of_classes(batch: int, num_classes: int) -> None:
    assert_agrees_with_the_reference(*random_inputs(batch, num_classes, 3, 6, 7))


@pytest.mark.parametrize("neighborhood", [3, 7])
@pytest.mark.parametrize("dtype", TOLERANCES)
def test_it_agrees_with_the_reference_in_every_precision(dtype: torch.dtype, neighborhood: int) -> None:
    assert_agrees_with_the_reference(*random_inputs(2, 5, neighborhood, 5, 515, dtype))


@pytest.mark.parametrize(
    "view",
    [
        pytest.param(lambda tensor: tensor.transpose(2, 3), id="transposed"),
        pytest.param(lambda tensor: tensor.contiguous(memory_format=torch.channels_last), id="channels last"),
        pytest.param(lambda tensor: tensor[..., 1:-1, ::2], id="sliced"),
        pytest.param(lambda tensor: tensor[:1].expand(3, -1, -1, -1), id="expanded"),
    ],
)
def test_memory_can_lie_in_any_order(view: Callable[[Tensor], Tensor]) -> None:
    logits, coefficients = map(view, random_inputs(2, 3, 3, 6, 7))
    assert not (logits.is_contiguous() and coefficients.is_contiguous())
    assert_agrees_with_the_reference(logits, coefficients)


def test_a_constant_slope_can_come_in() -> None:
    """The gradient of a sum is one number, expanded."""
    logits, coefficients = random_inputs(1, 2, 3, 6, 7)
    gradients = []
    for operator in (propagate, propagate_reference):
        logits, coefficients = logits.detach().requires_grad_(), coefficients.detach().requires_grad_()
        gradients.append(torch.autograd.grad(operator(logits, coefficients).sum(), (logits, coefficients)))
    for name, ours, expected in zip(("d/dlogits", "d/dweights"), *gradients, strict=True):
        torch.testing.assert_close(ours, expected, msg=lambda message, name=name: f"{name}: {message}")


@pytest.mark.parametrize("wanted", [0, 1])
def test_one_gradient_can_be_wanted_alone(wanted: int) -> None:
    inputs = random_inputs(1, 3, 3, 6, 7)
    ours, expected = (gradient_alone(operator, inputs, wanted) for operator in (propagate, propagate_reference))
    torch.testing.assert_close(ours, expected)


def test_without_pictures_nothing_comes_out() -> None:
    results = value_and_gradients(propagate, *random_inputs(0, 3, 3, 6, 7))
    assert [tuple(tensor.shape) for tensor in results.values()] == [(0, 3, 6, 7), (0, 3, 6, 7), (0, 9, 6, 7)]


def test_the_gradients_are_the_slopes() -> None:
    logits, coefficients = random_inputs(2, 2, 3, 3, 4)
    assert torch.autograd.gradcheck(propagate, (logits.requires_grad_(), coefficients.requires_grad_()))


def test_the_operators_keep_torch_librarys_rules() -> None:
    logits, coefficients = random_inputs(2, 3, 3, 6, 7, torch.float32)
    torch.library.opcheck(torch.ops.rectiseg.propagate_logits_gradient.default, (logits, coefficients))
    torch.library.opcheck(torch.ops.rectiseg.propagate_coefficients_gradient.default, (logits, logits, 9))
    inputs = (logits.requires_grad_(), coefficients.requires_grad_())
    torch.library.opcheck(torch.ops.rectiseg.propagate.default, inputs)


def test_the_neighbors_are_counted_row_by_row_from_the_top_left() -> None:
    logits, _ = random_inputs(1, 1, 3, 6, 7)
    coefficients = torch.zeros(1, 9, 6, 7, dtype=logits.dtype)
    coefficients[:, 2] = 1  # above, right
    shifted = propagate(logits, coefficients)
    assert torch.equal(shifted[..., 1:, :-1], logits[..., :-1, 1:])
    assert not shifted[..., 0, :].any()
    assert not shifted[..., -1].any()


# The image's border


def test_a_neighbor_outside_the_image_counts_as_zero() -> None:
    ones = torch.ones(1, 1, 6, 7)
    neighbors_inside = propagate(ones, torch.ones(1, 9, 6, 7))[0, 0]
    assert neighbors_inside[0, 0] == 4
    assert neighbors_inside[0, 1] == neighbors_inside[-1, 1] == neighbors_inside[1, -1] == 6
    assert neighbors_inside[1:-1, 1:-1].eq(9).all()


@pytest.mark.parametrize("neighborhood", [1, 3, 9])
def test_a_masked_neighbor_has_no_weight_and_the_others_sum_to_one(neighborhood: int) -> None:
    _, scores = random_inputs(2, 1, neighborhood, 6, 7)
    coefficients = mask_border(scores).softmax(dim=1)
    flat = torch.ones(2, 4, 6, 7, dtype=scores.dtype)
    torch.testing.assert_close(propagate(flat, coefficients), flat)


def test_of_a_single_pixel_only_the_centre_remains() -> None:
    coefficients = mask_border(torch.randn(1, 49, 1, 1)).softmax(dim=1)
    assert coefficients[0, 24, 0, 0] == 1
    assert coefficients.sum() == 1


# What a user can do wrong


def test_unequal_sizes_are_named() -> None:
    logits, coefficients = random_inputs(1, 3, 3, 6, 7)
    with pytest.raises(ValueError, match=r"differ in batch, height, width: \(1, 6, 7\) and \(1, 6, 6\)"):
        check(logits, coefficients[..., :-1])


@pytest.mark.parametrize("neighbors", [0, 4, 8, 16])
def test_a_neighborhood_has_a_middle(neighbors: int) -> None:
    with pytest.raises(ValueError, match=f"{neighbors} coefficients a pixel are not .* odd m"):
        neighborhood_of(torch.ones(1, neighbors, 6, 7))
    with pytest.raises(ValueError, match="odd m"):
        propagate(torch.ones(1, 3, 6, 7), torch.ones(1, neighbors, 6, 7))


def test_mixed_precisions_are_named() -> None:
    logits, coefficients = random_inputs(1, 3, 3, 6, 7)
    with pytest.raises(ValueError, match=r"logits are torch.float64 and coefficients torch.float32: cast one"):
        propagate(logits, coefficients.float())


class Propagation(nn.Module):
    def forward(self, logits: Tensor, coefficients: Tensor) -> Tensor:
        return propagate(logits, coefficients)


EXPORTED_SIZES = [(6, 7), (3, 131)]


def any_size() -> dict[str, dict[int, torch.export.Dim]]:
    sides = {2: torch.export.Dim("height", max=4096), 3: torch.export.Dim("width", max=4096)}
    return {"logits": sides, "coefficients": sides}


def test_an_exported_program_takes_any_size() -> None:
    program = torch.export.export(Propagation(), random_inputs(1, 3, 3, 9, 11), dynamic_shapes=any_size()).module()
    for height, width in EXPORTED_SIZES:
        inputs = random_inputs(1, 3, 3, height, width)
        torch.testing.assert_close(program(*inputs), propagate(*inputs))


def test_an_onnx_file_takes_any_size(tmp_path: Path) -> None:
    for library in ("onnx", "onnxscript"):
        pytest.importorskip(library, reason=f"{library} is not installed")
    onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    inputs = random_inputs(1, 3, 3, 9, 11, torch.float32)
    exported = torch.onnx.export(Propagation(), inputs, dynamo=True, dynamic_shapes=any_size(), verbose=False)
    assert exported is not None
    exported.save(tmp_path / "propagate.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "propagate.onnx", providers=["CPUExecutionProvider"])
    names = [node.name for node in session.get_inputs()]
    for height, width in EXPORTED_SIZES:
        inputs = random_inputs(1, 3, 3, height, width, torch.float32)
        (refined,) = session.run(None, dict(zip(names, (tensor.numpy() for tensor in inputs), strict=True)))
        torch.testing.assert_close(torch.from_numpy(refined), propagate(*inputs))


# The benchmark


def test_the_benchmark_writes_what_it_measured(tmp_path: Path) -> None:
    program = Path(__file__).parent.parent / "benchmarks" / "propagate.py"
    size = "--height 70 --width 67 --num-classes 2 --neighborhood 3 --repetitions 1 --threads 1 --no-compiled"
    command = [sys.executable, str(program), *size.split(), "--json", str(tmp_path / "times.json")]
    subprocess.run(command, check=True, capture_output=True)
    milliseconds = json.loads((tmp_path / "times.json").read_text())["milliseconds"]
    assert len(milliseconds) == 7
    assert min(milliseconds.values()) > 0
