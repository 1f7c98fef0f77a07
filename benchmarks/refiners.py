"""Print what each refiner takes beside the front that it follows and beside pydensecrf2, and what it gains.

python benchmarks/refiners.py
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from statistics import median

import torch
import tyro
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from crf import SIZE, STREET, densecrf_marginals
from rectiseg.data.images import read_image
from rectiseg.machine import machine
from rectiseg.measured import Measured, measures, read_record
from rectiseg.models.bilateral_lrn import BilateralLRN
from rectiseg.models.checkpoint import SHIPPED, load_parser, load_refiner
from rectiseg.models.combine import Cascade
from rectiseg.models.contested import contested, label_map, multiply_adds
from rectiseg.models.crf import FullyConnectedCRF
from rectiseg.models.efficientnet_lite import EfficientNetLite
from rectiseg.models.front import Front
from rectiseg.models.grn import GRN
from rectiseg.models.lrn import LRN
from rectiseg.ops.resize import resized

RECORDS = Path(__file__).parent / "table2" / "camvid_lite"
NUM_CLASSES = 11
FRONT, CRF, FAST = "front", "dense CRF", "light GRN, BilateralLRN"
GRN_ROW, LIGHT, LRN_ROW, BILATERAL, TABLE_1 = "GRN", "light GRN", "LRN", "BilateralLRN", "LRN of Table 1"


@dataclass(frozen=True)
class Row:
    """A line of the table: what is called, the work in it, and the record in Table 2 of what it gains."""

    call: Callable[[], Tensor] | None
    parameters: int
    multiply_adds: int | None
    record: str | None = None

    @property
    def gain(self) -> float | None:
        """In mean IoU on val, in points, if it was measured."""
        before, after = recorded("front"), recorded(self.record)
        if before is None or after is None or self.record == "front":
            return None
        return 100 * (mean_iou(after) - mean_iou(before))


def main(image: Path = STREET, repetitions: int = 7) -> None:
    """Measure and print.

    Args:
        image: The photograph whose confidences, the shipped front's, are refined; at 480x360.
        repetitions: Rounds, in which all take turns, and of which the median is taken.
    """
    picture = resized(read_image(image)[None], SIZE).clamp(0, 1)
    with torch.inference_mode():
        logits = load_parser().front(picture)
        found = rows(picture, logits)
        milliseconds = times(found, repetitions)
    print("## Refiners\n")
    print(
        "480x360, 11 classes, EfficientNet-Lite0's front, float32; one iteration of GRN. Gains are points of mean IoU"
    )
    print("over the front on CamVid's val, from the records of Table 2.\n")
    print(f"On {machine()}; all take turns, median of {repetitions}.\n")
    print("| | parameters | multiply-adds | of the front's | of Table 1's LRN | milliseconds | gain |")
    print("|---|--:|--:|--:|--:|--:|--:|")
    front, table_1 = found[FRONT].multiply_adds, found[TABLE_1].multiply_adds
    assert front is not None
    assert table_1 is not None
    for name, row in found.items():
        work = "| | " if row.multiply_adds is None else shares(row.multiply_adds, front, table_1)
        taken = f"{milliseconds[name]:.0f}" if name in milliseconds else ""
        gain = "" if row.gain is None else f"{row.gain:+.2f}"
        print(f"| {name} | {row.parameters / 1000:.0f} k | {work} | {taken} | {gain} |")
    share = 100 * contested(logits[0].argmax(dim=0), 7).float().mean()
    print(f"\n{share:.1f} % of this picture's pixels are contested: for labels alone an LRN looks there only.\n")
    for sentence in verdicts(found, milliseconds):
        print(sentence)
    print()


def rows(picture: Tensor, logits: Tensor) -> dict[str, Row]:
    front, grn, light = (
        Front(EfficientNetLite(0), NUM_CLASSES),
        GRN(EfficientNetLite(0), NUM_CLASSES, 1),
        GRN.light(NUM_CLASSES),
    )
    lrn, bilateral = load_refiner(SHIPPED.with_name("camvid_lite_lrn_alone.safetensors")), BilateralLRN(NUM_CLASSES)
    assert isinstance(lrn, LRN)
    both = picture, logits
    table_1 = LRN(NUM_CLASSES).eval()
    everywhere = torch.ones(SIZE, dtype=torch.bool)
    found = {
        FRONT: row(front, (picture,), "front"),
        TABLE_1: Row(None, parameters_of(table_1), multiply_adds(table_1, everywhere, NUM_CLASSES)),
        LRN_ROW: row(lrn, both, "LRN"),
        BILATERAL: row(bilateral, both, "BilateralLRN"),
        GRN_ROW: row(grn, both, "GRN, N = 1"),
        LIGHT: row(light, both, "light GRN"),
        "GRN, BilateralLRN": row(Cascade(grn, bilateral), both, "GRN, BilateralLRN"),
        FAST: row(Cascade(light, bilateral), both, FAST),
    }
    work = multiply_adds(lrn, contested(logits[0].argmax(dim=0), lrn.neighborhood), NUM_CLASSES)
    found["LRN, its labels alone"] = Row(partial(label_map, lrn, *both), parameters_of(lrn), work)
    crf = FullyConnectedCRF()
    found[f"{CRF}, ours"] = Row(partial(crf, *both), 0, None, "CRF")
    if find_spec("pydensecrf") is not None:
        found[f"{CRF}, pydensecrf2"] = Row(partial(densecrf_marginals, crf, *both), 0, None, "CRF")
    return found


def row(network: nn.Module, inputs: tuple[Tensor, ...], record: str) -> Row:
    network = network.eval()
    return Row(partial(network, *inputs), parameters_of(network), multiply_adds_of(network, inputs), record)


def parameters_of(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def multiply_adds_of(network: nn.Module, inputs: tuple[Tensor, ...]) -> int:
    """Of convolutions and matrix products; the weighted means of Eq. 5 are not among them."""
    with FlopCounterMode(display=False) as counter:
        network(*inputs)
    return counter.get_total_flops() // 2


def shares(work: int, front: int, table_1: int) -> str:
    return f"{work / 1e9:.2f} G | {100 * work / front:.0f} % | {100 * work / table_1:.2f} %"


def times(found: dict[str, Row], repetitions: int) -> dict[str, float]:
    """The median milliseconds of each."""
    taken: dict[str, list[float]] = {name: [] for name, row in found.items() if row.call is not None}
    for _ in range(repetitions + 1):
        for name, values in taken.items():
            call = found[name].call
            assert call is not None
            started = time.perf_counter()
            call()
            values.append(1000 * (time.perf_counter() - started))
    return {name: median(values[1:]) for name, values in taken.items()}  # the first compiles


def recorded(title: str | None) -> Measured | None:
    return None if title is None else read_record(RECORDS / f"{title}.safetensors", {}, NUM_CLASSES)


def mean_iou(found: Measured) -> float:
    return float(measures(NUM_CLASSES)["mean IoU"].value(found.counts["mean IoU"].sum(dim=0)))


def verdicts(found: dict[str, Row], milliseconds: dict[str, float]) -> list[str]:
    """What the fast presets were to reach."""

    def share(name: str, of: str) -> float:
        some, whole = found[name].multiply_adds, found[of].multiply_adds
        assert some is not None
        assert whole is not None
        return 100 * some / whole

    def of_gain(name: str, of: str, at_least: int) -> str:
        some, whole = found[name].gain, found[of].gain
        if some is None or whole is None:
            return "what it gains is not measured."
        return f"{100 * some / whole:.0f} % of its gain {verdict(some >= at_least / 100 * whole)} of {at_least}."

    light, bilateral = share(LIGHT, FRONT), share(BILATERAL, TABLE_1)
    lines = [
        f"{LIGHT}: {light:.0f} % of the front's work an iteration {verdict(light <= 25)} of 25; beside {GRN_ROW}, "
        f"{of_gain(LIGHT, GRN_ROW, 80)}",
        f"{BILATERAL}: {bilateral:.2f} % of the work of Table 1's LRN {verdict(bilateral <= 1)} of 1; beside the "
        f"paper's {LRN_ROW}, narrow, {of_gain(BILATERAL, LRN_ROW, 95)}",
    ]
    peer = f"{CRF}, pydensecrf2"
    if peer in milliseconds:
        for name in (BILATERAL, FAST):
            ratio = milliseconds[name] / milliseconds[peer]
            lines.append(f"{name}: {ratio:.2f} times pydensecrf2's time {verdict(ratio < 1)} of 1.")
    return [line + "\n" for line in lines]


def verdict(met: bool) -> str:
    return f"{'meets' if met else 'misses'} the bar"


if __name__ == "__main__":
    tyro.cli(main)
