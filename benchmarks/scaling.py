"""Print how time grows with pixels, classes K and the neighbourhood's side m: of Eqs. 4 and 5, and of the networks.

python benchmarks/scaling.py
"""

import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median

import torch
import tyro
from torch import Tensor, nn

from propagate import propagate_by_unfold
from rectiseg.machine import machine
from rectiseg.models.checkpoint import SHIPPED, load_parser, load_refiner
from rectiseg.ops.propagate import propagate_scores, propagate_scores_reference
from rectiseg.refinement import default_refiner

SIDES, CLASSES, NEIGHBORHOODS = (128, 181, 256, 362, 512), (5, 10, 19, 38, 75), (3, 5, 7, 9, 11)
SIDE, K, M = 256, 19, 7
"""What stays the same while another grows."""

NETWORK_SIDES = (160, 226, 320, 453)
LINEAR = 1.1
"""The slope up to which time is said to grow linearly with the pixels."""

Operator = Callable[[Tensor, Tensor], Tensor]


def main(repetitions: int = 7, shrink: int = 1) -> None:
    """Measure and print.

    Args:
        repetitions: Calls whose median is taken.
        shrink: Divides the sides of all images, for a try.
    """
    generator = torch.Generator().manual_seed(0)
    print(f"## How time grows\n\nLog-log slopes: 1 is linear, 2 quadratic. On {machine()}, median of {repetitions}.\n")
    operators: dict[str, Operator] = {
        "propagate_scores": propagate_scores,
        "loop over the shifts": propagate_scores_reference,
        "unfold": lambda logits, scores: propagate_by_unfold(logits, scores.softmax(dim=1), logits.shape[2]),
    }
    print(f"Around K = {K}, {SIDE // shrink}x{SIDE // shrink} and m = {M}.\n")
    print("| | with pixels | with K | with m | milliseconds in the middle |\n|---|--:|--:|--:|--:|")
    for name, operator in operators.items():
        timed = partial(seconds_of_operator, operator, generator, repetitions)
        by_pixels = [timed(side // shrink, K, M) for side in SIDES]
        by_classes = [timed(SIDE // shrink, classes, M) for classes in CLASSES]
        by_side = [timed(SIDE // shrink, K, side) for side in NEIGHBORHOODS]
        pixels = [(side // shrink) ** 2 for side in SIDES]
        print(
            f"| {name} | {slope(pixels, by_pixels):.2f} | {slope(CLASSES, by_classes):.2f} | "
            f"{slope(NEIGHBORHOODS, by_side):.2f} | {1000 * by_pixels[SIDES.index(SIDE)]:.1f} |",
            flush=True,
        )
    print("\n| network | with pixels | milliseconds |\n|---|--:|--:|")
    sides = [side // shrink for side in NETWORK_SIDES]
    for name, network in networks().items():
        times = [seconds_of_network(network, side, generator, repetitions) for side in sides]
        grows = slope([side**2 for side in sides], times)
        linear = "linear" if grows <= LINEAR else "more than linear"
        milliseconds = ", ".join(f"{1000 * taken:.0f}" for taken in times)
        print(f"| {name} | {grows:.2f}, {linear} | {milliseconds} |", flush=True)
    print(f"\nThe networks see squares of {', '.join(map(str, sides))} pixels a side.\n")


def networks() -> dict[str, nn.Module]:
    parser = load_parser()
    return {
        "the whole shipped parser": parser,
        "its refiners": parser.get_submodule("refiner"),
        "LRN": load_refiner(SHIPPED.with_name("camvid_lite_lrn_alone.safetensors")),
        "BilateralLRN for any classes": default_refiner(),
    }


def seconds_of_operator(
    operator: Operator, generator: torch.Generator, repetitions: int, side: int, num_classes: int, neighborhood: int
) -> float:
    logits = torch.randn(1, num_classes, side, side, generator=generator)
    scores = torch.randn(1, neighborhood**2, side, side, generator=generator)
    return seconds_of(partial(operator, logits, scores), repetitions)


def seconds_of_network(network: nn.Module, side: int, generator: torch.Generator, repetitions: int) -> float:
    inputs = [torch.rand(1, 3, side, side, generator=generator)]
    if not hasattr(network, "front"):
        inputs.append(torch.randn(1, 11, side, side, generator=generator))
    with torch.inference_mode():
        return seconds_of(partial(network, *inputs), repetitions)


def seconds_of(call: Callable[[], object], repetitions: int) -> float:
    call()  # compiles
    times = []
    for _ in range(repetitions):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return median(times)


def slope(sizes: Sequence[int], times: Sequence[float]) -> float:
    """Of the line of least squares through the logarithms."""
    x, y = [math.log(size) for size in sizes], [math.log(taken) for taken in times]
    x_mean, y_mean = sum(x) / len(x), sum(y) / len(y)
    return sum((a - x_mean) * (b - y_mean) for a, b in zip(x, y, strict=True)) / sum((a - x_mean) ** 2 for a in x)


if __name__ == "__main__":
    tyro.cli(main)
