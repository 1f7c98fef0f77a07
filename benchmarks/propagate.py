"""Time Eq. 5, and Eqs. 4 and 5 fused, against a copy of the inputs and against the plain ways to write Eq. 5.

make bench > docs/benchmarks.md

Run once with glibc told to keep freed memory, as a process that runs for long would like it, and once without: then the
system has to find and clear the result's pages in every call, while the copy goes to memory that is there.
"""

import os
import time
from collections.abc import Callable
from json import dumps
from pathlib import Path
from statistics import median

import numba
import torch
import torch.nn.functional as F
import tyro
from torch import Tensor

from rectiseg.machine import machine
from rectiseg.ops.propagate import (
    neighborhood_of,
    propagate,
    propagate_reference,
    propagate_scores,
    propagate_scores_reference,
)

AT_LEAST_FASTER_THAN_UNFOLD = 100
COPY, FORWARD, TRAINING = "copy of the inputs", "propagate", "propagate with gradients"
FUSED, FUSED_TRAINING = "propagate_scores", "propagate_scores with gradients"
LOOP, UNFOLD = "loop over the shifts", "unfold"
COMPILED, COMPILING = "softmax and loop, by torch.compile", "its compilation, once"

AT_MOST_COPIES = {FORWARD: 8, FUSED: 6, FUSED_TRAINING: 16}


def main(
    num_classes: int = 19,
    height: int = 1024,
    width: int = 2048,
    neighborhood: int = 7,
    threads: int = 2,
    repetitions: int = 9,
    compiled: bool = True,
    json: Path | None = None,
) -> None:
    """Measure and print.

    Args:
        num_classes: K.
        neighborhood: m.
        threads: PyTorch's, which are the operator's too.
        repetitions: The median of so many is printed. Unfold runs once: it is slow and needs the most memory.
        compiled: torch.compile of the plain softmax and loop, too, which takes a minute to compile.
        json: A file for the figures.
    """
    torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, num_classes, height, width, generator=generator)
    scores = torch.randn(1, neighborhood**2, height, width, generator=generator)
    coefficients = scores.softmax(dim=1)
    band = rows_that_fit(logits, neighborhood)
    check_agreement(logits[..., :64, :64], scores[..., :64, :64])
    milliseconds = measure(logits, coefficients, scores, repetitions, band)
    if compiled:
        milliseconds |= measure_compiled(logits, scores, repetitions)
    setting = (
        f"K = {num_classes}, {height} x {width}, m = {neighborhood}, float32, {threads} threads, "
        f"median of {repetitions}, unfold once {'as a whole' if band >= height else f'in bands of {band} rows'}"
    )
    place = f"{machine()}, numba {numba.__version__}"
    show(milliseconds, setting, place)
    if json is not None:
        write(json, milliseconds, setting, place)


def measure(logits: Tensor, coefficients: Tensor, scores: Tensor, repetitions: int, band: int) -> dict[str, float]:
    """Milliseconds. The copy goes to memory that is there already; everything else has to ask for its own."""
    copies = torch.empty_like(logits), torch.empty_like(coefficients)
    trained = logits.clone().requires_grad_(), coefficients.clone().requires_grad_()
    fused_trained = trained[0], scores.clone().requires_grad_()
    slope = torch.ones_like(logits)

    def copy() -> None:
        copies[0].copy_(logits)
        copies[1].copy_(coefficients)

    cases: dict[str, Callable[[], object]] = {
        COPY: copy,
        FORWARD: lambda: propagate(logits, coefficients),
        TRAINING: lambda: torch.autograd.grad(propagate(*trained), trained, slope),
        FUSED: lambda: propagate_scores(logits, scores),
        FUSED_TRAINING: lambda: torch.autograd.grad(propagate_scores(*fused_trained), fused_trained, slope),
        LOOP: lambda: propagate_reference(logits, coefficients),
    }
    result = {name: median_of(case, repetitions) for name, case in cases.items()}
    result[UNFOLD] = milliseconds_of(lambda: propagate_by_unfold(logits, coefficients, band))
    return result


