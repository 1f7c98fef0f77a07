"""Print what layout, bf16, torch.compile and ONNX Runtime make of each network's time, and of its labels.

python benchmarks/modes.py
"""

import copy
import shutil
import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Literal, get_args

import torch
import tyro
from torch import Tensor, nn

from crf import STREET
from rectiseg.data.images import read_image
from rectiseg.export import export
from rectiseg.machine import machine
from rectiseg.models.bilateral_lrn import BilateralLRN
from rectiseg.models.checkpoint import SHIPPED, load_parser, load_refiner
from rectiseg.models.combine import Cascade
from rectiseg.models.exported import load_exported
from rectiseg.models.grn import GRN
from rectiseg.ops.resize import resized

Call = Callable[[], Tensor]
PLAIN = "float32, the default"
PATIENCE = 10.0
"""A mode that has taken so many seconds is not called again: bf16 is slow where a processor has nothing for it."""

Network = Literal["front", "light GRN", "LRN", "BilateralLRN"]


def main(
    device: str = "cpu",
    repetitions: int = 7,
    height: int = 360,
    width: int = 480,
    compiled: bool = True,
    onnx: bool = True,
    only: tuple[Network, ...] = get_args(Network),
) -> None:
    """Measure and print.

    Args:
        device: cpu or cuda.
        repetitions: Calls whose median is taken; those of all modes take turns.
        compiled: Measure torch.compile, too, which takes a minute a network or so to compile.
        onnx: Measure ONNX Runtime, too, on a CPU, after exporting each network.
        only: The networks.
    """
    print(f"## Ways to run the networks, on {device}\n")
    print(f"{width}x{height}, 11 classes, the shipped model, on {machine()}. They take turns; median of {repetitions}")
    print(f"calls, or of as many as fit in {PATIENCE:.0f} s. Ratios are to the first line of each network: on a CPU")
    print("encoders and LRN have batch norms folded into convolutions and images in channels_last there, BilateralLRN")
    print("its means in one pass over memory; layer by layer is without.\n")
    print("| network | mode | milliseconds | ratio | seconds to prepare | labels that differ |")
    print("|---|---|--:|--:|--:|--:|")
    found = networks(device, (height, width))
    for name in only:
        with torch.inference_mode():
            show(name, *prepared(*found[name], compiled, onnx and device == "cpu"), repetitions)
    print()


def networks(device: str, size: tuple[int, int]) -> dict[str, tuple[nn.Module, tuple[Tensor, ...]]]:
    parser, lrn = load_parser(), load_refiner(SHIPPED.with_name("camvid_lite_lrn_alone.safetensors"))
    assert isinstance(parser.front, nn.Module)
    assert isinstance(parser.refiner, Cascade)
    grn, bilateral = parser.refiner.refiners
    assert isinstance(grn, GRN)
    assert isinstance(bilateral, BilateralLRN)
    picture = resized(read_image(STREET)[None], size).clamp(0, 1).to(device)
    with torch.inference_mode():
        both = picture, parser.front.to(device)(picture)
    found = {
        "front": (parser.front, (picture,)),
        "light GRN": (grn, both),
        "LRN": (lrn, both),
        "BilateralLRN": (bilateral, both),
    }
    return {name: (network.to(device), inputs) for name, (network, inputs) in found.items()}


def prepared(
    network: nn.Module, inputs: tuple[Tensor, ...], compiled: bool, onnx: bool
) -> tuple[dict[str, Call], dict[str, float]]:
    """Every mode's call, and the seconds that it took until its first answer was there."""
    makers: dict[str, Callable[[], Call]] = {
        PLAIN: lambda: partial(network, *inputs),
        "layer by layer": lambda: as_trained(network, inputs),
        "bf16": lambda: in_bf16(channels_last(network), tuple(map(last, inputs))),
    }
    if compiled and (shutil.which("g++") or inputs[0].is_cuda):
        makers["torch.compile"] = lambda: partial(torch.compile(copy.deepcopy(network)), *inputs)
    if onnx and find_spec("onnxruntime") and find_spec("onnxscript"):
        makers["ONNX Runtime"] = lambda: partial(through_onnx(network), *inputs)
    calls: dict[str, Call] = {}
    seconds: dict[str, float] = {}
    for name, make in makers.items():
        started = time.perf_counter()
        calls[name] = make()
        calls[name]()
        seconds[name] = time.perf_counter() - started
    return calls, seconds


def last(maps: Tensor) -> Tensor:
    return maps.contiguous(memory_format=torch.channels_last)


def channels_last(network: nn.Module) -> nn.Module:
    return copy.deepcopy(network).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]


def as_trained(network: nn.Module, inputs: tuple[Tensor, ...]) -> Call:
    """Batch norms by themselves, images in their own layout: what is done where something is learned."""
    fixed = copy.deepcopy(network).requires_grad_(False)

    def call() -> Tensor:
        with torch.inference_mode(False), torch.enable_grad():
            return fixed(*[one.clone() for one in inputs])

    return call


def in_bf16(network: nn.Module, inputs: tuple[Tensor, ...]) -> Call:
    def call() -> Tensor:
        with torch.autocast(inputs[0].device.type, torch.bfloat16):
            return network(*inputs).float()

    return call


def through_onnx(network: nn.Module) -> nn.Module:
    with TemporaryDirectory() as folder, torch.inference_mode(False):
        path = Path(folder, "network.onnx")
        export(network, path)
        return load_exported(path)


def show(name: str, calls: dict[str, Call], seconds: dict[str, float], repetitions: int) -> None:
    expected = calls[PLAIN]().argmax(dim=1)
    times: dict[str, list[float]] = {mode: [] for mode in calls}
    others = dict.fromkeys(calls, 0.0)
    for _ in range(repetitions):
        for mode, call in calls.items():
            if sum(times[mode]) < PATIENCE:
                taken, answer = measured(call)
                times[mode].append(taken)
                others[mode] = 100 * (answer.argmax(dim=1) != expected).float().mean().item()
    plain = median(times[PLAIN])
    for mode, values in times.items():
        taken = median(values)
        print(
            f"| {name} | {mode} | {1000 * taken:.1f} | {taken / plain:.2f} | {seconds[mode]:.1f} | "
            f"{others[mode]:.3f} % |",
            flush=True,
        )


def measured(call: Call) -> tuple[float, Tensor]:
    """Its seconds, with what a GPU still has to do, and its answer."""
    started = time.perf_counter()
    answer = call()
    if answer.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - started, answer


if __name__ == "__main__":
    tyro.cli(main)
