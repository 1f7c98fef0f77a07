"""Write docs/model_card.md and its pictures: the shipped parser on CamVid's val images, after each of its stages.

python benchmarks/model_card.py --data CamVid --espnet espnet_p2q8_camvid.safetensors -o docs

The pictures show label maps alone: the photographs and their annotation are not ours to publish.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import torch
import tyro
from jaxtyping import Integer
from PIL import Image as PillowImage
from tyro.conf import arg

from rectiseg.data.datasets import CamVid, Dataset
from rectiseg.data.files import atomic_path
from rectiseg.evaluate import boundary_measures, evaluate_parser, further_cells, percent
from rectiseg.inference import stages
from rectiseg.machine import machine
from rectiseg.metrics import ConfusionMatrix, Scores
from rectiseg.models.checkpoint import SHIPPED, load_parser, load_refiner, read_training
from rectiseg.models.combine import SceneParser
from rectiseg.models.zoo.espnet import load_espnet
from rectiseg.progress import ProgressReporter, Reporter
from rectiseg.types import IGNORE_INDEX
from rectiseg.visualize import Palette, Pixels, colorize, grid, stacked

LRN_ALONE = SHIPPED.with_name("camvid_lite_lrn_alone.safetensors")
WHOLE = "front +GRN +BilateralLRN"
HELPED, HURT = 6, 3
APART = 10  # images between two that are shown: neighbours in a video look alike
VERDICTS = np.array([[235, 235, 235], [40, 150, 60], [200, 40, 40], [90, 90, 200], [0, 0, 0]], np.uint8)
"""Pixels that refinement left alone, mended, broke, and took from one mistake to another; and those not annotated."""


class Case(NamedTuple):
    """One image's labels before and after the refiners, and the truth."""

    name: str
    before: Integer[np.ndarray, "height width"]
    after: Integer[np.ndarray, "height width"]
    truth: Integer[np.ndarray, "height width"]

    @property
    def gain(self) -> float:
        return self.mean_iou(self.after) - self.mean_iou(self.before)

    def mean_iou(self, labels: Integer[np.ndarray, "height width"]) -> float:
        """Over the classes that occur in this image."""
        matrix = ConfusionMatrix(IGNORE_INDEX)  # room for any class; those that do not occur are left out
        matrix.update(torch.from_numpy(labels)[None].long(), torch.from_numpy(self.truth)[None])
        return matrix.scores().mean_iou

    def verdict(self) -> Pixels:
        was, now = self.before == self.truth, self.after == self.truth
        changed = self.before != self.after
        kinds = np.select([self.truth == IGNORE_INDEX, ~changed, now, was], [4, 0, 1, 2], 3)
        return VERDICTS[kinds]


def main(
    data: Path,
    espnet: Path,
    output: Annotated[Path, arg(aliases=["-o"])] = Path("docs"),
    model: Path = SHIPPED,
    lrn_alone: Path = LRN_ALONE,
) -> None:
    """Measure and write.

    Args:
        data: CamVid in SegNet's layout.
        espnet: ESPNet's published CamVid weights, for comparison.
        output: The folder of the card and its pictures.
        model: The parser.
        lrn_alone: An LRN trained to follow the front directly.
    """
    val = CamVid(data, "val")
    parser = load_parser(model)
    further = boundary_measures(len(val.classes))
    with ProgressReporter() as reporter:
        rows = evaluate_parser(parser, {"LRN": load_refiner(lrn_alone)}, val, reporter, further)
        other = evaluate_parser(load_espnet(espnet), {}, val, reporter, further)["front"]
        found = cases(parser, val, reporter)
    order = ("front", "front +LRN", "front +GRN", WHOLE)
    best, worst = extremes(found, HELPED), extremes(found, HURT, worst=True)
    for name, chosen in (("helped", best), ("hurt", worst)):
        with atomic_path(output / f"model_card_{name}.png") as path:
            picture(chosen, val.classes, np.array(val.palette, np.uint8)).save(path, format="PNG", optimize=True)
    training = read_training(model) | read_training(lrn_alone)
    text = card({name: rows[name] for name in order} | {"ESPNet": other}, val.classes, training, found)
    with atomic_path(output / "model_card.md") as path:
        path.write_text(text + "\n", encoding="utf-8")


def cases(parser: SceneParser, dataset: Dataset, reporter: Reporter) -> list[Case]:
    reporter.stage("pictures", len(dataset))
    found = []
    with torch.inference_mode():
        for index in range(len(dataset)):
            image, labels, name = dataset[index]
            maps = [logits.argmax(dim=1)[0].byte().numpy() for _, logits in stages(parser, image[None])]
            found.append(Case(name, maps[0], maps[-1], labels.numpy()))
            reporter.advance()
    return found


def extremes(found: Sequence[Case], count: int, worst: bool = False) -> list[Case]:
    """Those that gained, or lost, the most, no two of them near each other in the video."""
    chosen: list[int] = []
    for index in sorted(range(len(found)), key=lambda index: found[index].gain, reverse=not worst):
        if len(chosen) < count and all(abs(index - other) >= APART for other in chosen):
            chosen.append(index)
    return [found[index] for index in chosen]


