"""Time Eqs. 4 and 5 fused on a GPU against copies of as many bytes as each kernel has to move.

python benchmarks/propagate_gpu.py
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from rectiseg.ops.propagate import kernel_for, propagate_scores

SIZES = [(19, 1024, 2048), (150, 512, 512)]
"""K, height, width."""

NEIGHBORS = 49
PRECISIONS = [torch.float32, torch.bfloat16]
AT_LEAST_OF_COPY = 0.8
REPETITIONS = 50


def main() -> None:
    found = torch.cuda.is_available()
    print("## Eqs. 4 and 5 on a GPU\n")
    place = f"On {torch.cuda.get_device_name()}, torch {torch.__version__}" if found else "No GPU here"
    print(f"m = 7, one image; the shortest of {REPETITIONS} runs. {place}.\n")
    print("| K, height, width | precision | | milliseconds | TB/s | of a copy's |\n|---|---|---|--:|--:|--:|")
    for size in SIZES:
        for precision in PRECISIONS:
            setting = f"{' x '.join(map(str, size))} | {str(precision).removeprefix('torch.')}"
            rows = measure(size, precision) if found else not_measured()
            print("\n".join(f"| {setting} | {row} |" for row in rows))
    print(f"\nThe bar is {AT_LEAST_OF_COPY:.0%} of a copy's bandwidth.\n")


def not_measured() -> Iterator[str]:
    for name in ("copy", "forward", "backward"):
        yield f"{name} | not measured | not measured | not measured"


def measure(size: tuple[int, int, int], precision: torch.dtype) -> Iterator[str]:
    """A row for each case. The bytes counted are those of every input read once and every result written once."""
    classes, *sides = size
    generator = torch.Generator("cuda").manual_seed(0)
    logits, slope = (
        torch.randn(1, classes, *sides, generator=generator, device="cuda", dtype=precision) for _ in range(2)
    )
    scores = torch.randn(1, NEIGHBORS, *sides, generator=generator, device="cuda", dtype=precision)
    assert kernel_for(logits) == "triton"
    trained = logits.clone().requires_grad_(), scores.clone().requires_grad_()
    refined = propagate_scores(*trained)
    statistics = 2 * 4 * logits[0, 0].numel()  # two maps of float32
    read = logits.nbytes + scores.nbytes
    copy = bandwidth(2 * read, copying(logits, scores))
    cases: dict[str, tuple[int, Callable[[], object]]] = {
        "copy": (2 * read, copying(logits, scores)),
        "forward": (read + logits.nbytes + statistics, lambda: propagate_scores(logits, scores)),
        "backward": (
            2 * read + logits.nbytes + statistics,
            lambda: torch.autograd.grad(refined, trained, slope, retain_graph=True),
        ),
    }
    for name, (moved, case) in cases.items():
        reached = bandwidth(moved, case)
        yield f"{name} | {moved / 1e6 / reached:.3f} | {reached / 1e3:.2f} | {reached / copy:.0%}"


def copying(*tensors: Tensor) -> Callable[[], None]:
    copies = [torch.empty_like(tensor) for tensor in tensors]

    def copy() -> None:
        for copied, tensor in zip(copies, tensors, strict=True):
            copied.copy_(tensor)

    return copy


def bandwidth(moved: int, case: Callable[[], object]) -> float:
    """Of so many bytes, in GB/s."""
    case()  # compiles
    return moved / 1e6 / min(milliseconds_of(case) for _ in range(REPETITIONS))


def milliseconds_of(case: Callable[[], object]) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    case()
    end.record()
    end.synchronize()
    return start.elapsed_time(end)


if __name__ == "__main__":
    main()
