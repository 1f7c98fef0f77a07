"""Parse image files, those that are larger than memory in tiles."""

import math
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Generic

import numpy as np
import torch
from jaxtyping import Float, Integer, UInt8
from torch import Tensor, nn

from rectiseg.data.images import read_image
from rectiseg.data.large_images import HeldImage, PartlyRead, is_larger, label_rows, open_partly
from rectiseg.data.submissions import in_official_ids
from rectiseg.inference import LABELS_ONLY, Prediction, Wanted, Written, draw, predict
from rectiseg.jobs import ConcernsAll, Failure, Job, Seen, out_of_memory, process, writing
from rectiseg.models.tiled import SIZE, Span, refuse_no_pixels, surroundings
from rectiseg.progress import Reporter
from rectiseg.types import Parser

WHOLE_PIXELS = 4_000_000
"""Images of more are parsed in tiles: the shipped parser takes about 1 KB a pixel."""

OneImage = Float[Tensor, "3 height width"]


def predict_files(
    parser: Parser,
    jobs: Iterable[Job | Failure],
    classes: Sequence[str],
    palette: UInt8[np.ndarray, "classes 3"],
    wanted: Wanted = LABELS_ONLY,
    reporter: Reporter | None = None,
    tile: int | None = None,
) -> list[Failure]:
    """Do the jobs, one image at a time, where the parser is; what was or became a failure comes back.

    Images larger than ``tile`` pixels a side, or without one those of more than WHOLE_PIXELS, are read, parsed and
    written in tiles, and their pictures drawn of at most WHOLE_PIXELS. What concerns all images (classes that do not
    match, a full disk) stops the work with a ValueError.
    """
    if isinstance(parser, nn.Module) and parser.training:
        raise ValueError("the parser is in training mode, where it answers differently; call parser.eval() first")
    if len(classes) != len(palette):
        raise ValueError(f"{len(classes)} classes and a palette of {len(palette)} colours: their numbers must agree")
    if tile is not None:
        refuse_no_pixels(tile, 0)

    def named(count: int) -> tuple[Sequence[str], UInt8[np.ndarray, "classes 3"]]:
        if count != len(classes):
            raise ConcernsAll(f"the parser knows {count} classes, {len(classes)} were named")
        return classes, palette

    reporter = reporter or Reporter()
    whole = Written(Parsing(parser, wanted.probabilities), named, wanted)
    return process(AnySize(whole, parser, palette, tile, reporter), jobs, reporter.advance)


def too_large(image: Path, tile: int | None = None) -> bool:
    """For parsing it whole."""
    return is_larger(image, tile, WHOLE_PIXELS)


class Parsing:
    """Answers jobs with the whole image."""

    def __init__(self, parser: Parser, confidences: bool):
        self.parser = parser
        self.confidences = confidences

    def read(self, job: Job) -> OneImage:
        return read_image(job.image)

    def answer(self, job: Job, image: OneImage) -> Prediction:
        return predict(self.parser, image, self.confidences)


