"""The three stages of section 3.3, one after another: front, GRN, LRN, each with the ones before it frozen.

Everything lands in one folder. What is there is not done again, so the same command goes on where it was stopped:
``front``, ``grn``, ``lrn`` and ``lrn_alone`` (an LRN that follows the front directly) as .safetensors, the stored
confidences of front and GRN, and ``parser.safetensors``, the whole cascade. On request also what Table 2 compares them
with: ``context`` (MS-Dilation) and ``grn_last``, a GRN that follows ``lrn_alone``.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import Literal, cast

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from rectiseg.data.confidences import Confidences, View, store_confidences
from rectiseg.data.datasets import Dataset, Joined, Split, Subset, drive_of, drives, left_out
from rectiseg.data.registry import open_dataset
from rectiseg.machine import machine
from rectiseg.metrics import Scores, class_weights
from rectiseg.models.checkpoint import identity, load, read_training, save
from rectiseg.models.combine import Cascade, CoarseCascade, SceneParser
from rectiseg.models.context import MultiScaleContext
from rectiseg.models.efficientnet_lite import EfficientNetLite
from rectiseg.models.front import Front
from rectiseg.models.grn import GRN
from rectiseg.models.lrn import LRN
from rectiseg.models.pretrained import pretrained_encoder
from rectiseg.models.resnet import ResNet
from rectiseg.progress import Reporter
from rectiseg.recipes import Recipe
from rectiseg.settings import Settings
from rectiseg.stage import confusion, train_stage
from rectiseg.types import IGNORE_INDEX
from rectiseg.views import ConfidenceViews, ImageViews

StageName = Literal["front", "grn", "lrn", "lrn_alone", "context", "grn_last"]
STAGES: tuple[StageName, ...] = ("front", "lrn_alone", "grn", "lrn")
STANDS_ON: dict[str, tuple[str, ...]] = {
    "grn_once": ("front",),
    "grn": ("front", "grn_once"),
    "lrn": ("front", "grn_once", "grn"),
    "lrn_alone": ("front",),
    "context": ("front",),
    "grn_last": ("front", "grn_once", "lrn"),
}
"""Whose settings decide what a stage learns from, by the names of the recipe's settings."""


