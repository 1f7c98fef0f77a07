"""Run a numba kernel on torch's number of threads.

The kernels release the interpreter's lock and take a range of rows; plain Python threads call them. So no threading
layer has to be chosen for the whole process, concurrent calls are safe, and nothing outlives the call (forks are safe).
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch


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
