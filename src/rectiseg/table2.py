"""Table 2 of the paper on a data set of one's own: what each refiner is worth after one front, and how sure that is.

Everything is measured from the stored confidences of the front, on val or on held-out folds. What is not trained yet
is trained, and what was measured before is not measured again.
"""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median, stdev

import torch
from safetensors import safe_open
from torch import Tensor, nn

from rectiseg.boundaries import BoundaryF
from rectiseg.consistency import Inconsistency
from rectiseg.data.datasets import Dataset
from rectiseg.data.files import atomic_path, save_file
from rectiseg.intervals import Blocks, Interval, mean_difference
from rectiseg.metrics import MeanIoU, Measure, PixelAccuracy
from rectiseg.models.checkpoint import identity
from rectiseg.models.combine import Cascade, Parallel, SceneParser
from rectiseg.models.fusion import MultiScale
from rectiseg.models.grn import GRN
from rectiseg.progress import Reporter
from rectiseg.train import HeldOut, Training
from rectiseg.views import ConfidenceViews


def measures(num_classes: int) -> dict[str, Measure]:
    return {
        "mean IoU": MeanIoU(num_classes),
        "pixel accuracy": PixelAccuracy(num_classes),
        "boundary F at 3 px": BoundaryF(num_classes, 3),
        "wrong regions": Inconsistency(num_classes),
    }


@dataclass(frozen=True)
class Measured:
    """What one network did: its counts of every image by measure, (images, ...), and its time for one."""

    counts: Mapping[str, Tensor]
    milliseconds: float


def refiners_of(training: Training) -> Iterator[tuple[str, nn.Module]]:
    """The rows after the front, by title: refiners, and a parser that looks at the image again."""
    yield "MS-Dilation", training.context()
    lrn_alone, grn = training.lrn_alone(), training.grn()
    yield "LRN", lrn_alone
    for n in range(1, grn.iterations + 1):
        yield f"GRN, N = {n}", after(grn, n)
    cascade = Cascade(grn, training.lrn())
    yield "GRN, LRN", cascade
    yield "LRN, GRN", Cascade(lrn_alone, training.grn_last())
    yield "GRN and LRN in parallel", Parallel(grn, lrn_alone)
    yield "GRN, LRN, multi-scale", MultiScale(SceneParser(training.front(), cascade), training.recipe.front.scales)


def after(grn: GRN, iterations: int) -> GRN:
    """The same network, read after so many of its iterations."""
    fewer = copy(grn)
    fewer.iterations = iterations
    return fewer


def measure_rows(
    trainings: Sequence[Training], seedless: Mapping[str, nn.Module], reporter: Reporter
) -> dict[str, list[Measured]]:
    """Each row's measurements, one for each training; they differ in their refiners' seeds. The front comes first."""
    first = trainings[0]
    views = first.after_front("val")
    folder = first.output / "table2"
    rows = {
        title: [measured(network, views, folder / f"{title}.safetensors", reporter)]
        for title, network in {"front": Cascade(), **seedless}.items()
    }
    for training in trainings:
        for title, network in refiners_of(training):
            path = folder / f"{training.label(title)}.safetensors"
            rows.setdefault(title, []).append(measured(network, views, path, reporter))
    return rows


def measure_held_out_rows(
    trainings: Sequence[Training], seedless: Mapping[str, nn.Module], reporter: Reporter
) -> tuple[dict[str, list[Measured]], list[str]]:
    """The same on the images of every fold, by front and refiners that never saw them; and the images' names."""
    parts: list[dict[str, list[Measured]]] = []
    names: list[str] = []
    for fold in range(len(trainings[0].folds)):
        held_out = [HeldOut(training, fold) for training in trainings]
        parts.append(measure_rows(held_out, seedless, reporter))
        names += names_of(held_out[0].datasets["val"])
    return {
        title: [joined(one) for one in zip(*(part[title] for part in parts), strict=True)] for title in parts[0]
    }, names


def joined(parts: Sequence[Measured]) -> Measured:
    """Measurements of several sets of images as one of all of them."""
    counts = {name: torch.cat([part.counts[name] for part in parts]) for name in parts[0].counts}
    return Measured(counts, mean(part.milliseconds for part in parts))


def names_of(dataset: Dataset) -> list[str]:
    return [dataset[index].name for index in range(len(dataset))]


def measured(network: nn.Module, views: ConfidenceViews, path: Path, reporter: Reporter) -> Measured:
    """Take the measurements from the file, if they are of this network and these confidences, or make them."""
    about = {"network": identity(network), "confidences": json.dumps(views.confidences.about, sort_keys=True)}
    if path.exists():
        with safe_open(path, framework="pt") as file:
            known = file.metadata()
            if about.items() <= known.items():
                counts = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                return Measured(counts, float(known["milliseconds"]))
    reporter.stage(path.stem, len(views))
    kinds = measures(len(views.confidences.dataset.classes))
    collected: dict[str, list[Tensor]] = {name: [] for name in kinds}
    seconds = []
    for index in range(len(views)):
        (image, logits), labels = views.whole(index)
        start = time.perf_counter()
        with torch.inference_mode():
            answer = network(image) if isinstance(network, MultiScale) else network(image, logits)
        seconds.append(time.perf_counter() - start)
        for name, measure in kinds.items():
            collected[name].append(measure.counts(answer.argmax(dim=1)[0], labels[0]))
        reporter.advance()
    counts = {name: torch.stack(values) for name, values in collected.items()}
    about["milliseconds"] = f"{1000 * median(seconds):.1f}"
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        save_file(counts, temporary, about)
    return Measured(counts, float(about["milliseconds"]))


def gain(front: Measured, row: Sequence[Measured], name: str, measure: Measure, blocks: Blocks) -> Interval:
    """Of a row over the front: the mean of its seeds, which are resampled together."""
    return mean_difference(front.counts[name], [one.counts[name] for one in row], measure, blocks)


def as_markdown(rows: Mapping[str, Sequence[Measured]], num_classes: int, blocks: Blocks) -> str:
    """Per cent but for the wrong regions an image; the gain over the front with its 95 % interval."""
    kinds = measures(num_classes)
    front = rows["front"][0]
    titles = [part for name in kinds for part in (name, "gain")]
    lines = ["| | seeds | " + " | ".join(titles) + " | ms |", "|---|--:|" + "--:|" * (len(titles) + 1)]
    for title, row in rows.items():
        cells = [title if row[0] is front else f"+{title}", str(len(row))]
        for name, measure in kinds.items():
            scale = 1 if name == "wrong regions" else 100
            values = [scale * float(measure.value(one.counts[name].sum(dim=0))) for one in row]
            cells.append(f"{mean(values):.2f}" + (f" ± {stdev(values):.2f}" if len(values) > 1 else ""))
            cells.append("" if row[0] is front else gained(gain(front, row, name, measure, blocks), scale))
        cells.append("" if row[0] is front else f"{mean(one.milliseconds for one in row):.0f}")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def gained(interval: Interval, scale: float) -> str:
    value, low, high = (scale * number for number in (interval.value, interval.low, interval.high))
    return f"{value:+.2f} [{low:+.2f}, {high:+.2f}]"