class AnySize(Generic[Seen]):
    """The same work, but that too large images are read, answered and written in tiles, without probabilities.

    Tiles are computed under ``computing``, a lock where others compute with the same parser.
    """

    def __init__(
        self,
        whole: Written[Seen],
        parser: Parser,
        palette: UInt8[np.ndarray, "classes 3"],
        tile: int | None,
        reporter: Reporter,
        computing: AbstractContextManager[Any] | None = None,
    ):
        self.whole = whole
        self.parser = parser
        self.palette = palette
        self.tile = tile
        self.size = tile or SIZE
        self.reporter = reporter
        self.computing = nullcontext() if computing is None else computing

    def read(self, job: Job) -> Seen | PartlyRead:
        if not too_large(job.image, self.tile):
            return self.whole.read(job)
        if self.whole.wanted.probabilities:
            limit = f"{WHOLE_PIXELS} pixels" if self.tile is None else f"{self.tile} pixels a side"
            raise ValueError(
                f"has more than {limit} and is parsed in tiles, which give no probabilities; ask for none, reduce it, "
                "or parse it whole, with predict's --tile of its longer side, which takes about 1 KB of memory a pixel"
            )
        return open_partly(job.image)

    def answer(self, job: Job, seen: Seen | PartlyRead) -> Prediction | None:
        """None for what is written already."""
        if not isinstance(seen, PartlyRead):
            return self.whole.answer(job, seen)
        try:
            with self.computing:
                self.write_in_tiles(job, seen)
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            raise ValueError(f"a tile of {self.size} pixels does not fit in memory; choose smaller ones") from error
        return None

    def write(self, job: Job, prediction: Prediction | None) -> None:
        if prediction is not None:
            self.whole.write(job, prediction)

    def write_in_tiles(self, job: Job, image: PartlyRead) -> None:
        around = surroundings(self.parser)
        rows, columns = (list(around.spans(side, self.size)) for side in (image.height, image.width))
        wanted = self.whole.wanted
        sketch = Sketch(image.height, image.width) if wanted.overlay or wanted.panel else None
        held = ", read whole, for libvips (pip install 'rectiseg[large]') is not here or does not know the format"
        self.reporter.say(
            f"{job.image}: {image.width}x{image.height} pixels, parsed in {len(rows) * len(columns)} tiles of at most "
            f"{self.size}x{self.size}, with {around.context} pixels around each"
            f"{held if isinstance(image, HeldImage) else ''}"
            f"{f'; pictures are drawn at 1/{sketch.step} of its size' if sketch and sketch.step > 1 else ''}"
        )
        ids, many = wanted.ids, len(self.palette) > 256
        palette = None if many or ids is not None else self.palette
        with writing(job):
            job.labels.parent.mkdir(parents=True, exist_ok=True)
            with label_rows(job.labels, (image.height, image.width), palette, many) as append:
                for done, row in enumerate(rows, start=1):
                    labels = np.concatenate([self.labels(image, row, column, sketch) for column in columns], axis=1)
                    append(labels if ids is None else in_official_ids(labels, ids))
                    self.reporter.note(f"{done} of {len(rows)} rows of tiles")
                if sketch is not None:
                    draw(job, sketch.prediction(), *self.whole.named(sketch.num_classes), wanted)

    def labels(
        self, image: PartlyRead, row: Span, column: Span, sketch: "Sketch | None"
    ) -> Integer[np.ndarray, "rows columns"]:
        """Of a tile, which is added to the sketch."""
        prediction = predict(self.parser, image.window(row.seen, column.seen), confidences=False)
        self.whole.named(prediction.num_classes)
        if sketch is not None:
            sketch.add(prediction, row, column)
        return prediction.labels[row.inside, column.inside]


class Sketch:
    """What pictures of a large image are drawn of: every so many pixels of every so many lines."""

    def __init__(self, height: int, width: int):
        self.step = math.ceil(math.sqrt(height * width / WHOLE_PIXELS))
        self.image = torch.empty(3, math.ceil(height / self.step), math.ceil(width / self.step))
        self.stages: list[tuple[str, Integer[np.ndarray, "rows columns"]]] = []
        self.num_classes = 0

    def add(self, tile: Prediction, row: Span, column: Span) -> None:
        """What is said of a tile and of the pixels around it."""
        if not self.stages:
            shape = self.image.shape[1:]
            self.stages = [(title, np.empty(shape, labels.dtype)) for title, labels in tile.stages]
            self.num_classes = tile.num_classes
        (rows, top), (columns, left) = self.taken(row), self.taken(column)
        self.image[:, top, left] = tile.image[:, rows, columns]
        for (_, drawn), (_, labels) in zip(self.stages, tile.stages, strict=True):
            drawn[top, left] = labels[rows, columns]

    def taken(self, span: Span) -> tuple[slice, slice]:
        """Where pixels are taken of what is seen, and where they go."""
        first, last = (math.ceil(end / self.step) for end in (span.start, span.stop))
        return slice(first * self.step - span.first, span.stop - span.first, self.step), slice(first, last)

    def prediction(self) -> Prediction:
        return Prediction(self.image, self.stages, self.num_classes, None)
