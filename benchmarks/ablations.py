"""Print what each choice in LRN and GRN is worth: one change at a time, trained briefly, after the same front.

python benchmarks/ablations.py --data CamVid --run runs/camvid_lite

The folder is that of a training of camvid_lite, whose front is made now if it is not there; RUN_folds gets the fronts
of cross-fitting. Each variant is trained once; the same command goes on where it was stopped.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import tyro
from torch import Tensor, nn

from rectiseg.data.datasets import Split
from rectiseg.intervals import blocks_of
from rectiseg.machine import machine
from rectiseg.measured import Measured, as_markdown, measured
from rectiseg.models.combine import Cascade
from rectiseg.models.grn import GRN
from rectiseg.models.lrn import LRN, NARROW
from rectiseg.progress import ProgressReporter
from rectiseg.recipes import Recipe, camvid_lite
from rectiseg.settings import Settings
from rectiseg.train import Training
from rectiseg.views import ConfidenceViews

LRNS: Mapping[str, Callable[[int], LRN]] = {
    "LRN": LRN.narrow,
    "LRN, centre bias 1 (Eq. 6 to the letter)": partial(LRN, widths=NARROW, center_bias=1.0),
    **{f"LRN, m = {m}": partial(LRN.narrow, neighborhood=m) for m in (3, 5, 9)},
    "LRN of probabilities": partial(LRN, widths=NARROW, propagates="probabilities"),
    "LRN, twice as wide": partial(LRN, widths=tuple(2 * width for width in NARROW)),
}
# What the settings of its training are, and what of GRN itself is another way.
GRNS: Mapping[str, tuple[dict[str, Any], dict[str, float | bool]]] = {
    "GRN": ({}, {}),
    "GRN, cross-entropy alone": ({"lovasz": 0.0}, {}),
    "GRN, images as they are": ({"scales": (1.0,), "jitter": 0.0}, {}),
    "GRN, auxiliary loss until the end": ({"anneal_auxiliary": False}, {}),
    "GRN without the auxiliary loss": ({}, {"auxiliary_weight": 0.0}),
    "GRN, loss on the last iteration only": ({}, {"every_iteration": False}),
}


class Degraded(ConfidenceViews):
    """Confidences that say less than the front did: of a random temperature, under smooth noise."""

    def view(self, index: int, settings: Settings, generator: torch.Generator) -> tuple[tuple[Tensor, ...], Tensor]:
        (image, logits), labels = super().view(index, settings, generator)
        strength, temperature = torch.rand(2, generator=generator).tolist()
        for cell in (8, 32):  # pixels: the front's grid, and things
            size = [max(2, side // cell) for side in labels.shape]
            noise = F.interpolate(
                torch.randn(1, len(logits), *size, generator=generator), labels.shape, mode="bilinear"
            )
            logits = logits + 0.35 * strength * logits.std() * noise[0]
        return (image, logits / 2**temperature), labels


class Variant(Training):
    """A refiner with one change; its front and the confidences that it learns from are another training's."""

    def __init__(
        self, whole: Training, recipe: Recipe, title: str, confidences: Callable[[Split], ConfidenceViews] | None = None
    ):
        folder = whole.output / "ablations" / title
        super().__init__(recipe, whole.data, folder, whole.seed, whole.encoder_weights, whole.reporter)
        self.front = whole.front
        self.samples = confidences or whole.after_front

    def lrn_of(self, build: Callable[[int], LRN]) -> nn.Module:
        return self.trained("lrn_alone", partial(build, self.num_classes), self.recipe.lrn, self.samples)

    def grn_of(self, attributes: Mapping[str, float | bool]) -> nn.Module:
        def build() -> GRN:
            grn = self.new_grn()
            for name, value in attributes.items():
                setattr(grn, name, value)
            return grn

        return self.trained("grn", build, self.recipe.grn, self.samples)


def main(data: Path, run: Path = Path("runs/camvid_lite"), lrn_epochs: int = 3, grn_epochs: int = 0) -> None:
    """Train, measure and print.

    Args:
        data: CamVid in SegNet's layout.
        run: The folder of a training of camvid_lite.
        lrn_epochs: How long each LRN trains.
        grn_epochs: How long each GRN trains; 0 leaves them out.
    """
    with ProgressReporter() as reporter:
        whole = Training(camvid_lite(), data, run, reporter=reporter)
        rows = measurements(whole, lrn_epochs, grn_epochs)
    names = whole.datasets["val"].names
    blocks = blocks_of(names)
    epochs = f"--lrn-epochs {lrn_epochs} --grn-epochs {grn_epochs}"
    print("# Ablations\n")
    print(f"Printed by `python benchmarks/ablations.py --data CamVid --run {run} {epochs}`, ")
    print(f"seed {whole.seed}, on {machine()}. CamVid val, {len(blocks)} blocks.\n")
    print(as_markdown(rows, whole.num_classes, blocks))
    if not grn_epochs:
        print(f"\nNot measured: {'; '.join(GRNS)}.")


def measurements(whole: Training, lrn_epochs: int, grn_epochs: int) -> dict[str, list[Measured]]:
    recipe = replace(
        whole.recipe, lrn=shortened(whole.recipe.lrn, lrn_epochs), grn=shortened(whole.recipe.grn, grn_epochs)
    )
    folder = whole.output.with_name(f"{whole.output.name}_folds")
    cross_fitted = Training(replace(whole.recipe, folds=2), whole.data, folder, reporter=whole.reporter)
    cross_fitted.front = whole.front
    networks: dict[str, nn.Module] = {"front": Cascade()}
    for title, build in LRNS.items():
        networks[title] = Variant(whole, recipe, title).lrn_of(build)
    title = "LRN, cross-fitted"
    networks[title] = Variant(whole, recipe, title, cross_fitted.after_front).lrn_of(LRN.narrow)
    title = "LRN, degraded confidences"
    networks[title] = Variant(whole, recipe, title, degraded(whole.after_front)).lrn_of(LRN.narrow)
    title = "LRN, cross-entropy alone"
    without = replace(recipe, lrn=replace(recipe.lrn, lovasz=0.0))
    networks[title] = Variant(whole, without, title).lrn_of(LRN.narrow)
    title = "LRN, the front's class weights"
    weighted = replace(recipe, lrn=replace(recipe.lrn, class_weights=whole.class_weights))
    networks[title] = Variant(whole, weighted, title).lrn_of(LRN.narrow)
    for title, (settings, attributes) in GRNS.items() if grn_epochs else ():
        grn = replace(recipe.grn, **settings)
        networks[title] = Variant(whole, replace(recipe, grn=grn, iterations=3), title).grn_of(attributes)
    views, folder = whole.after_front("val"), whole.output / "ablations"
    return {
        title: [measured(network, views, folder / f"{title}.safetensors", reporter=whole.reporter)]
        for title, network in networks.items()
    }


def degraded(samples: Callable[[Split], ConfidenceViews]) -> Callable[[Split], ConfidenceViews]:
    """Only what is learned from; val stays as it is."""
    return lambda split: Degraded(samples(split).confidences) if split == "train" else samples(split)


def shortened(settings: Settings, epochs: int) -> Settings:
    return replace(settings, phases=((epochs, settings.phases[0][1]),), validate_every=epochs)


if __name__ == "__main__":
    tyro.cli(main)
