"""A refiner fitted to what one model predicted, and kept only if it does better on images that were held back."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Literal

import torch
from accelerate import Accelerator
from torch import nn

from rectiseg.data.confidences import Confidences, View, store_refined
from rectiseg.data.datasets import left_out
from rectiseg.data.predicted import Predicted
from rectiseg.intervals import Blocks, Interval, paired_difference
from rectiseg.measured import SILENT, Measured, measured
from rectiseg.metrics import MeanIoU, Scores, scores_of
from rectiseg.models.bilateral_lrn import BilateralLRN
from rectiseg.models.checkpoint import SHIPPED_REFINER, identity, load_refiner
from rectiseg.models.combine import Cascade
from rectiseg.models.grn import GRN
from rectiseg.processes import accelerator
from rectiseg.progress import Reporter
from rectiseg.recipes import camvid_lite
from rectiseg.settings import Settings
from rectiseg.stage import train_reporting
from rectiseg.views import ConfidenceViews, TrainingData

Kind = Literal["lrn", "grn", "both"]

HELD_BACK = 4
"""One image of so many is held back."""

FEWEST = 20
"""Images: of the five runs that are held back then, all gain by chance once in 32 times."""

RUNS = 8
"""In so many runs of neighbours, which the interval's resamples draw: they may be frames of one video, much alike."""

CONFIDENCE = 0.9
"""Of the interval whose lower bound has to be above zero."""


@dataclass(frozen=True)
class Fit:
    """What was fitted, what it does to the images that were held back, and whether it is kept."""

    refiner: nn.Module
    before: Measured
    after: Measured
    gain: Interval  # of the mean IoU
    held_back: Sequence[str]

    @property
    def passed(self) -> bool:
        return self.gain.low > 0

    @property
    def kept(self) -> nn.Module:
        """The refiner, or one that returns its input bit for bit."""
        return self.refiner if self.passed else Cascade()

    @property
    def scores(self) -> tuple[Scores, Scores]:
        before, after = (scores_of(one.counts["mean IoU"].sum(dim=0).long()) for one in (self.before, self.after))
        return before, after

    @property
    def sentence(self) -> str:
        gain, low, high = (100 * value for value in (self.gain.value, self.gain.low, self.gain.high))
        return (
            f"mean IoU {gain:+.2f}, {100 * CONFIDENCE:g} % interval [{low:+.2f}, {high:+.2f}], on "
            f"{len(self.held_back)} images held back in {self.gain.blocks} runs"
        )

    def worse(self, classes: Sequence[str]) -> list[str]:
        """Of every class that loses, by how much."""
        before, after = self.scores
        losses = [(old - new, name) for old, new, name in zip(before.iou, after.iou, classes, strict=True) if new < old]
        return [f"{name} loses {100 * loss:.2f} IoU" for loss, name in sorted(losses, reverse=True)]


@dataclass(frozen=True)
class Trainer:
    """Trains one stage after the other in a folder, and goes on with what was stopped there."""

    folder: Path
    seed: int
    reporter: Reporter
    accelerator: Accelerator

    @property
    def device(self) -> torch.device:
        return self.accelerator.device

    def __call__(
        self, name: str, build: Callable[[], nn.Module], data: TrainingData, val: ConfidenceViews, settings: Settings
    ) -> nn.Module:
        """The stage that ``build`` makes, trained on ``data``; its curve shows what it is worth on ``val``."""
        torch.manual_seed(self.seed)
        stage = build().to(self.device)
        num_classes, folder = len(val.confidences.dataset.classes), self.folder / name
        train_reporting(
            name, stage, data, val, num_classes, settings, folder, self.seed, self.accelerator, self.reporter
        )
        return stage.eval()


def trainer(folder: Path, seed: int = 0, reporter: Reporter = SILENT) -> Trainer:
    return Trainer(folder, seed, reporter, accelerator())


