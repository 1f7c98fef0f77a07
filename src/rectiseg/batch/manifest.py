"""What became of every input: one JSON object a line."""

import json
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

import numpy as np
from jaxtyping import Int64

from rectiseg.batch.items import Item
from rectiseg.data.files import atomic_path, refusals_of


@dataclass(frozen=True, slots=True)
class Record:
    """An input with its label map, or with the sentence that says why there is none.

    ``size`` is (width, height); ``seconds`` passed until the image was read, computed and written. Both are
    None for a result that a killed run wrote without a line. ``model`` is the model's fingerprint. Where the image was
    measured, ``counts`` has its pixels as (true class, predicted class, number), without those that are ignored.
    """

    input: str
    output: str
    size: Sequence[int] | None
    seconds: float | None
    model: str
    error: str | None = None
    counts: Sequence[Sequence[int]] | None = None

    def to_json(self) -> str:
        return json.dumps(asdict(self)) + "\n"


def remaining(path: Path, items: Sequence[Item], output: str, existing: Collection[str], model: str) -> list[Item]:
    """What is still to do. Of this output the manifest is left with a line for every result that exists, and no others.

    An image that is to be measured is done again where a killed run wrote its label map without its counts.
    """
    done = {
        record.output: record
        for record in read(path)
        if not record.output.startswith(f"{output}/") or (record.error is None and record.output in existing)
    }
    for item in items:
        if item.truth is None and item.labels in existing:
            done.setdefault(item.labels, Record(item.image, item.labels, None, None, model))
        elif item.truth is not None and item.labels in done and done[item.labels].counts is None:
            del done[item.labels]
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.writelines(record.to_json() for record in done.values())
    return [item for item in items if item.labels not in done]


def append(file: IO[str], record: Record) -> None:
    """A line; OSError where there is no room, and where the file was removed, of which the system says nothing."""
    path = Path(file.name)
    with refusals_of(path):
        path.stat()
        file.write(record.to_json())


def read(path: Path) -> list[Record]:
    """The lines of a manifest, if there is one, but for a last one that a killed run half wrote.

    A file of other lines raises ValueError: it would be replaced.
    """
    try:
        with path.open(encoding="utf-8") as file:
            return [Record(**json.loads(line)) for line in file if line.endswith("\n")]
    except FileNotFoundError:
        return []
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: holds other lines than a manifest's; name another file with --manifest") from error


def counted(path: Path, items: Sequence[Item], num_classes: int) -> Int64[np.ndarray, "classes classes"]:
    """The pixels of all these images by true class (row) and predicted class (column), each image once."""
    wanted = {item.labels for item in items}
    counts = {record.output: record.counts for record in read(path) if record.output in wanted and record.counts}
    matrix = np.zeros((num_classes, num_classes), np.int64)
    for true, predicted, number in (entry for entries in counts.values() for entry in entries):
        matrix[true, predicted] += number
    return matrix
