"""Table 2 of the paper on a data set of one's own: what each refiner is worth after one front, and how sure that is.

Everything is measured from the stored confidences of the front, on val and on drives that nothing was trained on. What
is not trained yet is trained. What was measured is kept as a record, by the settings, seeds and images that its
networks follow from, so that the table outlives their weights.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rectiseg.crf_search import settings_of
from rectiseg.data.files import atomic_path
from rectiseg.intervals import blocks_of
from rectiseg.machine import machine
from rectiseg.measured import (
    Measured,
    as_markdown,
    counted,
    digest,
    gains_as_markdown,
    joined,
    looks_again,
    read_record,
    timed,
    write_record,
)
from rectiseg.measured import as_json as figures_as_json
from rectiseg.models.checkpoint import identity
from rectiseg.models.crf import FullyConnectedCRF
from rectiseg.table2_rows import CRF, FRONT, TRIALS, Row, Rows, drives_of
from rectiseg.train import Training

TIMED_IMAGES = 9
NOTES = """
Per cent, but for the wrong regions, which are counted an image: 4-connected regions of one predicted class with 25 or
more annotated pixels of which more than half are wrong. Boundary F at 3 px: by class and image, where pixels near an
ignored one are not counted, averaged over images, then over classes. The gain is over the front, with its 95 % interval
from 2000 resamples of the blocks, 20 consecutive frames of a drive; so few blocks make it narrower than it says. ± is
the standard deviation over seeds. ms: the median time of an image, with the front's own unless its confidences were
stored before; rows that were timed in one call took turns.
"""


def measure(row: Row, folder: Path, train: bool) -> Measured | None:
    """From its record, or now; None where that would take a training that is not wanted."""
    training = row.training
    path = folder / f"{row.label}.safetensors"
    about = {"trained": row.trained, "images": digest(training.datasets["val"].names), **row.others}
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
        for drive, without in rows.without_each_drive.items()
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
    of_networks: dict[str, float] = known.setdefault(machine(), {})
    chosen: dict[str, tuple[str, Row]] = {}
    for row in rows:
        key = ", ".join([row.title, row.trained, *map(str, row.further)])
        if key in of_networks or train or row.is_trained:
            chosen.setdefault(row.title, (key, row))
    if FRONT not in chosen:
        return {}
    new = {title: row.network() for title, (key, row) in chosen.items() if key not in of_networks}
    if new:
        key, front = chosen[FRONT]
        own = timed(new, front.training.after_front("val"), TIMED_IMAGES, front.training.device)
        before = own.get(FRONT) or of_networks[key]
        for title, network in new.items():
            alone = title == FRONT or looks_again(network)
            of_networks[chosen[title][0]] = own[title] if alone else round(before + own[title], 1)
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary:
            temporary.write_text(json.dumps(known, indent=2) + "\n", encoding="utf-8")
    return {title: of_networks[key] for title, (key, _) in chosen.items()}


@dataclass(frozen=True)
class Table2:
    """What was measured on val, and of each drive what never saw it; an image's milliseconds by row."""

    rows: Rows
    val: Mapping[str, Sequence[Measured]]
    drives: Mapping[str, Mapping[str, Sequence[Measured]]] | None  # none were wanted
    milliseconds: Mapping[str, float]

    @property
    def images(self) -> Sequence[str]:
        return self.rows.first.datasets["val"].names

    @property
    def drives_images(self) -> list[str]:
        without = self.rows.without_each_drive
        return [name for drive in self.drives or {} for name in without[drive].first.datasets["val"].names]

    def timed(self, rows: Mapping[str, Sequence[Measured]]) -> dict[str, list[Measured]]:
        taken = {title: self.milliseconds.get(title, float("nan")) for title in rows}
        return {title: [replace(one, milliseconds=taken[title]) for one in row] for title, row in rows.items()}


def measure_all(rows: Rows, with_drives: bool, folder: Path, train: bool = True) -> Table2:
    """The table on val and, if wanted, that on unseen drives."""
    if with_drives:
        _ = rows.without_each_drive  # refuses before anything is trained
    val = measure_rows(rows, folder, train)
    if FRONT not in val:
        raise ValueError(f"{folder}: no record of this recipe's front on these images; without --no-train it is made")
    times = milliseconds(rows, folder, train)
    return Table2(rows, val, measure_drives(rows, folder, train) if with_drives else None, times)


def as_page(found: Table2, command: str) -> str:
    """Both tables, with what they were printed from."""
    rows, val, parts = found.rows, found.val, found.drives
    other = "" if rows.first.confidences is None else f", after {rows.first.key_of(FRONT)}"  # another parser
    lines = [f"# Table 2: {rows.first.recipe.name}{other}", "", f"Printed by `{command}`.", "", "## Val", ""]
    lines += [*table(rows.first, found.timed(val), found.images), *missing(rows, val)]
    if parts is not None:
        lines += ["", "## Drives that nothing was trained on", "", *drives_table(found, parts)]
    machines = dict.fromkeys(one.about["machine"] for row in val.values() for one in row)
    lines += [NOTES.rstrip(), "", f"Measured on {'; '.join(machines)}."]
    if CRF in val:
        settings = json.loads(val[CRF][0].about["settings"]).items()
        chosen = ", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in settings)
        where = "training images, where the front is surer than on val"
        lines += ["", f"The CRF's settings are the best of {TRIALS} tried on {where}: {chosen}."]
    minutes = minutes_of(val) | {
        f"without {drive}, {name}": value
        for drive, part in (parts or {}).items()
        for name, value in minutes_of(part).items()
    }
    return "\n".join([*lines, "", "## What it took", "", *minutes_table(minutes)])


def as_json(found: Table2) -> dict[str, Any]:
    """The figures of both tables; fractions of 1, but for the wrong regions."""
    num_classes = found.rows.first.num_classes
    tables = {"val": (found.val, found.images)}
    if found.drives:
        tables["drives"] = (over_drives(found.drives), found.drives_images)
    return {
        name: figures_as_json(found.timed(rows), num_classes, blocks_of(images))
        for name, (rows, images) in tables.items()
    }


def drives_table(found: Table2, parts: Mapping[str, Mapping[str, Sequence[Measured]]]) -> list[str]:
    rows = found.rows
    lines: list[str] = []
    if parts:
        together = over_drives(parts)
        lines = [
            *table(rows.first, found.timed(together), found.drives_images),
            *missing(rows.without_each_drive[next(iter(parts))], together),
            "",
            f"Drives: {', '.join(parts)}. For each, front and refiners were trained on the others, the front for fewer "
            "epochs than val's; one seed. A GRN started as the front's encoder.",
        ]
    unmeasured = [drive for drive in drives_of(rows.first) if drive not in parts]
    return [*lines, "", f"Drives not measured: {', '.join(unmeasured)}."] if unmeasured else lines


def missing(rows: Iterable[Row], found: Mapping[str, Sequence[Measured]]) -> list[str]:
    titles = dict.fromkeys(f"+{row.title}" for row in rows if row.title not in found)
    return ["", f"Not measured: {'; '.join(titles)}."] if titles else []


def table(training: Training, rows: Mapping[str, Sequence[Measured]], names: Sequence[str]) -> list[str]:
    blocks = blocks_of(names)
    lines = [as_markdown(rows, training.num_classes, blocks), "", f"{len(names)} images in {len(blocks)} blocks."]
    if CRF in rows:
        lines += ["", *gains_as_markdown(rows, CRF, training.num_classes, blocks)]
    return lines


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
