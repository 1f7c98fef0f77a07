"""Print what other people's networks reach here with their published weights, on CamVid and on Cityscapes.

python benchmarks/zoo.py --camvid CamVid --cityscapes Cityscapes --weights WEIGHTS > docs/zoo.md

Of Cityscapes' training and validation images all are measured that lie there: give it a sample.
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch.nn.functional as F
import tyro
from torch import nn

from rectiseg.boundaries import BoundaryF
from rectiseg.data.cityscapes import Cityscapes
from rectiseg.data.datasets import CamVid, Dataset, Joined
from rectiseg.evaluate import evaluate_parser, percent
from rectiseg.machine import machine
from rectiseg.metrics import Scores
from rectiseg.models.fusion import MultiScale
from rectiseg.models.zoo.espnet import load_espnet
from rectiseg.models.zoo.espnetv2 import load_espnetv2
from rectiseg.ops.resize import resized
from rectiseg.progress import ProgressReporter
from rectiseg.types import Image, Logits, Parser

BOUNDARY = "boundary F at 3 px"


class Candidate(NamedTuple):
    """A parser with what its line says of it, and the images that it is measured on."""

    network: str
    data: str
    sees: str
    parser: Parser
    dataset: Dataset


class MeansOfFour(nn.Module):
    """A parser that sees every two by two pixels as their mean, and whose answer is brought to the image's size."""

    def __init__(self, parser: nn.Module):
        super().__init__()
        self.parser = parser

    def forward(self, image: Image) -> Logits:
        return resized(self.parser(F.avg_pool2d(image, 2)), image.shape[-2:])


def main(camvid: Path, cityscapes: Path, weights: Path) -> None:
    """Measure and print.

    Args:
        camvid: CamVid in SegNet's layout.
        cityscapes: Cityscapes in its official layout, or some of its images.
        weights: The folder of espnet_p2q8_camvid, espnet_p2q8_cityscapes and espnetv2_s2.0_cityscapes, .safetensors.
    """
    val = CamVid(camvid, "val")
    splits = Cityscapes(cityscapes, "train"), Cityscapes(cityscapes, "val")
    print(f"# Other people's networks\n\nPrinted by `python {sys.argv[0]} ...`, on {machine()}.\n")
    print(
        f"CamVid: the {len(val)} images of val. Cityscapes: {len(splits[0])} images of train, from which the networks "
        f"have learned, and {len(splits[1])} of val. Per cent, at the images' own size.\n"
    )
    print(f"| network | data | sees the image | mean IoU | of classes | pixel accuracy | {BOUNDARY} |")
    print("|---|---|---|--:|--:|--:|--:|")
    for candidate in candidates(val, Joined(*splits), weights):
        scores = measured(candidate)
        cells = (
            *candidate[:3],
            percent(scores.mean_iou),
            str(scores.classes_counted),
            percent(scores.pixel_accuracy),
            percent(scores.further[BOUNDARY]),
        )
        print(f"| {' | '.join(cells)} |", flush=True)


def candidates(camvid: Dataset, cityscapes: Dataset, weights: Path) -> Iterator[Candidate]:
    yield Candidate("ESPNet", "CamVid", "whole", load_espnet(weights / "espnet_p2q8_camvid.safetensors"), camvid)
    for name, network in (
        ("ESPNet", load_espnet(weights / "espnet_p2q8_cityscapes.safetensors")),
        ("ESPNetv2", load_espnetv2(weights / "espnetv2_s2.0_cityscapes.safetensors")),
    ):
        antialiased = MultiScale(network, scales=(0.5,), flip=False)
        yield Candidate(name, "Cityscapes", "halved by `MultiScale`", antialiased, cityscapes)
        yield Candidate(name, "Cityscapes", "halved by means of 2x2", MeansOfFour(network), cityscapes)


def measured(candidate: Candidate) -> Scores:
    dataset = candidate.dataset
    further = {BOUNDARY: BoundaryF(len(dataset.classes), 3)}
    with ProgressReporter() as reporter:
        (scores,) = evaluate_parser(candidate.parser, {}, dataset, reporter, further).values()
    return scores


if __name__ == "__main__":
    tyro.cli(main)
