"""Print docs/results.md: what the shipped parser is worth on CamVid's val images, after each of its stages.

python benchmarks/camvid_lite.py --data CamVid --espnet espnet_p2q8_camvid.safetensors > docs/results.md
"""

import sys
from pathlib import Path

import tyro

from rectiseg.data.datasets import CamVid
from rectiseg.evaluate import evaluate_parser, percent
from rectiseg.machine import machine
from rectiseg.metrics import Scores
from rectiseg.models.checkpoint import SHIPPED, load_parser, load_refiner, read_training
from rectiseg.models.zoo.espnet import load_espnet
from rectiseg.progress import ProgressReporter

LRN_ALONE = SHIPPED.with_name("camvid_lite_lrn_alone.safetensors")


def main(data: Path, espnet: Path, model: Path = SHIPPED, lrn_alone: Path = LRN_ALONE) -> None:
    """Evaluate and print.

    Args:
        data: CamVid in SegNet's layout.
        espnet: ESPNet's published CamVid weights, for comparison.
        model: The parser.
        lrn_alone: An LRN trained to follow the front directly.
    """
    val = CamVid(data, "val")
    with ProgressReporter() as reporter:
        rows = evaluate_parser(load_parser(model), {"LRN": load_refiner(lrn_alone)}, val, reporter)
        other = evaluate_parser(load_espnet(espnet), {}, val, reporter)["front"]
    order = ("front", "front +LRN", "front +GRN", "front +GRN +LRN")
    training = read_training(model) | read_training(lrn_alone)
    print(page({name: rows[name] for name in order} | {"ESPNet": other}, val.classes, training))


def page(rows: dict[str, Scores], classes: tuple[str, ...], training: dict[str, str]) -> str:
    seconds = {name: float(value) for name, value in training.items() if name.endswith("_seconds")}
    front = next(iter(rows.values()))
    lines = [
        "# Results",
        "",
        f"Printed by `python {sys.argv[0]} --data CamVid --espnet espnet_p2q8_camvid.safetensors`, on {machine()}.",
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
        f"Trained by `rectiseg train {training['recipe']} --data CamVid --seed {training['seed']} --grn-weights FIRST` "
        f"on CamVid's 367 training images, on {training['machine']}. FIRST is src/rectiseg/weights/"
        "camvid_lite.safetensors of commit b345b88, whose GRN (four epochs after an earlier, weaker front) goes on "
        "learning after this one. Minutes by stage: "
        + ", ".join(f"{name.removesuffix('_seconds')} {value / 60:.0f}" for name, value in seconds.items())
        + ".",
        "",
        "Per cent. The weights are those after the last step. Chosen after measurements on these images, which are "
        "therefore a little kind to us: the front's length, its class balance and its jitter; that refiners learn "
        "without class balance, from what the front says of the images it learned from; where GRN starts, that it does "
        "one iteration, and that its auxiliary loss fades. The LRN of the second row follows the front directly. "
        "ESPNet is Mehta et al.'s (ECCV 2018) with its published CamVid weights.",
        "",
        "## IoU by class",
        "",
        "| | " + " | ".join(rows) + " |",
        "|---|" + "--:|" * len(rows),
    ]
    for index, name in enumerate(classes):
        lines.append(f"| {name} | " + " | ".join(percent(scores.iou[index]) for scores in rows.values()) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    tyro.cli(main)
