"""What networks are worth on stored confidences: measured once, kept, and compared with intervals."""

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from rectiseg.boundaries import BoundaryF
from rectiseg.consistency import WRONG_REGIONS, Inconsistency
from rectiseg.data.files import atomic_path, save_file
from rectiseg.intervals import Blocks, Interval, mean_difference
from rectiseg.machine import machine
from rectiseg.metrics import MeanIoU, Measure, PixelAccuracy, known
from rectiseg.models.checkpoint import PARSERS, identity
from rectiseg.ops.likeliest import likeliest
from rectiseg.progress import Reporter
from rectiseg.types import IGNORE_INDEX
from rectiseg.views import ConfidenceViews

SILENT = Reporter()


def measures(num_classes: int) -> dict[str, Measure]:
    return {
        "mean IoU": MeanIoU(num_classes),
        "pixel accuracy": PixelAccuracy(num_classes),
        "boundary F at 3 px": BoundaryF(num_classes, 3),
        WRONG_REGIONS: Inconsistency(num_classes),
    }


@dataclass(frozen=True)
class Measured:
    """What one network did: its counts of every image by measure, (images, ...), and its time for one.

    ``about`` is what its record remembers of it.
    """

    counts: Mapping[str, Tensor]
    milliseconds: float
    about: Mapping[str, str] = field(default_factory=dict)


def joined(parts: Sequence[Measured]) -> Measured:
    """Measurements of several sets of images as one of all of them."""
    counts = {name: torch.cat([part.counts[name] for part in parts]) for name in parts[0].counts}
    return Measured(counts, mean(part.milliseconds for part in parts))


def measured(
    network: nn.Module,
    views: ConfidenceViews,
    path: Path,
    before: float = 0.0,
    reporter: Reporter = SILENT,
    device: torch.device | str = "cpu",
) -> Measured:
    """What a refiner makes of stored confidences, or a parser of their images.

    It is taken from the record, if that is of this network, these confidences of these images, this machine and the
    measures as they are now. A refiner's time includes ``before``, the milliseconds of what made the confidences.
    """
    before = 0.0 if looks_again(network) else before
    about = {
        "network": identity(network),
        "confidences": json.dumps(views.confidences.about, sort_keys=True),
        "images": digest(views.confidences.dataset.names),
        "machine": machine(),
    }
    num_classes = len(views.confidences.dataset.classes)
    found = read_record(path, about, num_classes)
    if found is None:
        reporter.stage(path.stem, len(views))
        found = counted(network, views, reporter, device)
        write_record(path, replace(found, about=about), num_classes)
    return replace(found, milliseconds=before + found.milliseconds)


def digest(names: Sequence[str]) -> str:
    """Twelve hexadecimal digits of the names of images."""
    return hashlib.sha256("\n".join(names).encode()).hexdigest()[:12]


def looks_again(network: nn.Module) -> bool:
    """Whether it sees the image alone, and not what the front said of it."""
    return isinstance(network, PARSERS)


def counted(
    network: nn.Module, views: ConfidenceViews, reporter: Reporter = SILENT, device: torch.device | str = "cpu"
) -> Measured:
    """The counts of every image, and the median time of one."""
    network = network.to(device).eval()
    kinds = measures(len(views.confidences.dataset.classes))
    collected: dict[str, list[Tensor]] = {name: [] for name in kinds}
    milliseconds = []
    for index in range(len(views)):
        prediction, labels, taken = answered(network, views, index, device)
        milliseconds.append(taken)
        for name, measure in kinds.items():
            collected[name].append(measure.counts(prediction, labels))
        reporter.advance()
    # As the record has them.
    counts = {name: torch.stack(values).float().double() for name, values in collected.items()}
    return Measured(counts, round(median(milliseconds), 1))


def timed(
    networks: Mapping[str, nn.Module], views: ConfidenceViews, images: int, device: torch.device | str = "cpu"
) -> dict[str, float]:
    """Each one's median milliseconds on the first so many images. They take turns: what slows one slows all."""
    networks = {name: network.to(device).eval() for name, network in networks.items()}
    taken: dict[str, list[float]] = {name: [] for name in networks}
    for index in range(min(images, len(views))):
        for name, network in networks.items():
            taken[name].append(answered(network, views, index, device)[2])
    return {name: round(median(values), 1) for name, values in taken.items()}


def answered(
    network: nn.Module, views: ConfidenceViews, index: int, device: torch.device | str
) -> tuple[Tensor, Tensor, float]:
    """The label map of one image, the true one, and the milliseconds that it took."""
    inputs, labels = views.whole(index)
    image, logits = (tensor.to(device) for tensor in inputs)
    start = time.perf_counter()
    with torch.inference_mode():
        answer = network(image) if looks_again(network) else network(image, logits)
        prediction = likeliest(answer)[0].cpu()
    return prediction, labels[0], 1000 * (time.perf_counter() - start)