def fit(
    predicted: Predicted,
    folder: Path,
    kind: Kind = "lrn",
    steps: int = 1000,
    seed: int = 0,
    reporter: Reporter = SILENT,
) -> Fit:
    """Fit a refiner to three quarters of the images and measure it on the others.

    The same call goes on where it was stopped. Too few images to do both raise ValueError.
    """
    count = len(predicted)
    if count < FEWEST:
        raise ValueError(f"{count} images are too few to learn from some and hold others back: give {FEWEST}")
    indices = left_out(count, HELD_BACK, RUNS)[0]
    held_back, seen = predicted.subset(indices), predicted.subset(sorted({*range(count)} - {*indices}))
    train = trainer(folder / predicted.about["source"], seed, reporter)
    val = ConfidenceViews(held_back)
    refiner = FITTED[kind](train, seen, val, steps)
    before, after = (
        measured(network, val, train.folder / f"{name}.safetensors", 0.0, reporter, train.device)
        for name, network in (("before", Cascade()), (f"after_{kind}", refiner))
    )
    measure, name = MeanIoU(len(predicted.dataset.classes)), "mean IoU"
    blocks = neighbors(indices)
    gain = paired_difference(before.counts[name], after.counts[name], measure, blocks, confidence=CONFIDENCE)
    return Fit(refiner.cpu(), before, after, gain, held_back.dataset.names)


def neighbors(indices: Sequence[int]) -> Blocks:
    """Places in the sequence, together where the indices follow each other."""
    runs = groupby(range(len(indices)), key=lambda place: indices[place] - place)
    return [list(places) for _, places in runs]


def fitted_lrn(train: Trainer, seen: Predicted, val: ConfidenceViews, steps: int) -> nn.Module:
    return train("lrn", partial(new_lrn, classes_of(seen)), ConfidenceViews(seen), val, of_lrn(seen, steps))


def fitted_grn(train: Trainer, seen: Predicted, val: ConfidenceViews, steps: int) -> nn.Module:
    return train("grn", partial(new_grn, classes_of(seen)), ConfidenceViews(seen), val, of_grn(seen, steps))


def fitted_cascade(train: Trainer, seen: Predicted, val: ConfidenceViews, steps: int) -> nn.Module:
    """LRN learns from what GRNs say of images that they did not learn from: that is what it will see."""
    grn = fitted_grn(train, seen, val, steps)
    folds = left_out(len(seen), 2)
    halves = []
    for fold, unseen in enumerate(folds):
        half = seen.subset(sorted({*range(len(seen))} - {*unseen}))
        build, settings = partial(new_grn, classes_of(seen)), of_grn(half, steps)
        halves.append(train(f"grn_fold{fold}", build, ConfidenceViews(half), val, settings))
    folder, source = train.folder / "after_grn", ", ".join(identity(half) for half in halves)
    held_back, on_image = val.confidences, train.reporter.advance
    train.reporter.stage("confidences of GRN", len(seen) + len(held_back))
    with torch.inference_mode():
        for half, unseen in zip(halves, folds, strict=True):
            store_refined(half, seen.subset(unseen), folder / "seen", seen.views, source, train.device, on_image)
        store_refined(grn, held_back, folder / "val", [View()], identity(grn), train.device, on_image)
    views, val = (
        ConfidenceViews(Confidences(part.dataset, folder / name)) for name, part in (("seen", seen), ("val", held_back))
    )
    lrn = train("lrn_after_grn", partial(new_lrn, classes_of(seen)), views, val, of_lrn(seen, steps))
    return Cascade(grn, lrn)


FITTED: dict[Kind, Callable[[Trainer, Predicted, ConfidenceViews, int], nn.Module]] = {
    "lrn": fitted_lrn,
    "grn": fitted_grn,
    "both": fitted_cascade,
}


def classes_of(predicted: Predicted) -> int:
    return len(predicted.dataset.classes)


def new_grn(num_classes: int) -> GRN:
    return GRN.light(num_classes)


def new_lrn(num_classes: int) -> BilateralLRN:
    """What ships for any classes goes on as one for these."""
    general = load_refiner(SHIPPED_REFINER)
    assert isinstance(general, BilateralLRN)
    return general.specialized(num_classes)


def of_lrn(data: Confidences, steps: int) -> Settings:
    """It starts from what is known: half of the rate of a new one."""
    settings = camvid_lite().bilateral
    (epochs, rate), *_ = settings.phases
    return lasting(replace(settings, phases=((epochs, rate / 2),)), steps, data)


def of_grn(data: Predicted, steps: int) -> Settings:
    return lasting(camvid_lite().light, steps, data)


def lasting(settings: Settings, steps: int, data: Confidences) -> Settings:
    """The same for about so many steps, with four looks at what it is worth, on crops no larger than an image."""
    epochs = math.ceil(steps / max(1, len(data) // settings.batch))
    (_, rate), *_ = settings.phases
    height, width = data.dataset[0].labels.shape
    crop = (min(settings.crop[0], height), min(settings.crop[1], width))
    return replace(settings, phases=((epochs, rate),), crop=crop, validate_every=math.ceil(epochs / 4))
