"""Table 2 of the paper on a data set of one's own: what each refiner is worth after one front, and how sure that is.

Everything is measured from the stored confidences of the front, on val and on drives that nothing was trained on. What
is not trained yet is trained. What was measured is kept as a record, by the settings, seeds and images that its
networks follow from, so that the table outlives their weights.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import cast

from torch import nn

from rectiseg.crf_search import settings_of, tuned
from rectiseg.data.datasets import drives
from rectiseg.data.files import atomic_path
from rectiseg.held_out import WithoutDrive
from rectiseg.intervals import blocks_of
from rectiseg.machine import machine
from rectiseg.measured import (
    Measured,
    as_markdown,
    counted,
    joined,
    looks_again,
    read_record,
    timed,
    write_record,
)
from rectiseg.models.checkpoint import identity, load, load_parser, read_training, save
from rectiseg.models.combine import Cascade, Parallel, SceneParser
from rectiseg.models.crf import FullyConnectedCRF
from rectiseg.models.fusion import Ensemble, MultiScale
from rectiseg.models.grn import GRN
from rectiseg.train import PAPER_ITERATIONS, Training

TRIALS = 50
TIMED_IMAGES = 9
FRONT, CRF = "front", "CRF"
CRF_FILE = "crf"
NOTES = """
Per cent, but for the wrong regions, which are counted an image: 4-connected regions of one predicted class with 25 or
more annotated pixels of which more than half are wrong. Boundary F at 3 px: by class and image, where pixels near an
ignored one are not counted, averaged over images, then over classes. The gain is over the front, with its 95 % interval
from 2000 resamples of the blocks, 20 consecutive frames of a drive; ± is the standard deviation over seeds. ms: the
median time of an image, the front's own included.
"""


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
        return all(self.training.path_of(stage).exists() for stage in self.stages)

    @property
    def trained(self) -> str:
        """What its weights and the confidences before it follow from."""
        keys = {
            stage: f"{TRIALS} trials" if stage == CRF_FILE else self.training.key_of(stage) for stage in self.stages
        }
        others = {str(number): identity(load_parser(path)) for number, path in enumerate(self.further, start=2)}
        return json.dumps({FRONT: self.training.key_of(FRONT), **keys, **others}, sort_keys=True)

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
                ("LRN, GRN", ("lrn_alone", "grn_last"), lrn_then_grn),
                ("GRN and LRN in parallel", ("grn", "lrn_alone"), grn_beside_lrn),
            ):
                yield Row(title, training, stages, partial(network, training))
        training = self.with_grn[0]
        if self.iterated and training.recipe.iterations < PAPER_ITERATIONS:
            title = f"GRN trained for {PAPER_ITERATIONS}"
            yield from after_each_iteration(training, title, "grn_iterated", PAPER_ITERATIONS)
        if training.confidences is None:
            stages = (FRONT, "grn", training.recipe.last)
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


def measure(row: Row, folder: Path, train: bool) -> Measured | None:
    """From its record, or now; None where that would take a training that is not wanted."""
    training = row.training
    path = folder / f"{row.label}.safetensors"
    about = {"trained": row.trained, "images": digest(training.datasets["val"].names)}
    network = row.network() if row.is_trained else None
    if network is not None:
        about["network"] = identity(network)
    found = read_record(path, about, training.num_classes)
    if found is None and (network is not None or train):
        network = network or row.network()
        views = training.after_front("val")
        training.reporter.stage(f"measure {row.label}", len(views))
        found = counted(network, views, training.reporter, training.device)
        about |= {"network": identity(network), "machine": machine(), "seconds": json.dumps(row.seconds())}
        if isinstance(network, FullyConnectedCRF):
            about["settings"] = json.dumps(settings_of(network))
        found = replace(found, about=about)
        write_record(path, found, training.num_classes)
    return found


def measure_rows(rows: Iterable[Row], folder: Path, train: bool = True) -> dict[str, list[Measured]]:
    """Each row's measurements, one for each of its trainings; a row without any is left out."""
    result: dict[str, list[Measured]] = {}
    for row in rows:
        found = measure(row, folder, train)
        if found is not None:
            result.setdefault(row.title, []).append(found)
    return result


def measure_drives(rows: Rows, folder: Path, train: bool = True) -> dict[str, dict[str, list[Measured]]]:
    """The same on each drive's images, by what was trained on the others; a drive without its front is left out."""
    parts = {
        drive: measure_rows(without, folder / f"without_{drive}", train)
        for drive, without in rows.without_each_drive().items()
    }
    return {drive: part for drive, part in parts.items() if FRONT in part}


def over_drives(parts: Mapping[str, Mapping[str, Sequence[Measured]]]) -> dict[str, list[Measured]]:
    """The rows that every drive has, each as one measurement of all their images."""
    first, *others = parts.values()
    titles = [title for title in first if all(title in other for other in others)]
    return {title: [joined([part[title][0] for part in parts.values()])] for title in titles}


