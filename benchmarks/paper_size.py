"""Print what the paper's own sizes take on this machine: two steps of every stage, and one whole image.

python benchmarks/paper_size.py --ade20k ADEChallengeData2016 --cityscapes Cityscapes > docs/paper_size.md

ResNet-101 starts from random weights, and refiners from random confidences: memory, time and a finite loss are all that
this says. Every line is measured in a process of its own.
"""

import math
import resource
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Literal, NamedTuple

import torch
import tyro
from accelerate import Accelerator
from torch import Tensor, nn

from rectiseg.data.registry import open_dataset
from rectiseg.machine import machine
from rectiseg.models.combine import Cascade, SceneParser
from rectiseg.models.context import MultiScaleContext
from rectiseg.models.front import Front
from rectiseg.models.grn import GRN
from rectiseg.models.lrn import LRN
from rectiseg.models.pretrained import pretrained_encoder
from rectiseg.recipes import RECIPES, Recipe
from rectiseg.settings import Settings
from rectiseg.stage import Run
from rectiseg.views import ImageViews

STEPS = 2
StageName = Literal["front", "grn", "lrn", "context"]
RecipeName = Literal["ade20k_paper", "cityscapes_paper"]


class Line(NamedTuple):
    seconds: float
    gigabytes: float  # the most that the process held
    loss: float


class Guesses(ImageViews):
    """Random views of images, with random confidences of as many classes as there are."""

    def view(self, index: int, settings: Settings, generator: torch.Generator) -> tuple[tuple[Tensor, ...], Tensor]:
        (image,), labels = super().view(index, settings, generator)
        logits = torch.randn(len(self.dataset.classes), *labels.shape, generator=generator)
        return (image, logits), labels


def main(ade20k: Path, cityscapes: Path) -> None:
    """Measure and print.

    Args:
        ade20k: ADE20K's scene parsing benchmark, or some of its val images.
        cityscapes: Cityscapes, or some of its images.
    """
    print(f"# The paper's sizes\n\nPrinted by `python {sys.argv[0]} --ade20k ... --cityscapes ...`, on {machine()}.\n")
    print("| recipe | stage | seconds | most memory, GB | loss |\n|---|---|--:|--:|--:|")
    roots: dict[RecipeName, Path] = {"ade20k_paper": ade20k, "cityscapes_paper": cityscapes}
    for name, root in roots.items():
        for title, line in lines(name, root):
            loss = "" if math.isnan(line.loss) else f"{line.loss:.2f}"
            print(f"| {name} | {title} | {line.seconds:.1f} | {line.gigabytes:.1f} | {loss} |", flush=True)
    print("\nA step is a batch of four crops, taken one by one (`rectiseg train --save-memory`); the mean of two.")


def lines(name: RecipeName, root: Path) -> Iterator[tuple[str, Line]]:
    crop = RECIPES[name]().front.crop
    for stage in ("front", "grn", "lrn", "context"):
        yield f"{stage}, a step of {crop[1]}x{crop[0]}", alone(two_steps, name, stage, root)
    yield "front, GRN and LRN, one whole image", alone(whole_image, name, root)


def alone(measure: object, *arguments: object) -> Line:
    with ProcessPoolExecutor(1, get_context("spawn")) as executor:
        return executor.submit(measure, *arguments).result()  # pyright: ignore


def two_steps(name: RecipeName, stage: StageName, root: Path) -> Line:
    recipe = RECIPES[name]()
    dataset = open_dataset(recipe.dataset, root, "train")
    data = ImageViews(dataset) if stage == "front" else Guesses(dataset)
    network = networks(recipe, len(dataset.classes))[stage]
    run = Run(network, data, getattr(recipe, stage), 0, Accelerator(cpu=True), save_memory=True)
    start = time.perf_counter()
    losses = [run.train_step() for _ in range(STEPS)]
    return Line((time.perf_counter() - start) / STEPS, peak(), losses[-1])


def whole_image(name: RecipeName, root: Path) -> Line:
    recipe = RECIPES[name]()
    dataset = open_dataset(recipe.dataset, root, "val")
    parts = networks(recipe, len(dataset.classes))
    parser = SceneParser(parts["front"], Cascade(parts["grn"], parts["lrn"])).eval()
    image = dataset[0].image[None]
    start = time.perf_counter()
    with torch.inference_mode():
        parser(image)
    return Line(time.perf_counter() - start, peak(), float("nan"))


def networks(recipe: Recipe, num_classes: int) -> dict[StageName, nn.Module]:
    torch.manual_seed(0)
    return {
        "front": Front(pretrained_encoder(recipe.encoder, "random"), num_classes),
        "grn": GRN(pretrained_encoder(recipe.encoder, "random"), num_classes, recipe.iterations),
        "lrn": LRN(num_classes, recipe.neighborhood, recipe.lrn_widths),
        "context": MultiScaleContext(num_classes),
    }


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6  # kilobytes, on Linux


if __name__ == "__main__":
    tyro.cli(main)
