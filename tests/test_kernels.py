"""How numba's kernels are compiled, and shared among threads and processes."""

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numba
import numpy as np
import pytest
import torch
from numba.core.caching import CompileResultCacheImpl

from propagation import assert_agree, random_inputs, value_and_gradients
from rectiseg.ops.kernels import compiled, exporting
from rectiseg.ops.propagate import propagate


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
def test_the_number_of_threads_changes_nothing() -> None:
    inputs = random_inputs(3, 5, 7, 7, 131, torch.float32)
    with_two = value_and_gradients(propagate, *inputs)
    torch.set_num_threads(1)
    assert_agree(value_and_gradients(propagate, *inputs), with_two, tolerance=0)


@pytest.mark.usefixtures("two_threads")
def test_calls_at_the_same_time_do_not_disturb_each_other() -> None:
    inputs = random_inputs(2, 5, 7, 33, 131, torch.float32)
    expected = value_and_gradients(propagate, *inputs)
    with ThreadPoolExecutor(8) as pool:
        for results in pool.map(lambda _: value_and_gradients(propagate, *inputs), range(32)):
            assert_agree(results, expected, tolerance=0)


def values_and_gradients_of(logits: np.ndarray, coefficients: np.ndarray) -> list[np.ndarray]:
    """By our operators alone: after a fork, those of PyTorch that use OpenMP hang."""
    inputs = torch.from_numpy(logits), torch.from_numpy(coefficients)
    operators = torch.ops.rectiseg
    results = [
        propagate(*inputs),
        operators.propagate_logits_gradient(*inputs),
        operators.propagate_coefficients_gradient(inputs[0], inputs[0], inputs[1].shape[1]),
    ]
    return [result.numpy() for result in results]


@pytest.mark.usefixtures("two_threads")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_can_use_it_after_its_parent() -> None:
    inputs = [tensor.numpy() for tensor in random_inputs(2, 5, 3, 64, 131)]
    expected = values_and_gradients_of(*inputs)
    with get_context("fork").Pool(1) as pool:
        results = pool.apply_async(values_and_gradients_of, inputs).get(timeout=60)
    for ours, of_parent in zip(results, expected, strict=True):
        np.testing.assert_array_equal(ours, of_parent)


def test_a_second_process_finds_the_compiled_kernels(tmp_path: Path) -> None:
    program = (
        "import torch; from rectiseg.ops import propagate_cpu as cpu; logits = torch.ones(1, 1, 2, 2)\n"
        "cpu.forward(logits, logits), cpu.coefficients_gradient(logits, logits, 1)\n"
        "for kernel in (cpu.sum_kernel(1), cpu.products_kernel(1)):\n"
        "    print(sum(kernel.stats.cache_hits.values()), sum(kernel.stats.cache_misses.values()))\n"
    )
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-c", program]
    runs = [subprocess.run(command, env=environment, capture_output=True, text=True, check=True) for _ in range(2)]
    assert [run.stdout.splitlines() for run in runs] == [["0 1"] * 2, ["1 0"] * 2]


def test_where_exports_cannot_be_told_from_compilation_both_take_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in torch 2.6."""
    monkeypatch.delattr(torch.compiler, "is_exporting")
    assert not exporting()
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert exporting()


def doubled(value: float) -> float:
    return 2 * value


def test_without_a_place_for_the_machine_code_kernels_still_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CompileResultCacheImpl, "_locator_classes", [])
    with pytest.raises(RuntimeError, match="cannot cache function"):
        numba.njit(doubled, cache=True)
    assert compiled()(doubled)(21.0) == 42.0