def read_record(path: Path, about: Mapping[str, str], num_classes: int) -> Measured | None:
    """What was measured before, if it is of all that and of the measures as they are now."""
    kinds = measures(num_classes)
    if not path.exists():
        return None
    with safe_open(path, framework="pt") as file:
        known = file.metadata() or {}
        if not {**about, "measures": definition_of(kinds, num_classes)}.items() <= known.items():
            return None
        counts = {name: file.get_tensor(name).double() for name in kinds}
    return Measured(counts, float(known["milliseconds"]), known)


def write_record(path: Path, found: Measured, num_classes: int) -> None:
    """Keep a measurement and what it is about."""
    about = dict(found.about) | {
        "measures": definition_of(measures(num_classes), num_classes),
        "milliseconds": str(found.milliseconds),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        save_file({name: counts.float() for name, counts in found.counts.items()}, temporary, about)


def definition_of(kinds: Mapping[str, Measure], num_classes: int) -> str:
    """Twelve hexadecimal digits that change when the measures say something else of two drawn label maps."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randint(num_classes, (2, 6, 8), generator=generator)
    prediction, labels = coarse.repeat_interleave(5, dim=1).repeat_interleave(7, dim=2)
    prediction = prediction.where(torch.rand(prediction.shape, generator=generator) < 0.5, labels)
    labels = labels.where(torch.rand(labels.shape, generator=generator) < 0.9, IGNORE_INDEX)
    said = {name: measure.counts(prediction, labels).tolist() for name, measure in kinds.items()}
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:12]


def gain(front: Measured, row: Sequence[Measured], name: str, measure: Measure, blocks: Blocks) -> Interval:
    """Of a row over the front: the mean of its seeds, which are resampled together."""
    return mean_difference(front.counts[name], [one.counts[name] for one in row], measure, blocks)


@dataclass(frozen=True)
class Figure:
    """One measure of one row: its value for each seed, and its gain over the front, which itself has none.

    Fractions of 1, but for the wrong regions, which are counted an image.
    """

    values: Sequence[float]
    gain: Interval | None


def figures(rows: Mapping[str, Sequence[Measured]], num_classes: int, blocks: Blocks) -> dict[str, dict[str, Figure]]:
    """Every row's figures, by measure."""
    front = rows["front"][0]
    return {
        title: {
            name: Figure(
                [float(measure.value(one.counts[name].sum(dim=0))) for one in row],
                None if row[0] is front else gain(front, row, name, measure, blocks),
            )
            for name, measure in measures(num_classes).items()
        }
        for title, row in rows.items()
    }


def as_json(rows: Mapping[str, Sequence[Measured]], num_classes: int, blocks: Blocks) -> dict[str, Any]:
    """Every row's figures and milliseconds; what was not to be measured is null."""
    return {
        title: {
            name: {
                "seeds": [known(value) for value in figure.values],
                "gain": figure.gain and known(figure.gain.value),
                "interval": figure.gain and [known(figure.gain.low), known(figure.gain.high)],
            }
            for name, figure in row.items()
        }
        | {"milliseconds": known(mean(one.milliseconds for one in rows[title]))}
        for title, row in figures(rows, num_classes, blocks).items()
    }


def as_markdown(rows: Mapping[str, Sequence[Measured]], num_classes: int, blocks: Blocks) -> str:
    """The gain over the front with its 95 % interval beside every measure."""
    titles = [part for name in measures(num_classes) for part in (name, "gain")]
    lines = ["| | seeds | " + " | ".join(titles) + " | ms |", "|---|--:|" + "--:|" * (len(titles) + 1)]
    for title, row in figures(rows, num_classes, blocks).items():
        cells = [name_of(title), str(len(rows[title]))]
        for name, figure in row.items():
            scale = scale_of(name)
            values = [scale * value for value in figure.values]
            cells.append(f"{mean(values):.2f}" + (f" ± {stdev(values):.2f}" if len(values) > 1 else ""))
            cells.append("" if figure.gain is None else gained(figure.gain, scale))
        milliseconds = known(mean(one.milliseconds for one in rows[title]))
        cells.append("" if milliseconds is None else f"{milliseconds:.0f}")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def gains_as_markdown(rows: Mapping[str, Sequence[Measured]], over: str, num_classes: int, blocks: Blocks) -> list[str]:
    """What every row gains over that one, which has one seed, with 95 % intervals; the front and it are left out."""
    kinds = measures(num_classes)
    lines = [f"| gain over +{over} | " + " | ".join(kinds) + " |", "|---|" + "--:|" * len(kinds)]
    for title, row in rows.items():
        if title not in ("front", over):
            intervals = [gain(rows[over][0], row, name, measure, blocks) for name, measure in kinds.items()]
            cells = [gained(interval, scale_of(name)) for name, interval in zip(kinds, intervals, strict=True)]
            lines.append(f"| {name_of(title)} | " + " | ".join(cells) + " |")
    return lines


def name_of(title: str) -> str:
    return title if title.startswith(("front", "ensemble")) else f"+{title}"


def scale_of(measure: str) -> int:
    return 1 if measure == WRONG_REGIONS else 100


def gained(interval: Interval, scale: float) -> str:
    value, low, high = (scale * number for number in (interval.value, interval.low, interval.high))
    return f"{value:+.2f} [{low:+.2f}, {high:+.2f}]"