class Training:
    """A recipe at work in a folder."""

    def __init__(
        self,
        recipe: Recipe,
        data: Path | None,
        output: Path,
        seed: int = 0,
        encoder_weights: Path | Literal["random"] | None = None,
        reporter: Reporter | None = None,
        save_memory: bool = False,
        refiner_seed: int | None = None,
    ):
        self.recipe = recipe
        self.data = data
        self.output = output
        self.seed = seed
        self.refiner_seed = seed if refiner_seed is None else refiner_seed
        self.encoder_weights: Path | Literal["random"] | None = encoder_weights
        self.save_memory = save_memory
        # Each stage has a precision of its own; several processes without an accelerator need to be told of the CPU.
        self.accelerator = Accelerator(cpu=not torch.accelerator.is_available(), mixed_precision="no")
        self.reporter = reporter if reporter is not None and self.accelerator.is_main_process else Reporter()
        self.datasets: dict[Split, Dataset] = {
            split: open_dataset(recipe.dataset, data, split) for split in ("train", "val")
        }

    @property
    def num_classes(self) -> int:
        return len(self.datasets["train"].classes)

    def run(self, stages: tuple[StageName, ...] = STAGES) -> None:
        """The named stages and what they stand on; with GRN and LRN there, the whole parser."""
        for stage in stages:
            getattr(self, stage)()
        parts = [self.path_of(stage) for stage in ("front", "grn", "lrn")]
        if all(path.exists() for path in parts):
            if self.accelerator.is_main_process:
                train = self.datasets["train"]
                cascade = Cascade(self.grn(), self.lrn())
                parser = SceneParser(self.front(), cascade, train.classes, train.palette)
                about: dict[str, str] = {}
                for path in (*sorted(self.output.glob("front_fold*.safetensors")), *parts):
                    about |= read_training(path)
                save(parser, self.path_of("parser"), about)
            self.accelerator.wait_for_everyone()

    def label(self, name: str) -> str:
        """The name that a stage has in the folder, where refiners of several seeds can follow the same fronts."""
        own_seed = self.refiner_seed != self.seed and not name.startswith("front")
        return f"{name}_seed{self.refiner_seed}" if own_seed else name

    def path_of(self, name: str) -> Path:
        return self.output / f"{self.label(name)}.safetensors"

    @property
    def about(self) -> dict[str, str]:
        return {
            "recipe": self.recipe.name,
            "dataset": self.recipe.dataset,
            "seed": str(self.seed),
            "machine": machine(),
            "classes": json.dumps(self.datasets["train"].classes),
            "settings": json.dumps(asdict(self.recipe)),
        }

    def key(self, name: str) -> str:
        """Twelve hexadecimal digits that change with every setting that this stage's weights follow from."""
        recipe = asdict(self.recipe)
        settings = {stage: recipe.pop(stage) for stage in ("front", "grn_once", "grn", "lrn", "context")}
        # front_fold0 is trained as the front is, lrn_alone as the LRN
        stage = name if name in settings else name.partition("_")[0]
        followed = [settings[before] for before in STANDS_ON.get(name, ()) if settings[before] is not None]
        if stage == "front":
            for later in ("iterations", "neighborhood", "lrn_widths", "grn_starts_from"):
                del recipe[later]
        if name == "front":
            del recipe["folds"]
        known = [recipe, followed, settings[stage], self.seed, len(self.datasets["train"])]
        if stage != "front" and self.refiner_seed != self.seed:
            known.append(self.refiner_seed)
        return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:12]

    @cached_property
    def class_weights(self) -> tuple[float, ...] | None:
        """How much a pixel of each class counts, from how often it occurs in the training labels."""
        if not self.recipe.class_balance:
            return None
        train = self.datasets["train"]
        counts = torch.zeros(IGNORE_INDEX + 1, dtype=torch.int64)
        for index in range(len(train)):
            counts += torch.bincount(train[index].labels.flatten(), minlength=len(counts))
        return class_weights(counts[: self.num_classes].tolist(), self.recipe.class_balance)

    def front(self) -> Front:
        return self.front_of("front", self.datasets["train"], self.datasets["val"])

    def front_of(self, name: str, train: Dataset, val: Dataset) -> Front:
        def build() -> Front:
            return Front(self.encoder(), self.num_classes)

        def samples(split: Split) -> ImageViews:
            return ImageViews(train if split == "train" else val)

        return cast(Front, self.trained(name, build, self.recipe.front, samples))

    @cached_property
    def folds(self) -> list[list[int]]:
        """The training images that each of the cross-fitted fronts does not see; none without cross-fitting."""
        train = self.datasets["train"]
        if self.recipe.folds == "drives":
            return list(drives(train).values())
        return left_out(len(train), self.recipe.folds) if self.recipe.folds else []

    def front_without(self, fold: int) -> Front:
        train = self.datasets["train"]
        unseen = self.folds[fold]
        seen = sorted(set(range(len(train))) - set(unseen))
        return self.front_of(f"front_fold{fold}", Subset(train, seen), Subset(train, unseen))

    def fronts(self, split: Split) -> list[tuple[Front, Dataset]]:
        """Who says what a refiner sees of which images: of those for training, fronts that were trained on others."""
        dataset = self.datasets[split]
        if split == "val" or not self.folds:
            return [(self.front(), dataset)]
        return [(self.front_without(fold), Subset(dataset, unseen)) for fold, unseen in enumerate(self.folds)]

    def grn(self) -> GRN:
        return cast(GRN, self.trained("grn", self.new_grn, self.recipe.grn, self.after_front))

    def grn_last(self) -> GRN:
        return cast(GRN, self.trained("grn_last", self.new_grn, self.recipe.grn, self.after_lrn))

    def lrn(self) -> LRN:
        return cast(LRN, self.trained("lrn", self.new_lrn, self.recipe.lrn, self.after_grn))

    def lrn_alone(self) -> LRN:
        return cast(LRN, self.trained("lrn_alone", self.new_lrn, self.recipe.lrn, self.after_front))

    def context(self) -> MultiScaleContext:
        def build() -> MultiScaleContext:
            return MultiScaleContext(self.num_classes)

        return cast(MultiScaleContext, self.trained("context", build, self.recipe.context, self.after_front))

    def grn_once(self) -> GRN:
        """A GRN of one iteration, for which a step takes little more than a front's."""
        assert self.recipe.grn_once is not None

        def build() -> GRN:
            return self.grn_from_encoder(iterations=1)

        return cast(GRN, self.trained("grn_once", build, self.recipe.grn_once, self.after_front))

    def new_grn(self) -> GRN:
        """As many iterations of one that was trained for a single one, where the recipe wants that first."""
        if self.recipe.grn_once is None:
            return self.grn_from_encoder(self.recipe.iterations)
        grn = self.grn_once()
        grn.iterations = self.recipe.iterations
        return grn

    def grn_from_encoder(self, iterations: int) -> GRN:
        starts_from_front = self.recipe.grn_starts_from == "front"
        encoder = self.front().encoder if starts_from_front else self.encoder()
        return GRN(encoder, self.num_classes, iterations)

    def new_lrn(self) -> LRN:
        return LRN(self.num_classes, self.recipe.neighborhood, self.recipe.lrn_widths)

    def encoder(self) -> EfficientNetLite | ResNet:
        return pretrained_encoder(self.recipe.encoder, self.encoder_weights)

    def after_front(self, split: Split) -> ConfidenceViews:
        """What GRN, MS-Dilation or an LRN alone sees: the front's confidences."""
        refiners = (self.recipe.grn_once, self.recipe.grn, self.recipe.lrn, self.recipe.context)
        scales = dict.fromkeys(scale for settings in refiners if settings is not None for scale in settings.scales)
        return self.stored("front", split, self.fronts(split), tuple(scales))

    def after_grn(self, split: Split) -> ConfidenceViews:
        """What the cascade's LRN sees: the confidences of front and GRN."""
        grn = self.grn()
        cascades = [(CoarseCascade(front, grn), images) for front, images in self.fronts(split)]
        return self.stored(self.label("grn"), split, cascades, self.recipe.lrn.scales)

    def after_lrn(self, split: Split) -> ConfidenceViews:
        """What a GRN sees that comes last: the confidences of front and LRN."""
        lrn = self.lrn_alone()
        parsers = [(SceneParser(front, lrn), images) for front, images in self.fronts(split)]
        return self.stored(self.label("lrn_alone"), split, parsers, self.recipe.grn.scales)

    def stored(
        self, name: str, split: Split, speakers: Sequence[tuple[nn.Module, Dataset]], scales: tuple[float, ...]
    ) -> ConfidenceViews:
        """What parsers say, each of its part of the images, stored once; of val only the images as they are."""
        folder = self.output / "confidences" / name / split
        views = [View(scale, flip) for scale in scales for flip in (False, True)] if split == "train" else [View()]
        processes = self.accelerator.num_processes
        self.reporter.stage(f"confidences of {name}, {split}", len(self.datasets[split]) // processes)
        source = ", ".join(identity(parser) for parser, _ in speakers)
        with torch.inference_mode():
            for parser, images in speakers:
                store_confidences(
                    parser.to(self.accelerator.device).eval(),
                    images,
                    folder,
                    views,
                    source,
                    device=self.accelerator.device,
                    on_image=self.reporter.advance,
                    share=(self.accelerator.process_index, processes),
                )
        self.accelerator.wait_for_everyone()
        return ConfidenceViews(Confidences(self.datasets[split], folder))

    def trained(
        self,
        name: str,
        build: Callable[[], nn.Module],
        settings: Settings,
        samples: Callable[[Split], ImageViews | ConfidenceViews],
    ) -> nn.Module:
        """The stage as trained before, or trained now."""
        path = self.path_of(name)
        if path.exists():
            if read_training(path).get(f"{name}_key") != self.key(name):
                raise ValueError(
                    f"{path}: trained with other settings or another seed; delete it or choose another folder"
                )
            return load(path)
        train, val = samples("train"), samples("val")  # first: they may train the stages before this one
        if self.class_weights is not None:
            settings = replace(settings, class_weights=self.class_weights)
        seed = self.seed if name.startswith("front") else self.refiner_seed
        torch.manual_seed(seed)
        stage = build().to(self.accelerator.device)

        def predict(index: int) -> tuple[Tensor, Tensor]:
            inputs, labels = val.whole(index)
            return stage(*[tensor.to(self.accelerator.device) for tensor in inputs]), labels

        def validate(_: nn.Module) -> Scores:
            return confusion(predict, len(val), self.num_classes, self.accelerator)

        steps = settings.epochs * max(1, len(train) // settings.batch)
        self.reporter.stage(self.label(name), steps)

        def on_step(step: int, _: int, loss: float, scores: Scores | None) -> None:
            self.reporter.step(step, loss, scores)

        seconds = train_stage(
            stage,
            train,
            settings,
            self.output / self.label(name),
            seed,
            validate,
            self.accelerator,
            on_step,
            self.save_memory,
        )
        if self.accelerator.is_main_process:
            about = {f"{name}_seconds": f"{seconds:.0f}", f"{name}_key": self.key(name)}
            save(stage, path, self.about | about)
        self.accelerator.wait_for_everyone()
        return stage.eval()


class HeldOut(Training):
    """A whole training's recipe on the images outside one of its folds, to be measured on those inside.

    The front is the one that did not see the fold, and refiners learn from what the fronts of the other folds say.
    Where folds are drives, the val images of the fold's drive are measured, too.
    """

    def __init__(self, whole: Training, fold: int):
        super().__init__(
            whole.recipe,
            whole.data,
            whole.output / f"without_fold{fold}",
            whole.seed,
            whole.encoder_weights,
            whole.reporter,
            whole.save_memory,
            whole.refiner_seed,
        )
        self.whole = whole
        self.fold = fold
        train, val = whole.datasets["train"], whole.datasets["val"]
        inside = set(whole.folds[fold])
        outside = [index for index in range(len(train)) if index not in inside]
        unseen: list[Dataset] = [Subset(train, sorted(inside))]
        if self.recipe.folds == "drives":
            drive = drive_of(unseen[0][0].name)
            unseen.append(Subset(val, drives(val).get(drive, [])))
        self.datasets = {"train": Subset(train, outside), "val": Joined(*unseen)}

    def front(self) -> Front:
        return self.whole.front_without(self.fold)

    def fronts(self, split: Split) -> list[tuple[Front, Dataset]]:
        if split == "val":
            return [(self.front(), self.datasets["val"])]
        return [speaker for fold, speaker in enumerate(self.whole.fronts("train")) if fold != self.fold]
