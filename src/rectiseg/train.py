"""The three stages of section 3.3, one after another: front, GRN, LRN, each with the ones before it frozen.

Everything lands in one folder. What is there is not done again, so the same command goes on where it was stopped:
``front``, ``grn``, ``lrn`` and ``lrn_alone`` (an LRN that follows the front directly) as .safetensors, the stored
confidences of front and GRN, and ``parser.safetensors``, the whole cascade. Recipes that end it with a BilateralLRN
train ``bilateral`` in place of the LRNs, or ``light``, a light GRN, and ``bilateral_light`` after it. On request also
what Table 2 compares them with: ``bilateral_alone``, which follows the front directly, ``context`` (MS-Dilation),
``grn_last``, a GRN that follows ``lrn_alone``, and ``grn_iterated``, one that is trained for the paper's three
iterations where the recipe has fewer. After another parser, whose confidences were stored before,
there is no front to train; ``refiner.safetensors`` is then GRN and the LRN after it.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Literal, cast

import torch
from torch import nn

from rectiseg.data.confidences import Confidences, View, read_about, store_confidences, store_refined
from rectiseg.data.datasets import Dataset, PairedFiles, Split, Subset, left_out
from rectiseg.data.files import digest_of
from rectiseg.data.registry import open_dataset
from rectiseg.machine import machine
from rectiseg.metrics import class_weights
from rectiseg.models.bilateral_lrn import BilateralLRN
from rectiseg.models.checkpoint import at_output_stride, identity, load, read_training, save
from rectiseg.models.combine import Cascade, SceneParser
from rectiseg.models.context import MultiScaleContext
from rectiseg.models.encoder import Encoder
from rectiseg.models.front import Front
from rectiseg.models.grn import GRN
from rectiseg.models.light_encoder import LightEncoder
from rectiseg.models.lrn import LRN
from rectiseg.models.pretrained import pretrained_encoder
from rectiseg.processes import accelerator
from rectiseg.progress import Reporter
from rectiseg.recipes import SETTINGS, Recipe
from rectiseg.settings import Settings, changed
from rectiseg.stage import train_reporting
from rectiseg.stage_names import StageName
from rectiseg.types import IGNORE_INDEX
from rectiseg.views import ConfidenceViews, ImageViews

STAGES: dict[str, tuple[StageName, ...]] = {
    "lrn": ("front", "lrn_alone", "grn", "lrn"),
    "bilateral": ("front", "grn", "bilateral"),
    "bilateral_light": ("front", "light", "bilateral_light"),
}
"""What is trained for a parser that ends so."""
PAPER_ITERATIONS = 3
STANDS_ON: dict[str, tuple[str, ...]] = {
    "grn": ("front",),
    "lrn": ("front", "grn"),
    "lrn_alone": ("front",),
    "bilateral": ("front", "grn"),
    "bilateral_alone": ("front",),
    "light": ("front",),
    "bilateral_light": ("front", "light"),
    "context": ("front",),
    "grn_last": ("front", "lrn"),
    "grn_iterated": ("front",),
}
"""Whose settings decide what a stage learns from, by the names of the recipe's settings."""
OF_REFINERS = (
    "iterations",
    "full_backpropagation",
    "neighborhood",
    "lrn_widths",
    "grn_starts_from",
    "grn_output_stride",
    "folds",
    "front_at_scales",
)
"""What the recipe says that does not touch a front."""


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
        confidences: Path | None = None,
        grn_weights: Path | None = None,
    ):
        self.recipe = recipe
        self.data = data
        self.output = output
        self.seed = seed
        self.refiner_seed = seed if refiner_seed is None else refiner_seed
        self.encoder_weights: Path | Literal["random"] | None = encoder_weights
        self.save_memory = save_memory
        self.confidences = confidences
        self.grn_weights = grn_weights
        self.accelerator = accelerator()
        self.reporter = reporter if reporter is not None and self.accelerator.is_main_process else Reporter()
        self.datasets: dict[Split, Dataset] = {
            split: open_dataset(recipe.dataset, data, split) for split in ("train", "val")
        }
        refuse_one_for_both(*self.datasets.values())

    @property
    def num_classes(self) -> int:
        return len(self.datasets["train"].classes)

    def run(self, stages: tuple[StageName, ...] = ()) -> None:
        """The named stages, or those of the recipe, and what they stand on; the whole parser with its last one."""
        last = self.recipe.last
        stages = stages or STAGES[last]
        if self.grn_weights is not None and not any(
            of.startswith("grn") for stage in stages for of in (stage, *STANDS_ON.get(stage, ()))
        ):
            raise ValueError(
                f"{self.grn_weights}: none of the stages {', '.join(stages)} trains a GRN from it; name --stages grn, "
                "or leave --grn-weights out"
            )
        for stage in stages:
            if stage != "front" or self.confidences is None:
                getattr(self, stage)()
        if {*self.of_cascade} & {*stages} and all(self.path_of(stage).exists() for stage in self.of_cascade):
            if self.accelerator.is_main_process:
                cascade = self.cascade()
                if self.confidences is not None:
                    save(cascade, self.path_of("refiner"), self.about | self.times(*self.of_cascade))
                else:
                    train = self.datasets["train"]
                    parser = SceneParser(self.front(), cascade, train.classes, train.palette)
                    folds = [f"front_fold{fold}" for fold in range(len(self.folds))]
                    times = self.times("front", *folds, *self.of_cascade)
                    save(parser, self.path_of("parser"), self.about | times)
            self.accelerator.wait_for_everyone()

    def cascade(self) -> Cascade:
        """GRN and the LRN that ends the recipe's parser."""
        return Cascade(*[getattr(self, stage)() for stage in self.of_cascade])

    @property
    def of_cascade(self) -> tuple[str, str]:
        """The stages that the recipe's parser ends with."""
        last = self.recipe.last
        return "light" if last == "bilateral_light" else "grn", last

    def times(self, *stages: str) -> dict[str, str]:
        """How long the stages took that were trained here."""
        entries = [read_training(self.path_of(stage)) for stage in stages if self.path_of(stage).exists()]
        return {name: value for entry in entries for name, value in entry.items() if name.endswith("_seconds")}

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
            "refiner_seed": str(self.refiner_seed),
            "machine": machine(),
            "classes": json.dumps(self.datasets["train"].classes),
            "settings": json.dumps(asdict(self.recipe)),
            **({} if self.grn_weights is None else {"grn_weights": identity(self.started_grn())}),
        }

    def key(self, name: str, images: Sequence[str]) -> str:
        """Twelve hexadecimal digits that change with every setting and image that this stage's weights follow from."""
        recipe = changed(replace(self.recipe, without_drive=None))  # that is of other trainings
        recipe.pop("last", None)  # changes no stage's weights
        settings = {stage: recipe.pop(stage, None) for stage in SETTINGS}
        stage = name if name in settings else name.partition("_")[0]  # front_fold0 is trained as the front is
        if stage == "front":
            for later in OF_REFINERS:
                recipe.pop(later, None)
        followed = {before: settings[before] for before in STANDS_ON.get(name, ()) if settings[before] is not None}
        if self.confidences is not None:
            followed["front"] = read_about(self.confidences / "train")["source"]
        if self.grn_weights is not None and "grn" in (stage, *STANDS_ON.get(name, ())):
            followed["grn_weights"] = identity(self.started_grn())
        if self.encoder_weights is not None:
            weights = self.encoder_weights
            followed["encoder_weights"] = weights if isinstance(weights, str) else digest_of(weights)
        seed = self.seed if stage == "front" else self.refiner_seed
        known = [recipe, settings[stage], followed, self.seed, seed, list(images)]
        return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:12]

    def key_of(self, stage: str) -> str:
        """The same of a stage that sees all training images; a parser whose confidences are stored is its own."""
        if stage == "front" and self.confidences is not None:
            return read_about(self.confidences / "train")["source"]
        return self.key(stage, self.datasets["train"].names)

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

        return cast(Front, self.trained(name, build, self.recipe.front, samples, train.names))

    @cached_property
    def folds(self) -> list[list[int]]:
        """The training images that each of the cross-fitted fronts does not see; none without cross-fitting."""
        return left_out(len(self.datasets["train"]), self.recipe.folds) if self.recipe.folds else []

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

    def grn_iterated(self) -> GRN:
        build = partial(self.new_grn, PAPER_ITERATIONS)
        return cast(GRN, self.trained("grn_iterated", build, self.recipe.grn, self.after_front))

    def light(self) -> GRN:
        def build() -> GRN:
            return GRN.light(self.num_classes)

        return cast(GRN, self.trained("light", build, self.recipe.light, self.after_front))

    def lrn(self) -> LRN:
        return cast(LRN, self.trained("lrn", self.new_lrn, self.recipe.lrn, self.after_grn))

    def lrn_alone(self) -> LRN:
        return cast(LRN, self.trained("lrn_alone", self.new_lrn, self.recipe.lrn, self.after_front))

    def bilateral(self) -> BilateralLRN:
        return cast(BilateralLRN, self.trained("bilateral", self.new_bilateral, self.recipe.bilateral, self.after_grn))

    def bilateral_alone(self) -> BilateralLRN:
        build, settings = self.new_bilateral, self.recipe.bilateral
        return cast(BilateralLRN, self.trained("bilateral_alone", build, settings, self.after_front))

    def bilateral_light(self) -> BilateralLRN:
        build, settings = self.new_bilateral, self.recipe.bilateral
        return cast(BilateralLRN, self.trained("bilateral_light", build, settings, self.after_light))

    def context(self) -> MultiScaleContext:
        def build() -> MultiScaleContext:
            return MultiScaleContext(self.num_classes)

        return cast(MultiScaleContext, self.trained("context", build, self.recipe.context, self.after_front))

    def new_grn(self, iterations: int | None = None) -> GRN:
        """The one that was given, or one on an encoder that knows ImageNet or what the front made of it."""
        iterations = iterations or self.recipe.iterations
        if self.grn_weights is not None:
            grn = at_output_stride(self.started_grn(), self.recipe.grn_output_stride)
            grn.iterations, grn.full_backpropagation = iterations, self.recipe.full_backpropagation
            return grn
        starts_from_front = self.recipe.grn_starts_from == "front"
        if starts_from_front and self.confidences is not None:
            raise ValueError(
                f"the recipe {self.recipe.name} starts GRN from its own front's encoder, and stored confidences have "
                "none: choose a recipe that starts from the pretrained encoder, or name a GRN to start from"
            )
        encoder = self.front().encoder if starts_from_front else self.encoder()
        grn = GRN(encoder, self.num_classes, iterations, full_backpropagation=self.recipe.full_backpropagation)
        return at_output_stride(grn, self.recipe.grn_output_stride)

    def started_grn(self) -> GRN:
        """The GRN of the given weights: saved alone, or in a parser."""
        assert self.grn_weights is not None
        for module in load(self.grn_weights).modules():
            if isinstance(module, GRN) and not isinstance(module.encoder, LightEncoder):
                return module
        raise ValueError(
            f"{self.grn_weights}: no GRN is in here, or a light one, which starts from nothing; name the file of one "
            "on a pretrained encoder, or of a parser with one"
        )

    def new_lrn(self) -> LRN:
        return LRN(self.num_classes, self.recipe.neighborhood, self.recipe.lrn_widths)

    def new_bilateral(self) -> BilateralLRN:
        return BilateralLRN(self.num_classes)

    def encoder(self) -> Encoder:
        return pretrained_encoder(self.recipe.encoder, self.encoder_weights)

    def after_front(self, split: Split) -> ConfidenceViews:
        """What GRN, MS-Dilation or an LRN alone sees: the front's confidences."""
        if self.confidences is not None:
            return ConfidenceViews(Confidences(self.datasets[split], self.confidences / split))
        recipe = self.recipe
        views = self.stored_views(split, *[getattr(recipe, stage) for stage in SETTINGS if stage != "front"])
        fronts = self.fronts(split)
        folder = self.output / "confidences" / "front" / split
        source = ", ".join(identity(front) for front, _ in fronts)
        self.reporter.stage(f"confidences of front, {split}", len(self.datasets[split]) // self.share[1])
        with torch.inference_mode():
            for front, images in fronts:
                front = front.to(self.device).eval()
                store_confidences(front, images, folder, views, source, self.device, self.reporter.advance, self.share)
        self.accelerator.wait_for_everyone()
        return ConfidenceViews(Confidences(self.datasets[split], folder))

    def after_grn(self, split: Split) -> ConfidenceViews:
        """What the cascade's LRN sees: the confidences of front and GRN."""
        return self.after(self.grn(), self.label("grn"), split, self.recipe.lrn, self.recipe.bilateral)

    def after_light(self, split: Split) -> ConfidenceViews:
        """The same of the light GRN."""
        return self.after(self.light(), self.label("light"), split, self.recipe.bilateral)

    def after_lrn(self, split: Split) -> ConfidenceViews:
        """What a GRN sees that comes last: the confidences of front and LRN."""
        return self.after(self.lrn_alone(), self.label("lrn_alone"), split, self.recipe.grn)

    def after(self, refiner: nn.Module, name: str, split: Split, *settings: Settings) -> ConfidenceViews:
        """What a refiner makes of the front's confidences, stored once."""
        front = self.after_front(split).confidences
        folder = self.output / "confidences" / name / split
        source = f"{front.about['source']}, then {identity(refiner)}"
        self.reporter.stage(f"confidences of {name}, {split}", len(front) // self.share[1])
        refiner = refiner.to(self.device).eval()
        views = [view for view in self.stored_views(split, *settings) if view in front.views]
        with torch.inference_mode():
            store_refined(refiner, front, folder, views, source, self.device, self.reporter.advance, self.share)
        self.accelerator.wait_for_everyone()
        return ConfidenceViews(Confidences(self.datasets[split], folder))

    def stored_views(self, split: Split, *refiners: Settings) -> list[View]:
        """What is stored of each image for these to learn from; of val only the image as it is."""
        if split == "val":
            return [View()]
        wanted = dict.fromkeys(scale for settings in refiners for scale in settings.scales)
        scales = wanted if self.recipe.front_at_scales else (1.0,)
        return [View(scale, flip) for scale in scales for flip in (False, True)]

    @property
    def device(self) -> torch.device:
        return self.accelerator.device

    @property
    def share(self) -> tuple[int, int]:
        """Rank and number of the processes that divide images among them."""
        return self.accelerator.process_index, self.accelerator.num_processes

    def trained(
        self,
        name: str,
        build: Callable[[], nn.Module],
        settings: Settings,
        samples: Callable[[Split], ImageViews | ConfidenceViews],
        images: Sequence[str] | None = None,
    ) -> nn.Module:
        """The stage as trained before, or trained now; on all training images unless some are named."""
        path = self.path_of(name)
        key = self.key(name, self.datasets["train"].names if images is None else images)
        if path.exists():
            if read_training(path).get(f"{name}_key") != key:
                raise ValueError(
                    f"{path}: trained with other settings or another seed; delete it and {path.with_suffix('')}, or "
                    "choose another folder"
                )
            return load(path)
        train, val = samples("train"), samples("val")  # first: they may train the stages before this one
        if name.startswith("front") and self.class_weights is not None:
            settings = replace(settings, class_weights=self.class_weights)
        seed = self.seed if name.startswith("front") else self.refiner_seed
        torch.manual_seed(seed)
        stage = build().to(self.device)
        seconds = train_reporting(
            self.label(name),
            stage,
            train,
            val,
            self.num_classes,
            settings,
            self.output / self.label(name),
            seed,
            self.accelerator,
            self.reporter,
            self.save_memory,
            follows=key,
        )
        if self.accelerator.is_main_process:
            about = {f"{name}_seconds": f"{seconds:.0f}", f"{name}_key": key}
            save(stage, path, self.about | about)
        self.accelerator.wait_for_everyone()
        return stage.eval()


def refuse_one_for_both(train: Dataset, val: Dataset) -> None:
    if isinstance(train, PairedFiles) and isinstance(val, PairedFiles):
        both = {*train.pairs} & {*val.pairs}
        if both:
            image = min(both)[0]
            raise ValueError(f"{image}: train and val would be the same images; give each a folder, train/ and val/")
