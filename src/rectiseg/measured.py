"""What networks are worth on stored confidences: measured once, kept, and compared with intervals."""

import hashlib
import inspect
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median, stdev

import torch
from safetensors import safe_open
from torch import Tensor, nn

from rectiseg.boundaries import BoundaryF
from rectiseg.consistency import WRONG_REGIONS, Inconsistency
from rectiseg.data.files import atomic_path, save_file
from rectiseg.intervals import Blocks, Interval, mean_difference
from rectiseg.machine import machine
from rectiseg.metrics import MeanIoU, Measure, PixelAccuracy
from rectiseg.models.checkpoint import PARSERS, identity
from rectiseg.progress import Reporter
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
    """What one network did: its counts of every image by measure, (images, ...), and its time for one."""

    counts: Mapping[str, Tensor]
    milliseconds: float


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

    It is taken from the file, if that is of this network, these confidences, this machine and the measures as they are
    now. A refiner's time includes ``before``, the milliseconds of what made the confidences.
    """
    looks_again = isinstance(network, PARSERS)
    before = 0.0 if looks_again else before
    kinds = measures(len(views.confidences.dataset.classes))
    about = {
        "network": identity(network),
        "confidences": json.dumps(views.confidences.about, sort_keys=True),
        "machine": machine(),
        "measures": definition_of(kinds),
    }
    if path.exists():
        with safe_open(path, framework="pt") as file:
            known = file.metadata()
            if about.items() <= known.items():
                counts = {name: file.get_tensor(name) for name in kinds}
                return Measured(counts, before + float(known["milliseconds"]))
    reporter.stage(path.stem, len(views))
    network = network.to(device).eval()
    collected: dict[str, list[Tensor]] = {name: [] for name in kinds}
    seconds = []
    for index in range(len(views)):
        inputs, labels = views.whole(index)
        image, logits = (tensor.to(device) for tensor in inputs)
        start = time.perf_counter()
        with torch.inference_mode():
            answer = network(image) if looks_again else network(image, logits)
            prediction = answer.argmax(dim=1)[0].cpu()
        seconds.append(time.perf_counter() - start)
        for name, measure in kinds.items():
            collected[name].append(measure.counts(prediction, labels[0]))
        reporter.advance()
    counts = {name: torch.stack(values) for name, values in collected.items()}
    about["milliseconds"] = f"{1000 * median(seconds):.1f}"
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        save_file(counts, temporary, about)
    return Measured(counts, before + float(about["milliseconds"]))


def definition_of(kinds: Mapping[str, Measure]) -> str:
    """Twelve hexadecimal digits that change with the source text of the measures."""
    files = sorted({inspect.getfile(type(measure)) for measure in kinds.values()})
    text = "".join(Path(file).read_text(encoding="utf-8") for file in files)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def gain(front: Measured, row: Sequence[Measured], name: str, measure: Measure, blocks: Blocks) -> Interval:
    """Of a row over the front: the mean of its seeds, which are resampled together."""
    return mean_difference(front.counts[name], [one.counts[name] for one in row], measure, blocks)


def as_markdown(rows: Mapping[str, Sequence[Measured]], num_classes: int, blocks: Blocks) -> str:
    """The gain over the front with its 95 % interval beside every measure."""
    kinds = measures(num_classes)
    front = rows["front"][0]
    titles = [part for name in kinds for part in (name, "gain")]
    lines = ["| | seeds | " + " | ".join(titles) + " | ms |", "|---|--:|" + "--:|" * (len(titles) + 1)]
    for title, row in rows.items():
        cells = [title if title.startswith(("front", "ensemble")) else f"+{title}", str(len(row))]
        for name, measure in kinds.items():
            scale = 1 if name == WRONG_REGIONS else 100
            values = [scale * float(measure.value(one.counts[name].sum(dim=0))) for one in row]
            cells.append(f"{mean(values):.2f}" + (f" ± {stdev(values):.2f}" if len(values) > 1 else ""))
            cells.append("" if row[0] is front else gained(gain(front, row, name, measure, blocks), scale))
        cells.append(f"{mean(one.milliseconds for one in row):.0f}")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def gained(interval: Interval, scale: float) -> str:
    value, low, high = (scale * number for number in (interval.value, interval.low, interval.high))
    return f"{value:+.2f} [{low:+.2f}, {high:+.2f}]"
