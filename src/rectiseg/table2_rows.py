"""The rows of Table 2: what follows one front, which trainings' weights it has, and how it is made."""

import json
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import cast

from torch import nn

from rectiseg.crf_search import tuned
from rectiseg.data.datasets import drives
from rectiseg.held_out import WithoutDrive
from rectiseg.models.checkpoint import identity, load, load_parser, read_training, save
from rectiseg.models.combine import Cascade, Parallel, SceneParser
from rectiseg.models.crf import FullyConnectedCRF
from rectiseg.models.fusion import Ensemble, MultiScale
from rectiseg.models.grn import GRN
from rectiseg.train import PAPER_ITERATIONS, Training

TRIALS = 50
FRONT, CRF = "front", "CRF"
CRF_FILE = "crf"


@dataclass(frozen=True)
class Row:
    """A line of the table for one training: the stages whose weights it has, and the network that is measured."""

    title: str
    training: Training
    stages: tuple[str, ...]
    network: Callable[[], nn.Module]
    """Trains what is not trained yet."""
    further: tuple[Path, ...] = ()
    """Files of other parsers that it has a part of."""

    @property
    def label(self) -> str:
        return self.training.label(self.title)

    @property
    def is_trained(self) -> bool:
        front = [FRONT] if self.training.confidences is None else []
        return all(path.exists() for path in (*map(self.training.path_of, (*front, *self.stages)), *self.further))

    @property
    def trained(self) -> str:
        """What its weights and the confidences before it follow from."""
        keys = {
            stage: f"{TRIALS} trials" if stage == CRF_FILE else self.training.key_of(stage) for stage in self.stages
        }
        return json.dumps({FRONT: self.training.key_of(FRONT), **keys}, sort_keys=True)

    @property
    def others(self) -> dict[str, str]:
        """Which the further parsers are; nothing where their files are gone, which its record outlives, too."""
        if not self.further or not all(path.exists() for path in self.further):
            return {}
        return {"others": ", ".join(identity(load_parser(path)) for path in self.further)}

    def seconds(self) -> dict[str, str]:
        """What its trainings took, by the names that they have in the whole training's folder."""
        return {
            self.training.label(stage): self.training.times(stage).get(f"{stage}_seconds", "") for stage in self.stages
        }


@dataclass(frozen=True)
class Rows:
    """Which rows there are: for each seed a training of its own, all after the same front."""

    local: Sequence[Training]  # LRN and MS-Dilation, which are cheap to train
    with_grn: Sequence[Training]
    crf: bool = True
    iterated: bool = True  # a GRN of three iterations, too, where the recipe trains it for fewer
    ensemble: Sequence[Path] = ()  # saved parsers beside the first cascade

    @property
    def first(self) -> Training:
        return self.local[0]

    @cached_property
    def without_each_drive(self) -> dict[str, "Rows"]:
        """The same on drives that nothing was trained on, for the first seed; the ensemble's parsers may know them.

        The longest training, that of an iterated GRN, is left out.
        """
        return {
            drive: Rows(
                [WithoutDrive(self.local[0], drive)], [WithoutDrive(self.with_grn[0], drive)], self.crf, iterated=False
            )
            for drive in drives_of(self.first)
        }

    def __iter__(self) -> Iterator[Row]:
        """The front comes first."""
        first = self.first
        if first.confidences is None:
            yield Row(FRONT, first, (FRONT,), first.front)
        else:
            yield Row(FRONT, first, (), Cascade)
        if self.crf:
            yield Row(CRF, first, (CRF_FILE,), partial(tuned_crf, first))
        for training in self.local:
            yield Row("MS-Dilation", training, ("context",), training.context)
        for training in self.local:
            yield Row("LRN", training, ("lrn_alone",), training.lrn_alone)
        for training in self.local:
            yield Row("BilateralLRN", training, ("bilateral_alone",), training.bilateral_alone)
        for training in self.with_grn:
            yield from after_each_iteration(training, "GRN", "grn", training.recipe.iterations)
            for title, stages, network in (
                ("GRN, LRN", ("grn", "lrn"), grn_then_lrn),
                ("GRN, BilateralLRN", ("grn", "bilateral"), grn_then_bilateral),
                ("light GRN", ("light",), Training.light),
                ("light GRN, BilateralLRN", ("light", "bilateral_light"), light_then_bilateral),
                ("LRN, GRN", ("lrn_alone", "grn_last"), lrn_then_grn),
                ("GRN and LRN in parallel", ("grn", "lrn_alone"), grn_beside_lrn),
            ):
                yield Row(title, training, stages, partial(network, training))
        training = self.with_grn[0]
        if self.iterated and training.recipe.iterations < PAPER_ITERATIONS:
            title = f"GRN trained for {PAPER_ITERATIONS}"
            yield from after_each_iteration(training, title, "grn_iterated", PAPER_ITERATIONS)
        if training.confidences is None:
            stages = (FRONT, *training.of_cascade)
            yield Row("all of it, multi-scale and flip", training, stages, partial(multi_scale, training))
            if self.ensemble:
                title = f"ensemble of {1 + len(self.ensemble)}"
                network = partial(ensemble, training, self.ensemble)
                yield Row(title, training, stages, network, tuple(self.ensemble))


def after_each_iteration(training: Training, title: str, stage: str, iterations: int) -> Iterator[Row]:
    def read(n: int) -> GRN:
        return after(getattr(training, stage)(), n)

    for n in range(1, iterations + 1):
        yield Row(f"{title}, N = {n}", training, (stage,), partial(read, n))


def grn_then_lrn(training: Training) -> Cascade:
    return Cascade(training.grn(), training.lrn())


def grn_then_bilateral(training: Training) -> Cascade:
    return Cascade(training.grn(), training.bilateral())


def light_then_bilateral(training: Training) -> Cascade:
    return Cascade(training.light(), training.bilateral_light())


def lrn_then_grn(training: Training) -> Cascade:
    return Cascade(training.lrn_alone(), training.grn_last())


def grn_beside_lrn(training: Training) -> Parallel:
    return Parallel(training.grn(), training.lrn_alone())


def whole(training: Training) -> SceneParser:
    return SceneParser(training.front(), training.cascade())


def multi_scale(training: Training) -> MultiScale:
    return MultiScale(whole(training), training.recipe.front.scales)


def ensemble(training: Training, others: Sequence[Path]) -> Ensemble:
    return Ensemble(whole(training), *[load_parser(path) for path in others])


def after(grn: GRN, iterations: int) -> GRN:
    """The same network, read after so many of its iterations."""
    fewer = copy(grn)
    fewer.iterations = iterations
    return fewer


def tuned_crf(training: Training) -> FullyConnectedCRF:
    """The CRF whose settings are best on training images, found once."""
    path = training.output / "crf.safetensors"
    confidences = training.after_front("train").confidences
    if path.exists():
        if read_training(path).get("confidences") != confidences.about["source"]:
            raise ValueError(f"{path}: found for other confidences; delete it")
        return cast(FullyConnectedCRF, load(path))
    training.reporter.stage("CRF", TRIALS + 1)
    best, *_, none = tuned(confidences, trials=TRIALS, seed=training.seed, on_trial=training.reporter.advance)
    about = {
        "confidences": confidences.about["source"],
        "mean_iou_without": f"{none.scores.mean_iou:.4f}",
        "mean_iou_with": f"{best.scores.mean_iou:.4f}",
    }
    save(best.crf, path, training.about | about)
    return best.crf


def drives_of(training: Training) -> list[str]:
    return list(drives(training.datasets["train"]))
