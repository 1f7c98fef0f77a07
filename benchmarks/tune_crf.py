"""Search for the five settings of the fully connected CRF on training images of CamVid; no other image is read.

python benchmarks/tune_crf.py --data CamVid --confidences runs/camvid_lite/confidences/front/train

The confidences are to come from fronts that never saw their image (cross-fitting): a front is surer of the images that
it learned from than of others, and a CRF that was fitted to these would trust it too much.
"""

import random
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import cycle, islice
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import torch
import tyro
from torch import Tensor

from rectiseg.data.confidences import Confidences, View, read_about
from rectiseg.data.datasets import CamVid
from rectiseg.evaluate import percent
from rectiseg.machine import machine
from rectiseg.metrics import Scores, confusion, scores_of
from rectiseg.models.crf import FullyConnectedCRF
from rectiseg.progress import ProgressReporter

SETTINGS = (
    "bilateral_width",
    "bilateral_color_width",
    "bilateral_compatibility",
    "gaussian_width",
    "gaussian_compatibility",
)
LARGEST_FACTOR = 3.0  # by which a trial multiplies or divides a setting


class Trial(NamedTuple):
    crf: FullyConnectedCRF
    scores: Scores


def main(data: Path, confidences: Path, images: int = 40, trials: int = 50, seed: int = 0, processes: int = 2) -> None:
    """Search and print.

    Args:
        data: CamVid in SegNet's layout.
        confidences: Stored confidences of its training images.
        images: So many of them are drawn.
        trials: So many settings are tried; an image takes about half a second a trial.
        seed: Of the draw and of the search.
        processes: They divide the images among them.
    """
    stored = Confidences(CamVid(data, "train"), confidences)
    generator = random.Random(seed)
    drawn = sorted(generator.sample(range(len(stored)), images))
    executor = ProcessPoolExecutor(processes, get_context("spawn"), torch.set_num_threads, (1,))
    with executor, ProgressReporter() as reporter:
        reporter.stage("trials", trials + 1)

        def score(crf: FullyConnectedCRF) -> Scores:
            counts = list(executor.map(partial(counts_of, stored, crf), drawn))
            reporter.advance()
            return scores_of(torch.stack(counts).sum(dim=0))

        front = score(FullyConnectedCRF(iterations=0))
        tried = search(score, trials, generator)
    command = f"python benchmarks/tune_crf.py --images {images} --trials {trials} --seed {seed}"
    source = (
        f"{images} of CamVid's {len(stored)} training images, with confidences of {read_about(confidences)['source']}"
    )
    print(page(front, tried, command, source))


def counts_of(stored: Confidences, crf: FullyConnectedCRF, index: int) -> Tensor:
    """The confusion matrix of one image."""
    sample = stored.read(index, View())
    prediction = crf(sample.image[None], sample.logits[None]).argmax(dim=1)
    return confusion(prediction, sample.labels[None], len(stored.dataset.classes))


def search(score: Callable[[FullyConnectedCRF], Scores], trials: int, generator: random.Random) -> list[Trial]:
    """The default; then one setting of the best so far after the other, times a random factor. Best first."""
    best = Trial(FullyConnectedCRF(), score(FullyConnectedCRF()))
    tried = [best]
    for name in islice(cycle(SETTINGS), trials - 1):
        value = getattr(best.crf, name) * LARGEST_FACTOR ** generator.uniform(-1, 1)
        crf = FullyConnectedCRF(**settings_of(best.crf) | {name: float(f"{value:.3g}")})  # pyright: ignore
        tried.append(Trial(crf, score(crf)))
        best = max(best, tried[-1], key=mean_iou)
    return sorted(tried, key=mean_iou, reverse=True)


def settings_of(crf: FullyConnectedCRF) -> dict[str, float]:
    return {name: getattr(crf, name) for name in SETTINGS}


def mean_iou(trial: Trial) -> float:
    return trial.scores.mean_iou


def page(front: Scores, tried: Sequence[Trial], command: str, source: str) -> str:
    best = settings_of(tried[0].crf)
    lines = [
        "# Settings of the fully connected CRF",
        "",
        f"Printed by `{command}` from {source}, on {machine()}.",
        "",
        "| mean IoU | gain | pixel accuracy | " + " | ".join(name.replace("_", " ") for name in SETTINGS) + " |",
        "|--:|--:|--:|" + "--:|" * len(SETTINGS),
        f"| {percent(front.mean_iou)} | | {percent(front.pixel_accuracy)} |" + " |" * len(SETTINGS),
    ]
    for crf, scores in tried:
        gain = 100 * (scores.mean_iou - front.mean_iou)
        values = " | ".join(f"{value:g}" for value in settings_of(crf).values())
        lines.append(f"| {percent(scores.mean_iou)} | {gain:+.2f} | {percent(scores.pixel_accuracy)} | {values} |")
    chosen = ", ".join(f"{name}={value:g}" for name, value in best.items())
    lines += ["", "Per cent. The first line is without a CRF.", "", f"Chosen: `FullyConnectedCRF({chosen})`"]
    return "\n".join(lines)


if __name__ == "__main__":
    tyro.cli(main)
