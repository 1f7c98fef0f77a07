"""Table 2 of the paper on a data set of one's own: what each refiner is worth after one front, and how sure that is.

Everything is measured from the stored confidences of the front, on val and on drives that nothing was trained on. What
is not trained yet is trained, and what was measured before is not measured again.
"""

from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from torch import nn

from rectiseg.crf_search import settings_of, tuned
from rectiseg.data.datasets import drives
from rectiseg.held_out import WithoutDrive
from rectiseg.intervals import blocks_of
from rectiseg.machine import machine
from rectiseg.measured import Measured, as_markdown, joined, measured
from rectiseg.models.checkpoint import load, load_parser, read_training, save
from rectiseg.models.combine import Cascade, Parallel, SceneParser
from rectiseg.models.crf import FullyConnectedCRF
from rectiseg.models.fusion import Ensemble, MultiScale
from rectiseg.models.grn import GRN
from rectiseg.train import PAPER_ITERATIONS, Training

TRIALS = 50
NOTES = """
Per cent, but for the wrong regions, which are counted an image: 4-connected regions of one predicted class with 25 or
more annotated pixels of which more than half are wrong. Boundary F at 3 px: by class and image, where pixels near an
ignored one are not counted, averaged over images, then over classes. The gain is over the front, with its 95 % interval
from 2000 resamples of the blocks, 20 consecutive frames of a drive; ± is the standard deviation over seeds. ms: the
median time of an image, the front's own included.
"""


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

    def without_each_drive(self) -> list["Rows"]:
        """The same on drives that nothing was trained on, for the first seed; the ensemble's parsers may know them.

        The longest training, that of an iterated GRN, is left out.
        """
        return [
            Rows(
                [WithoutDrive(self.local[0], drive)], [WithoutDrive(self.with_grn[0], drive)], self.crf, iterated=False
            )
            for drive in drives_of(self.first)
        ]

    def networks(self) -> Iterator[tuple[str, Training, nn.Module]]:
        """Titles of rows, whose training, and what follows the stored confidences or looks at the image again."""
        if self.crf:
            yield "CRF", self.first, tuned_crf(self.first)
        for training in self.local:
            yield "MS-Dilation", training, training.context()
        for training in self.local:
            yield "LRN", training, training.lrn_alone()
        for training in self.local:
            yield "BilateralLRN", training, training.bilateral_alone()
        for training in self.with_grn:
            lrn_alone, grn = training.lrn_alone(), training.grn()
            for n in range(1, grn.iterations + 1):
                yield f"GRN, N = {n}", training, after(grn, n)
            yield "GRN, LRN", training, Cascade(grn, training.lrn())
            yield "GRN, BilateralLRN", training, Cascade(grn, training.bilateral())
            yield "LRN, GRN", training, Cascade(lrn_alone, training.grn_last())
            yield "GRN and LRN in parallel", training, Parallel(grn, lrn_alone)
        training = self.with_grn[0]
        if self.iterated and training.recipe.iterations < PAPER_ITERATIONS:
            grn = training.grn_iterated()
            for n in range(1, grn.iterations + 1):
                yield f"GRN trained for {grn.iterations}, N = {n}", training, after(grn, n)
        if training.confidences is None:
            whole = SceneParser(training.front(), training.cascade())
            yield "all of it, multi-scale and flip", training, MultiScale(whole, training.recipe.front.scales)
            if self.ensemble:
                parsers = [whole, *(load_parser(path) for path in self.ensemble)]
                yield f"ensemble of {len(parsers)}", training, Ensemble(*parsers)


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


def measure_rows(rows: Rows) -> dict[str, list[Measured]]:
    """Each row's measurements, one for each of its trainings. The front comes first."""
    first = rows.first
    views = first.after_front("val")
    folder = first.output / "table2"
    front = Cascade() if first.confidences is not None else first.front()
    start = measured(front, views, folder / "front.safetensors", 0.0, first.reporter, first.device)
    result = {"front": [start]}
    for title, training, network in rows.networks():
        path = folder / f"{training.label(title)}.safetensors"
        row = measured(network, views, path, start.milliseconds, training.reporter, training.device)
        result.setdefault(title, []).append(row)
    return result


def measure_drives(rows: Rows) -> tuple[dict[str, list[Measured]], list[str]]:
    """The same on each drive's images, by what was trained on the others; and the images' names."""
    parts: list[dict[str, list[Measured]]] = []
    names: list[str] = []
    for without in rows.without_each_drive():
        parts.append(measure_rows(without))
        names += without.first.datasets["val"].names
    joined_rows = {
        title: [joined(one) for one in zip(*(part[title] for part in parts), strict=True)] for title in parts[0]
    }
    return joined_rows, names


def drives_of(training: Training) -> list[str]:
    return list(drives(training.datasets["train"]))


def page(rows: Rows, command: str, with_drives: bool) -> str:
    """The table on val and, if wanted, that on unseen drives, with what they were printed from."""
    first = rows.first
    if with_drives:
        rows.without_each_drive()  # refuses before anything is trained
    lines = [f"# Table 2: {first.recipe.name}", "", f"Printed by `{command}`, on {machine()}.", "", "## Val", ""]
    lines += table(first, measure_rows(rows), first.datasets["val"].names)
    if with_drives:
        lines += ["", "## Drives that nothing was trained on", "", *table(first, *measure_drives(rows)), ""]
        lines += [
            f"The drives {', '.join(drives_of(first))}: for each, front and refiners were trained on the others, the "
            "front for fewer epochs than val's; one seed."
        ]
    lines += [NOTES.rstrip()]
    if rows.crf:
        crf = tuned_crf(first)
        chosen = ", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in settings_of(crf).items())
        lines += ["", f"The CRF's settings are the best of {TRIALS} tried on training images: {chosen}."]
    return "\n".join([*lines, "", "## What it took", "", *minutes_table(minutes_of(rows))])


def table(training: Training, rows: Mapping[str, Sequence[Measured]], names: Sequence[str]) -> list[str]:
    blocks = blocks_of(names)
    return [as_markdown(rows, training.num_classes, blocks), "", f"{len(names)} images in {len(blocks)} blocks."]


def minutes_table(minutes: Mapping[str, float]) -> list[str]:
    lines = [f"| {name} | {value:.0f} |" for name, value in minutes.items()]
    hours = sum(minutes.values()) / 60
    return ["| training | minutes |", "|---|--:|", *lines, "", f"{hours:.1f} hours of training in all."]


def minutes_of(rows: Rows) -> dict[str, float]:
    """How long each training in the folder took."""
    folder = rows.first.output
    minutes = {}
    for path in sorted([*folder.glob("*.safetensors"), *folder.glob("without_*/*.safetensors")]):
        seconds = read_training(path).get(f"{path.stem.partition('_seed')[0]}_seconds")
        if seconds is not None:
            minutes[path.relative_to(folder).with_suffix("").as_posix()] = float(seconds) / 60
    return minutes