def picture(chosen: Sequence[Case], classes: Sequence[str], palette: Palette) -> PillowImage.Image:
    """A line an image: the front's labels, the refined ones, and what became of the changed pixels."""
    tiles: list[tuple[str, Pixels]] = []
    for case in chosen:
        tiles += [
            (f"{case.name}: front, {percent(case.mean_iou(case.before))} %", half(colorize(case.before, palette))),
            (f"refined, {percent(case.mean_iou(case.after))} %", half(colorize(case.after, palette))),
            ("mended green, broken red", half(case.verdict())),
        ]
    return stacked(grid(tiles, columns=3), [case.before for case in chosen], classes, palette).quantize(64)


def half(pixels: Pixels) -> Pixels:
    return pixels[::2, ::2]


def card(rows: Mapping[str, Scores], classes: Sequence[str], training: Mapping[str, str], found: Sequence[Case]) -> str:
    seconds = {name: float(value) for name, value in training.items() if name.endswith("_seconds")}
    front = next(iter(rows.values()))
    better = sum(case.gain > 0 for case in found)
    lines = [
        "# Model card: camvid_lite",
        "",
        "The parser that ships with the package: an EfficientNet-Lite0 front of output stride 8, a light GRN and a "
        "BilateralLRN, for the eleven classes of CamVid's streets; and a narrow LRN of the paper's that follows the "
        "front directly.",
        "",
        f"Written by `python {sys.argv[0]} --data CamVid --espnet espnet_p2q8_camvid.safetensors -o docs`, on "
        f"{machine()}.",
        "",
        "## Training",
        "",
        f"`rectiseg train {training['recipe']} --data CamVid --seed {training['seed']}`, with `--stages lrn_alone` for "
        f"that LRN, on CamVid's 367 training images, on {training['machine']}. Minutes by stage: "
        + ", ".join(f"{name.removesuffix('_seconds')} {value / 60:.0f}" for name, value in seconds.items())
        + ". The front's first weights are ImageNet's.",
        "",
        f"## CamVid val, {front.classes_counted} classes, whole images of 480x360, one scale",
        "",
        "| | mean IoU | gain | pixel accuracy | gain |",
        "|---|--:|--:|--:|--:|",
    ]
    for name, scores in rows.items():
        gains = [
            f"{100 * (value - base):+.2f}" if name.startswith("front +") else ""
            for value, base in (
                (scores.mean_iou, front.mean_iou),
                (scores.pixel_accuracy, front.pixel_accuracy),
            )
        ]
        lines.append(
            f"| {name} | {percent(scores.mean_iou)} | {gains[0]} | {percent(scores.pixel_accuracy)} | {gains[1]} |"
        )
    lines += [
        "",
        "Per cent. The weights are those after the last step. Chosen after measurements on these images, which are "
        "therefore a little kind to us: the front's length, its class balance and its jitter; that refiners learn "
        "without class balance and with the Lovász-Softmax loss, from what the front says of the images it learned "
        "from, with displaced boundaries; that GRN is light and does one iteration; the dilations of the "
        "BilateralLRN and its learned look of the image, after ESPNet. The LRN of the second row follows the front "
        "directly. ESPNet is Mehta et al.'s (ECCV 2018) with its published CamVid weights. "
        "Boundary F: by class and image, averaged over images, then over classes. Wrong regions are 4-connected "
        "regions of one predicted class with 25 or more annotated pixels, more than half of them wrong.",
        "",
        "## Boundaries, and IoU by class",
        "",
        "| | " + " | ".join(rows) + " |",
        "|---|" + "--:|" * len(rows),
    ]
    lines += [f"| {title} | " + " | ".join(cells) + " |" for title, cells in further_cells(rows).items()]
    for index, name in enumerate(classes):
        lines.append(f"| {name} | " + " | ".join(percent(scores.iou[index]) for scores in rows.values()) + " |")
    lines += [
        "",
        "## Where refinement helps, and where it hurts",
        "",
        f"Refinement raises the mean IoU of {better} of {len(found)} images. The six that gain the most and the three "
        f"that gain the least or lose, no two within {APART} images of the video:",
        "",
        "![Six label maps before and after refinement, and which pixels it mended](model_card_helped.png)",
        "",
        "![Three label maps that refinement mended least or made worse](model_card_hurt.png)",
        "",
        "The labels of the front, those after the refiners, with their mean IoU over the image's classes, and their "
        "difference: green was mended, red was broken, blue went from one mistake to another, black is not annotated.",
    ]
    losses = lost_classes(rows["front"], rows[WHOLE], classes)
    lines += ["", "Classes that lose IoU: " + (", ".join(losses) if losses else "none") + "."]
    return "\n".join(lines)


def lost_classes(before: Scores, after: Scores, classes: Sequence[str]) -> list[str]:
    """Those whose IoU falls, the worst first."""
    changes = sorted(zip(np.subtract(after.iou, before.iou).tolist(), classes, strict=True))
    return [f"{name} ({100 * change:+.1f})" for change, name in changes if change < 0]


if __name__ == "__main__":
    tyro.cli(main)
