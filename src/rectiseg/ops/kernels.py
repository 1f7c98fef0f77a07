"""Compile numba kernels and run them on torch's number of threads.

The kernels release the interpreter's lock and take a range of rows; plain Python threads call them. So no threading
layer has to be chosen for the whole process, concurrent calls are safe, and nothing outlives the call (forks are safe).
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numba
import torch


def compiled(*fastmath: str) -> Callable[[Callable[..., Any]], Any]:
    """Compile at the first call and keep the machine code for later processes, where there is a place to keep it."""

    def compile_lazily(function: Callable[..., Any]) -> Any:
        try:
            return numba.njit(function, nogil=True, cache=True, fastmath=set(fastmath))
        except RuntimeError:  # neither the package's folder nor the user's can be written: every process compiles
            return numba.njit(function, nogil=True, fastmath=set(fastmath))

    return compile_lazily


def exporting() -> bool:
    """Whether a graph is being recorded for elsewhere, which has none of our kernels.

    torch 2.6 only tells that some graph is, be it for torch.compile; then the reference serves both.
    """
    return getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)()


def merely_answers(tensor: torch.Tensor) -> bool:
    """Whether what is made of a tensor is an answer of a CPU, from which nothing is learned and nothing recorded."""
    return tensor.device.type == "cpu" and not torch.is_grad_enabled() and not exporting()


def in_parallel(kernel: Callable[[int, int], None], count: int) -> None:
    """Call ``kernel(first, last)`` on ranges that cover 0..count once."""
    threads = max(1, min(torch.get_num_threads(), count))
    bounds = [count * index // threads for index in range(threads + 1)]
    if threads == 1:
        kernel(0, count)
        return
    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(kernel, bounds[:-1], bounds[1:]):  # an exception of any thread is raised here
            pass