def measure_compiled(logits: Tensor, scores: Tensor, repetitions: int) -> dict[str, float]:
    case = torch.compile(propagate_scores_reference, dynamic=False)
    compiling = milliseconds_of(lambda: case(logits, scores))
    return {COMPILED: median_of(lambda: case(logits, scores), repetitions), COMPILING: compiling}


def median_of(case: Callable[[], object], repetitions: int) -> float:
    case()  # compiles, and gets memory from the system that later calls find ready
    return median(milliseconds_of(case) for _ in range(repetitions))


def milliseconds_of(case: Callable[[], object]) -> float:
    start = time.perf_counter()
    case()
    return 1000 * (time.perf_counter() - start)


def propagate_by_unfold(logits: Tensor, coefficients: Tensor, band: int) -> Tensor:
    """Eq. 5 as it is often written: every pixel's neighbours laid out in memory, for so many rows at once."""
    batch, classes, height, width = logits.shape
    side = neighborhood_of(coefficients)
    padded = F.pad(logits, (side // 2,) * 4)
    bands = []
    for top in range(0, height, band):
        weights = coefficients[:, None, :, top : top + band]
        neighbors = F.unfold(padded[:, :, top : top + weights.shape[3] + side - 1], side)
        bands.append((neighbors.view(batch, classes, side * side, -1, width) * weights).sum(dim=2))
    return torch.cat(bands, dim=2)


def check_agreement(logits: Tensor, scores: Tensor) -> None:
    torch.testing.assert_close(propagate_scores(logits, scores), propagate_scores_reference(logits, scores))
    coefficients = scores.softmax(dim=1)
    expected = propagate_reference(logits, coefficients)
    torch.testing.assert_close(propagate(logits, coefficients), expected)
    torch.testing.assert_close(propagate_by_unfold(logits, coefficients, band=7), expected)


def rows_that_fit(logits: Tensor, neighborhood: int) -> int:
    """So many rows that unfold's two big tensors, the neighbours and their products, fill most of the free memory."""
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    height = logits.shape[2]
    needed = 2 * neighborhood**2 * logits.nbytes
    return max(1, min(height, int(0.85 * height * free / needed)))


def show(milliseconds: dict[str, float], setting: str, place: str) -> None:
    copy, unfold, forward = milliseconds[COPY], milliseconds[UNFOLD], milliseconds[FORWARD]
    reused = "mmap_max=0" in os.environ.get("GLIBC_TUNABLES", "")
    memory = "freed memory reused" if reused else "memory from the system for every call"
    print(f"## Eqs. 4 and 5 on a CPU, {memory}\n\n{setting}.\n\nOn {place}.\n")
    print("| | milliseconds | copies | times faster than unfold |\n|---|--:|--:|--:|")
    for name, time_taken in milliseconds.items():
        print(f"| {name} | {time_taken:.1f} | {time_taken / copy:.1f} | {unfold / time_taken:.1f} |")
    faster = verdict(unfold / forward >= AT_LEAST_FASTER_THAN_UNFOLD)
    print(f"\n{FORWARD}: {unfold / forward:.0f} times faster than unfold {faster} of {AT_LEAST_FASTER_THAN_UNFOLD}.")
    for name, most in AT_MOST_COPIES.items():
        copies = milliseconds[name] / copy
        print(f"{name}: {copies:.1f} copies {verdict(copies <= most)} of {most}.")
    print()


def verdict(met: bool) -> str:
    return f"{'meets' if met else 'misses'} the bar"


def write(path: Path, milliseconds: dict[str, float], setting: str, place: str) -> None:
    path.write_text(dumps({"setting": setting, "machine": place, "milliseconds": milliseconds}, indent=2) + "\n")


if __name__ == "__main__":
    tyro.cli(main)
