"""Print what each refiner takes beside the front that it follows and beside pydensecrf2, and where its work goes.

python benchmarks/refiners.py
"""

from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import torch
import tyro
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from crf import SIZE, STREET, densecrf_marginals
from propagate import median_of
from rectiseg.data.images import read_image
from rectiseg.machine import machine
from rectiseg.models.checkpoint import SHIPPED, load_parser, load_refiner
from rectiseg.models.combine import Cascade
from rectiseg.models.contested import contested, label_map, multiply_adds
from rectiseg.models.crf import FullyConnectedCRF
from rectiseg.models.lrn import LRN
from rectiseg.ops.resize import resized
from rectiseg.refinement import default_refiner


def main(image: Path = STREET, repetitions: int = 5) -> None:
    """Measure and print.

    Args:
        image: The photograph whose confidences, the shipped front's, are refined; at 480x360.
        repetitions: Calls whose median is taken.
    """
    picture = resized(read_image(image)[None], SIZE).clamp(0, 1)
    parser = load_parser()
    lrn = load_refiner(SHIPPED.with_name("camvid_lite_lrn_alone.safetensors"))
    assert isinstance(parser.front, nn.Module)
    assert isinstance(parser.refiner, Cascade)
    assert isinstance(lrn, LRN)
    with torch.inference_mode():
        logits = parser.front(picture)
    grn, _ = parser.refiner.refiners
    networks = {
        "front": (parser.front, (picture,)),
        "LRN": (lrn, (picture, logits)),
        "GRN": (grn, (picture, logits)),
        "GRN, BilateralLRN": (parser.refiner, (picture, logits)),
        "BilateralLRN for any classes": (default_refiner(), (picture, logits)),
    }
    print("## Refiners\n\n480x360, 11 classes, the shipped model, float32.\n")
    print(f"On {machine()}, median of {repetitions}.\n")
    print("| | parameters | multiply-adds | milliseconds |\n|---|--:|--:|--:|")
    for name, (network, inputs) in networks.items():
        parameters = sum(parameter.numel() for parameter in network.parameters())
        row(name, parameters, multiply_adds_of(network, inputs), partial(network, *inputs), repetitions)
    wanted = contested(logits[0].argmax(dim=0), lrn.neighborhood)
    parameters = sum(parameter.numel() for parameter in lrn.parameters())
    work = multiply_adds(lrn, wanted, logits.shape[1])
    row("LRN, its labels alone", parameters, work, lambda: label_map(lrn, picture, logits), repetitions)
    crf = FullyConnectedCRF()
    row("dense CRF, ours", 0, None, lambda: crf(picture, logits), repetitions)
    if find_spec("pydensecrf") is not None:
        row("dense CRF, pydensecrf2", 0, None, lambda: densecrf_marginals(crf, picture, logits), repetitions)
    share = 100 * wanted.float().mean()
    print(f"\n{share:.1f} % of the pixels are contested: for labels alone an LRN is evaluated only there.\n")


def row(name: str, parameters: int, multiply_adds: int | None, call: Callable[[], Tensor], repetitions: int) -> None:
    with torch.inference_mode():
        milliseconds = median_of(call, repetitions)
    work = "" if multiply_adds is None else f"{multiply_adds / 1e9:.2f} G"
    print(f"| {name} | {parameters / 1000:.0f} k | {work} | {milliseconds:.0f} |", flush=True)


def multiply_adds_of(network: nn.Module, inputs: tuple[Tensor, ...]) -> int:
    """Of convolutions and matrix products; the weighted means of Eq. 5 are not among them."""
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        network(*inputs)
    return counter.get_total_flops() // 2


if __name__ == "__main__":
    tyro.cli(main)
