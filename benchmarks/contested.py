"""Print what LRN's labels cost where it is evaluated only where it can change one, beside all of it.

python benchmarks/contested.py --camvid CamVid --cityscapes Cityscapes --espnet espnet_p2q8_cityscapes.safetensors
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
import tyro
from torch import Tensor, nn

from rectiseg.data.datasets import CamVid, Dataset
from rectiseg.data.registry import open_dataset
from rectiseg.machine import machine
from rectiseg.models.checkpoint import SHIPPED, load_parser, load_refiner
from rectiseg.models.contested import contested, label_map, multiply_adds
from rectiseg.models.lrn import LRN
from rectiseg.models.zoo.espnet import load_espnet
from rectiseg.ops.likeliest import likeliest
from rectiseg.types import Image, Logits, Parser

AT_LEAST_FEWER = {"CamVid's val": 3, "Cityscapes": 4}
AT_LEAST_FASTER = 2


@dataclass
class Counted:
    """Sums over images, of all of LRN and of what its labels need."""

    images: int = 0
    size: str = ""
    pixels: int = 0
    contested: int = 0
    dense_multiply_adds: int = 0
    multiply_adds: int = 0
    differing: int = 0
    seconds: dict[str, float] = field(default_factory=lambda: {"dense": 0.0, "label_map": 0.0})

    def count(self, lrn: LRN, logits: Logits) -> None:
        wanted = contested(logits[0].argmax(dim=0), lrn.neighborhood)
        self.images += 1
        self.size = f"{logits.shape[3]}x{logits.shape[2]}"
        self.pixels += wanted.numel()
        self.contested += int(wanted.sum())
        self.dense_multiply_adds += multiply_adds(lrn, torch.ones_like(wanted), logits.shape[1])
        self.multiply_adds += multiply_adds(lrn, wanted, logits.shape[1])

    def run(self, lrn: LRN, image: Image, logits: Logits) -> None:
        dense = self.timed("dense", lambda: likeliest(lrn(image, logits)))
        labels = self.timed("label_map", lambda: label_map(lrn, image, logits))
        self.differing += int((dense != labels).sum())

    def timed(self, name: str, call: Callable[[], Tensor]) -> Tensor:
        started = time.perf_counter()
        result = call()
        self.seconds[name] += time.perf_counter() - started
        return result


def main(
    camvid: Path | None = None, cityscapes: Path | None = None, espnet: Path | None = None, every: int = 1
) -> None:
    """Measure and print what there is data for.

    Args:
        camvid: CamVid's folder: the shipped front and LRN on its val images.
        cityscapes: Cityscapes' folder: ESPNet's predictions of its images, and an LRN of its 19 classes that is not
            trained, as only work is counted.
        espnet: ESPNet's published weights for Cityscapes.
        every: Take each so-many-th image only.
    """
    print(f"## LRN where it can change a label\n\nOn {machine()}.\n")
    print("| images | contested pixels | multiply-adds | fewer | seconds | faster | labels that differ |")
    print("|---|--:|--:|--:|--:|--:|--:|")
    with torch.inference_mode():
        counts = {}
        if camvid is not None:
            lrn = load_refiner(SHIPPED.with_name("camvid_lite_lrn_alone.safetensors"))
            counts["CamVid's val"] = counted(lrn, load_parser().front, [CamVid(camvid, "val")], every, run=True)
        if cityscapes is not None and espnet is not None:
            parts = [open_dataset("cityscapes", cityscapes, part) for part in ("train", "val")]
            counts["Cityscapes"] = counted(LRN.narrow(19).eval(), load_espnet(espnet), parts, every, run=False)
    print()
    for name, count in counts.items():
        fewer = count.dense_multiply_adds / count.multiply_adds
        print(
            f"{name}: {fewer:.1f} times fewer multiply-adds {verdict(fewer >= AT_LEAST_FEWER[name])} of "
            f"{AT_LEAST_FEWER[name]}."
        )
        if count.seconds["dense"]:
            faster = count.seconds["dense"] / count.seconds["label_map"]
            print(f"{name}: {faster:.2f} times less time {verdict(faster >= AT_LEAST_FASTER)} of {AT_LEAST_FASTER}.")
    if not counts:
        print("Not measured: name --camvid, or --cityscapes and --espnet.")
    print()


def counted(lrn: nn.Module, parser: Parser, datasets: list[Dataset], every: int, run: bool) -> Counted:
    assert isinstance(lrn, LRN)
    count = Counted()
    samples = [(dataset, index) for dataset in datasets for index in range(len(dataset))][::every]
    for dataset, index in samples:
        image = dataset[index].image[None]
        logits = parser(image)
        count.count(lrn, logits)
        if run:
            count.run(lrn, image, logits)
    seconds, faster, differing = "", "", ""
    if run:
        dense, sparse = count.seconds["dense"] / count.images, count.seconds["label_map"] / count.images
        seconds, faster = f"{dense:.2f}, {sparse:.2f}", f"{dense / sparse:.2f}"
        differing = f"{count.differing} of {count.pixels}"
    dense, work = count.dense_multiply_adds / count.images / 1e9, count.multiply_adds / count.images / 1e9
    print(
        f"| {count.images} of {count.size} | "
        f"{100 * count.contested / count.pixels:.1f} % | {dense:.1f} G, {work:.1f} G | {dense / work:.1f} | "
        f"{seconds} | {faster} | {differing} |",
        flush=True,
    )
    return count


def verdict(met: bool) -> str:
    return f"{'meets' if met else 'misses'} the bar"


if __name__ == "__main__":
    tyro.cli(main)
