"""Print what an LRN for any parser is worth after parsers that it never saw, and train the one that ships.

python benchmarks/any_parser.py --data CamVid --parsers lite=runs/camvid_lite/confidences/front \
    espnet=runs/espnet/confidences --cityscapes Cityscapes --ade20k ADE20K --weights WEIGHTS

Each parser is a folder with its stored confidences of CamVid in train/ and val/, as `rectiseg confidences` writes them.
Those whose names begin alike, up to a dash, are of one family. For each family an LRN learns from the others', and is
measured after its first parser beside a CRF whose settings are the same after all; so is what it becomes when it goes
on learning from that parser, as `rectiseg fit` does. Then one learns from all parsers, and is measured after others, of
label sets that it never saw. The same command goes on where it was stopped.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, NamedTuple, cast

import torch
import tyro
from torch import nn

from rectiseg.any_parser import AnyParserViews
from rectiseg.data.ade20k import ADE20K
from rectiseg.data.cityscapes import Cityscapes
from rectiseg.data.confidences import Confidences, View, store_confidences
from rectiseg.data.datasets import CamVid, Dataset, Joined, Split
from rectiseg.fit import lasting, of_lrn, trainer
from rectiseg.intervals import Blocks, blocks_of
from rectiseg.machine import machine
from rectiseg.measured import as_markdown, measured
from rectiseg.models.bilateral_lrn import BilateralLRN
from rectiseg.models.checkpoint import save
from rectiseg.models.combine import Cascade
from rectiseg.models.crf import FullyConnectedCRF
from rectiseg.models.external import from_file
from rectiseg.models.fusion import MultiScale
from rectiseg.models.zoo.espnet import load_espnet
from rectiseg.models.zoo.espnetv2 import load_espnetv2
from rectiseg.progress import ProgressReporter, Reporter
from rectiseg.recipes import camvid_lite
from rectiseg.views import ConfidenceViews

SEED = 0
ABOUT = """Parsers whose names begin with lite are fronts of ours, one family; ESPNet is another. On CamVid, the LRN for
any parser learned from the other family alone: it saw the same training images, but neither the parser that it follows
nor one like it. The fitted one goes on from there with the parser's own answers to them. On Cityscapes and ADE20K, the
LRN is the one that ships. It learned from all of CamVid's parsers and saw neither these images nor their classes. The
CRF's setting is the best of three that were tried by hand on CamVid's test images after ESPNet. Chosen after
measurements on every third of CamVid's val images, after ESPNet: the LRN's dilations and its learned appearance; on
training images that a front of ours had not seen: how far boundaries are displaced in training. The weights are those
after the last step. Intervals are of 95 %, from a bootstrap over blocks: twenty consecutive frames of CamVid, single
images of the others. Milliseconds were partly taken beside other work on the same machine: of each table only their
ratios say something."""


class Unseen(NamedTuple):
    """A parser of a label set that no LRN learned from, and the images that it is measured on."""

    name: str
    parser: nn.Module
    dataset: Dataset


def main(
    data: Path,
    parsers: tuple[str, ...],
    cityscapes: Path,
    ade20k: Path,
    weights: Path,
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("runs/any_lrn"),
    steps: int = 750,
) -> None:
    """Train, measure and print.

    Args:
        data: CamVid in SegNet's layout.
        parsers: NAME=FOLDER, of two families or more: stored confidences in FOLDER/train and FOLDER/val.
        cityscapes: Cityscapes in its official layout, or some of its images.
        ade20k: The scene parsing benchmark of ADE20K, or some of its images.
        weights: The folder of espnet_p2q8_cityscapes and espnetv2_s2.0_cityscapes, .safetensors, and of
            deeplabv3_mobilenetv2_ade20k.tflite.
        output: Where the LRNs go; any_classes.safetensors is the one that learned from all.
        steps: How long each LRN trains.
    """
    folders = {name: Path(folder) for name, _, folder in (parser.partition("=") for parser in parsers)}
    firsts = {family_of(name): name for name in reversed(folders)}
    val = CamVid(data, "val")
    about = {"seed": str(SEED), "steps": str(steps), "parsers": ", ".join(folders), "machine": machine()}
    print("# An LRN for any parser\n")
    print(f"Printed by `python benchmarks/any_parser.py --parsers {' '.join(folders)} --steps {steps} ...`,")
    print(f"seed {SEED}, on {machine()}.\n")
    print(ABOUT)
    with ProgressReporter() as reporter:
        for family, name in reversed(firsts.items()):
            others = [folder for other, folder in folders.items() if family_of(other) != family]
            lrn = learned_from(data, others, output / f"without_{family}", steps, reporter)
            views = stored(data, folders[name], "val")
            refiners = {
                "LRN for any parser": lrn,
                "LRN, fitted": fitted(lrn, data, folders[name], output / name, steps, reporter),
            }
            print_table(f"{name} on CamVid's val", refiners, views, blocks_of(val.names), output / name, reporter)
        lrn = learned_from(data, list(folders.values()), output / "all", steps, reporter)
        save(lrn, output / "any_classes.safetensors", about, half=True)
        for name, parser, dataset in unseen(cityscapes, ade20k, weights):
            folder = output / name
            store(name, parser, dataset, folder / "confidences", reporter)
            views = ConfidenceViews(Confidences(dataset, folder / "confidences"))
            print_table(
                name, {"LRN for any parser": lrn}, views, [[index] for index in range(len(dataset))], folder, reporter
            )


def print_table(
    title: str,
    refiners: Mapping[str, nn.Module],
    views: ConfidenceViews,
    blocks: Blocks,
    folder: Path,
    reporter: Reporter,
) -> None:
    """A parser by itself, with the CRF, and with each of the refiners."""
    networks = {"front": Cascade(), "CRF, one setting for all": FullyConnectedCRF(), **refiners}
    rows = {
        name: [measured(network, views, folder / f"{name}.safetensors", reporter=reporter)]
        for name, network in networks.items()
    }
    print(f"\n## {title}\n\n{len(views)} images, {len(blocks)} blocks.\n")
    print(as_markdown(rows, len(views.confidences.dataset.classes), blocks), flush=True)


def unseen(cityscapes: Path, ade20k: Path, weights: Path) -> Iterator[Unseen]:
    """Those of Cityscapes see the image halved, as their authors do."""
    streets = Joined(Cityscapes(cityscapes, "train"), Cityscapes(cityscapes, "val"))
    espnet = load_espnet(weights / "espnet_p2q8_cityscapes.safetensors")
    espnetv2 = load_espnetv2(weights / "espnetv2_s2.0_cityscapes.safetensors")
    half = (0.5, 0.5, 0.5)
    deeplab = weights / "deeplabv3_mobilenetv2_ade20k.tflite"
    yield Unseen("ESPNet on Cityscapes", MultiScale(espnet, scales=(0.5,), flip=False), streets)
    yield Unseen("ESPNetv2 on Cityscapes", MultiScale(espnetv2, scales=(0.5,), flip=False), streets)
    yield Unseen(
        "DeepLab on ADE20K", from_file(deeplab, mean=half, std=half, keep_aspect=True, void=0), ADE20K(ade20k, "val")
    )


def store(name: str, parser: nn.Module, dataset: Dataset, folder: Path, reporter: Reporter) -> None:
    reporter.stage(f"confidences, {name}", len(dataset))
    with torch.inference_mode():
        store_confidences(parser.eval(), dataset, folder, [View()], name, on_image=reporter.advance)


def family_of(name: str) -> str:
    return name.partition("-")[0]


def learned_from(data: Path, folders: Sequence[Path], output: Path, steps: int, reporter: Reporter) -> BilateralLRN:
    """An LRN for any parser, from these parsers' confidences of the training images."""
    train = AnyParserViews([stored(data, folder, "train") for folder in folders])
    alone = replace(camvid_lite().bilateral, displacement=0.0)  # the views are displaced already
    settings = lasting(alone, steps, train.parsers[0].confidences)
    learn = trainer(output, SEED, reporter)
    return cast(BilateralLRN, learn("lrn", BilateralLRN, train, stored(data, folders[0], "val"), settings))


def fitted(general: BilateralLRN, data: Path, folder: Path, output: Path, steps: int, reporter: Reporter) -> nn.Module:
    """The same, after it went on learning from one parser."""
    train, val = (stored(data, folder, split) for split in ("train", "val"))
    build = partial(general.specialized, len(val.confidences.dataset.classes))
    return trainer(output, SEED, reporter)("fitted", build, train, val, of_lrn(train.confidences, steps))


def stored(data: Path, folder: Path, split: Split) -> ConfidenceViews:
    return ConfidenceViews(Confidences(CamVid(data, split), folder / split))


if __name__ == "__main__":
    tyro.cli(main)
