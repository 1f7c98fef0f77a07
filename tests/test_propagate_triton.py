"""The kernels for a GPU against the reference: on a GPU where there is one, else in Triton's interpreter."""

import os
import subprocess
import sys
from typing import get_args

import pytest
import torch

from propagation import assert_agree, random_scores, random_slope, value_and_gradients
from rectiseg.ops.propagate import Border, empty_statistics, propagate_scores_reference

triton = pytest.importorskip("triton", reason="triton is not installed")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
runs_kernels = pytest.mark.skipif(
    DEVICE == "cpu" and os.environ.get("TRITON_INTERPRET") != "1",
    reason="without a GPU, the test of the interpreter runs this one with TRITON_INTERPRET=1",
)
TOLERANCES = {torch.float32: 1e-5, torch.float16: 2**-10, torch.bfloat16: 2**-7}
SHAPES = [(2, 3, 3, 6, 7), (1, 2, 7, 5, 35), (1, 1, 1, 1, 1)]
"""Batch, classes, m, height, width; a tile has four rows of 32 pixels."""


def test_the_kernels_agree_with_the_reference_in_the_interpreter() -> None:
    """In a process of its own: triton reads the variable once, when it is imported."""
    if DEVICE == "cuda":
        pytest.skip("the kernels run on the GPU itself")
    command = [sys.executable, "-m", "pytest", "-n", "0", "-k", "kernel_agrees", __file__]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    finished = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stdout
    assert f"{len(SHAPES) * len(TOLERANCES) * len(get_args(Border))} passed" in finished.stdout


@runs_kernels
@pytest.mark.parametrize("border", get_args(Border))
@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("shape", SHAPES)
def test_each_kernel_agrees_with_the_reference(shape: tuple[int, ...], dtype: torch.dtype, border: Border) -> None:
    from rectiseg.ops import propagate_triton

    logits, scores = (tensor.to(DEVICE) for tensor in random_scores(*shape, dtype))
    slope = random_slope(logits.cpu()).to(DEVICE)
    masked, statistics = border == "masked", empty_statistics(logits)
    ours = {
        "value": propagate_triton.forward(logits, scores, statistics, masked),
        "d/dlogits": propagate_triton.logits_gradient(slope, scores, statistics),
        "d/dweights": propagate_triton.scores_gradient(slope, logits, scores, statistics, masked),
    }
    expected = value_and_gradients(
        lambda logits, scores: propagate_scores_reference(logits, scores, border),
        logits.float(),
        scores.float(),
        slope.float(),
    )
    assert {tensor.dtype for tensor in ours.values()} == {dtype}
    assert_agree(ours, expected, TOLERANCES[dtype])