def milliseconds(rows: Iterable[Row], folder: Path, train: bool = True) -> dict[str, float]:
    """An image's time by title, the front's own included. What was timed before on this machine is not timed again."""
    path = folder / "milliseconds.json"
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    taken: dict[str, float] = dict(known.get(machine(), {}))
    for row in rows:
        if row.title not in taken and (train or row.is_trained) and (row.title == FRONT or FRONT in taken):
            training = row.training
            views, network = training.after_front("val"), row.network()
            own = timed(network, views, TIMED_IMAGES, training.device)
            taken[row.title] = own if looks_again(network) else round(own + taken.get(FRONT, 0.0), 1)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(known | {machine(): taken}, indent=2) + "\n", encoding="utf-8")
    return taken


def digest(names: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(names).encode()).hexdigest()[:12]


def drives_of(training: Training) -> list[str]:
    return list(drives(training.datasets["train"]))


def page(rows: Rows, command: str, with_drives: bool, folder: Path, train: bool = True) -> str:
    """The table on val and, if wanted, that on unseen drives, with what they were printed from."""
    first = rows.first
    if with_drives:
        rows.without_each_drive()  # refuses before anything is trained
    val = measure_rows(rows, folder, train)
    if FRONT not in val:
        raise ValueError(f"{folder}: no record of this recipe's front on these images; without --no-train it is made")
    times = milliseconds(rows, folder, train)
    lines = [f"# Table 2: {first.recipe.name}", "", f"Printed by `{command}`.", "", "## Val", ""]
    lines += [*table(first, timed_as(val, times), first.datasets["val"].names), *missing(rows, val)]
    parts = measure_drives(rows, folder, train) if with_drives else {}
    if with_drives:
        lines += ["", "## Drives that nothing was trained on", "", *drives_table(rows, parts, times)]
    machines = dict.fromkeys(one.about["machine"] for row in val.values() for one in row)
    lines += [NOTES.rstrip(), "", f"Measured on {'; '.join(machines)}."]
    if CRF in val:
        settings = json.loads(val[CRF][0].about["settings"]).items()
        chosen = ", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in settings)
        lines += ["", f"The CRF's settings are the best of {TRIALS} tried on training images: {chosen}."]
    minutes = minutes_of(val) | {
        f"without {drive}, {name}": value for drive, part in parts.items() for name, value in minutes_of(part).items()
    }
    return "\n".join([*lines, "", "## What it took", "", *minutes_table(minutes)])


def drives_table(
    rows: Rows, parts: Mapping[str, Mapping[str, Sequence[Measured]]], times: Mapping[str, float]
) -> list[str]:
    lines: list[str] = []
    if parts:
        without = rows.without_each_drive()
        names = [name for drive in parts for name in without[drive].first.datasets["val"].names]
        found = over_drives(parts)
        lines = [*table(rows.first, timed_as(found, times), names), *missing(without[next(iter(parts))], found), ""]
        lines += [
            f"The drives {', '.join(parts)}: for each, front and refiners were trained on the others, the front for "
            "fewer epochs than val's; one seed."
        ]
    unmeasured = [drive for drive in drives_of(rows.first) if drive not in parts]
    return [*lines, "", f"Not measured: the drives {', '.join(unmeasured)}."] if unmeasured else lines


def missing(rows: Iterable[Row], found: Mapping[str, Sequence[Measured]]) -> list[str]:
    titles = dict.fromkeys(f"+{row.title}" for row in rows if row.title not in found)
    return ["", f"Not measured: {'; '.join(titles)}."] if titles else []


def timed_as(rows: Mapping[str, Sequence[Measured]], times: Mapping[str, float]) -> dict[str, list[Measured]]:
    nan = float("nan")
    return {title: [replace(one, milliseconds=times.get(title, nan)) for one in row] for title, row in rows.items()}


def table(training: Training, rows: Mapping[str, Sequence[Measured]], names: Sequence[str]) -> list[str]:
    blocks = blocks_of(names)
    return [as_markdown(rows, training.num_classes, blocks), "", f"{len(names)} images in {len(blocks)} blocks."]


def minutes_of(rows: Mapping[str, Sequence[Measured]]) -> dict[str, float]:
    """How long each training took that the measured networks came from."""
    return {
        label: float(seconds) / 60
        for row in rows.values()
        for one in row
        for label, seconds in json.loads(one.about["seconds"]).items()
        if seconds
    }


def minutes_table(minutes: Mapping[str, float]) -> list[str]:
    lines = [f"| {name} | {value:.0f} |" for name, value in sorted(minutes.items())]
    hours = sum(minutes.values()) / 60
    return ["| training | minutes |", "|---|--:|", *lines, "", f"{hours:.1f} hours of training in all."]
