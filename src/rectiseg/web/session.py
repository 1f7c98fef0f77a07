"""What a request does, without a browser: an image, or an image and its prediction, become timed stages."""

import math
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import TypeVar, cast

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image as PillowImage
from torch import Tensor, nn

from rectiseg import visualize
from rectiseg.data.images import IMAGE_FORMATS, one_sentence, read_image
from rectiseg.data.predictions import Size, interpreted, npy_header, read_array
from rectiseg.inference import (
    Prediction,
    Wanted,
    device_of,
    flattened,
    labels_of,
    names_and_colors,
    refuse_nan,
    title_of,
    unrolled,
    write,
)
from rectiseg.jobs import Job
from rectiseg.models.checkpoint import load_parser, load_refiner
from rectiseg.models.combine import SceneParser
from rectiseg.models.fusion import classes_of
from rectiseg.models.grn import GRN
from rectiseg.refinement import default_refiner, numbered
from rectiseg.types import IGNORE_INDEX, Image, Logits, Parser, Refiner

Model = TypeVar("Model", bound=nn.Module)

SHIPPED_PARSER = "street scenes"
SHIPPED_REFINER = "any classes"


@dataclass(frozen=True)
class Limits:
    """The most that a request may ask for; it is looked at before anything is decoded or computed."""

    pixels: int = 4_000_000
    confidences: int = 100_000_000  # classes times pixels: 400 MB for each copy in memory
    upload: int = 64_000_000  # bytes of a file
    kept: int = 2_000_000_000  # bytes of all files that lie on the server

    @property
    def side(self) -> int:
        """Of an image, in pixels: models pad a thin one to their stride, to many times its size."""
        return 4 * math.isqrt(self.pixels)


@dataclass(frozen=True)
class Answer:
    """A prediction whose stages have names, colours, and the seconds that each took."""

    prediction: Prediction
    seconds: Sequence[float]
    classes: Sequence[str]
    palette: UInt8[np.ndarray, "classes 3"]

    def before_and_after(self) -> tuple[visualize.Pixels, visualize.Pixels]:
        """The labels of the first stage and of the last over the image."""
        (_, first), *_ = self.prediction.stages
        image = self.prediction.image
        return (
            visualize.overlay(image, first, self.palette),
            visualize.overlay(image, self.prediction.labels, self.palette),
        )

    def table(self) -> list[list[str | float]]:
        """A row a stage: its title, the percentage of pixels whose label it changed, its seconds; rounded."""
        maps = [labels for _, labels in self.prediction.stages]
        changed = [round(100 * float(np.mean(now != was)), 2) for was, now in zip([maps[0], *maps], maps, strict=False)]
        titles = (title for title, _ in self.prediction.stages)
        seconds = (round(value, 2) for value in self.seconds)
        return [list(row) for row in zip(titles, changed, seconds, strict=True)]

    def draw(self, folder: Path) -> tuple[Path, Path, Path]:
        """Before, after, and a panel of the image, every stage, the changed pixels and a legend."""
        folder.mkdir(parents=True)
        panel = visualize.panel(self.prediction.image, self.prediction.stages, self.classes, self.palette)
        pictures = [*map(PillowImage.fromarray, self.before_and_after()), panel]
        before, after, stages = (folder / f"{name}.png" for name in ("before", "after", "stages"))
        for path, picture in zip((before, after, stages), pictures, strict=True):
            picture.save(path)
        return before, after, stages

    def save(self, folder: Path, name: str) -> list[Path]:
        """The label map and the probabilities, as `rectiseg predict` writes them."""
        job = Job(Path(name), folder / f"{name}.png")
        write(job, self.prediction, self.classes, self.palette, Wanted(probabilities=True))
        return [job.labels, job.probabilities]


@dataclass(frozen=True)
class Session:
    """The models that a page offers, by their names, and what it refuses."""

    parsers: Mapping[str, SceneParser]
    refiners: Mapping[str, nn.Module]
    limits: Limits = Limits()

    def predict(self, parser: str, image: Path) -> Answer:
        """Parse an image file and refine the result."""
        model = self.parsers[parser]
        front, refiners = unrolled(model)
        pixels = read_limited_image(image, self.limits)
        prediction, seconds = timed(title_of(front), front, refiners, pixels, device_of(model))
        return Answer(prediction, seconds, *names_and_colors(model))

    def refine(self, refiner: str, image: Path, prediction: Path) -> Answer:
        """Refine what another model said of an image; both are files."""
        network = self.refiners[refiner]
        pixels = read_limited_image(image, self.limits)
        size = (pixels.shape[1], pixels.shape[2])
        logits = read_limited_prediction(prediction, size, classes_of(network), self.limits)
        device = device_of(network)
        said = logits[None].to(device)
        answer, seconds = timed("prediction", lambda _: said, flattened(network), pixels, device)
        if refiner in self.parsers:
            return Answer(answer, seconds, *names_and_colors(self.parsers[refiner]))
        return Answer(answer, seconds, *numbered(answer.num_classes))


def open_session(parsers: Sequence[Path], refiners: Sequence[Path], device: str, limits: Limits) -> Session:
    """The shipped models and these; a parser's refiners serve predictions of its classes, too."""
    known = {SHIPPED_PARSER: load_parser()} | loaded(parsers, load_parser)
    alone = {SHIPPED_REFINER: default_refiner()} | loaded(refiners, load_refiner)
    own = {name: cast(nn.Module, parser.refiner) for name, parser in known.items() if unrolled(parser)[1]}
    twice = sorted(alone.keys() & own.keys())
    if twice:
        raise ValueError(f"{twice[0]}: a parser and a refiner of this name; rename one of the files")
    for module in (*known.values(), *alone.values()):
        module.to(device)
    return Session(known, alone | own, limits)


def loaded(paths: Sequence[Path], load: Callable[[Path], Model]) -> dict[str, Model]:
    """Models by their files' stems: a visitor need not know the server's folders."""
    named = {path.stem: load(path) for path in paths}
    if len(named) < len(paths):
        raise ValueError(f"{', '.join(map(str, paths))}: two files of one name; rename one")
    return named


@torch.inference_mode()
def timed(
    title: str, front: Parser, refiners: Sequence[Refiner], image: Float[Tensor, "3 height width"], device: torch.device
) -> tuple[Prediction, list[float]]:
    """Every stage's labels and seconds, and the last one's confidences."""
    stages, seconds, logits = [], [], None
    started = perf_counter()
    for name, logits in stepwise(title, front, refiners, image[None].to(device)):
        refuse_nan(logits)
        stages.append((name, labels_of(logits)))
        seconds.append(perf_counter() - started)
        started = perf_counter()
    assert logits is not None
    return Prediction(image, stages, logits.shape[1], logits[0].float().cpu()), seconds


def stepwise(title: str, front: Parser, refiners: Sequence[Refiner], image: Image) -> Iterator[tuple[str, Logits]]:
    """The confidence maps of the front and of every refiner after it, GRN's iteration by iteration."""
    logits = front(image)
    yield title, logits
    for refiner in refiners:
        name = f"+{type(refiner).__name__}"
        if isinstance(refiner, GRN):
            for number, (_, _, summed) in enumerate(refiner.iterate(image, logits), start=1):
                yield f"{name} {number}", (logits := summed)
        else:
            logits = refiner(image, logits)
            yield name, logits


def read_limited_image(path: Path, limits: Limits) -> Float[Tensor, "3 height width"]:
    refuse_large_image(path, limits)
    return read_image(path)


def refuse_large_image(path: Path, limits: Limits) -> None:
    with one_sentence(path, IMAGE_FORMATS), PillowImage.open(path, formats=IMAGE_FORMATS) as image:
        width, height = image.size
    if width * height > limits.pixels:
        raise ValueError(f"{path}: {width} x {height} is more than {limits.pixels} pixels; reduce it")
    if max(width, height) > limits.side:
        raise ValueError(f"{path}: {width} x {height} has a side of more than {limits.side} pixels; cut it")


def read_limited_prediction(
    path: Path, size: Size, num_classes: int | None, limits: Limits
) -> Float[Tensor, "classes height width"]:
    """`data.predictions.read_prediction` for files of strangers: small ones can hold, or become, very large arrays."""
    if path.suffix.lower() == ".png":
        refuse_large_image(path, limits)
    if path.suffix.lower() == ".npz":
        if unpacked_size(path) > 8 * limits.confidences:
            raise ValueError(
                f"{path}: unpacks to more than {8 * limits.confidences} bytes; save fewer or smaller arrays"
            )
        refuse_many_numbers(path, promised(path), limits)
    array = read_array(path)
    refuse_many_numbers(path, array.size, limits)
    count = max(num_classes or 0, classes_in(array))
    if count * size[0] * size[1] > limits.confidences:
        raise ValueError(
            f"{path}: {count} classes of {size[1]} x {size[0]} pixels are more than {limits.confidences} confidences; "
            "reduce the image"
        )
    try:
        return interpreted(array, size, num_classes, None).logits
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def unpacked_size(path: Path) -> int:
    """In bytes; 0 for what is no archive, of which its reader says so."""
    try:
        with zipfile.ZipFile(path) as archive:
            return sum(entry.file_size for entry in archive.infolist())
    except zipfile.BadZipFile:
        return 0


def promised(path: Path) -> int:
    """How many numbers an archive's largest array has by its header; 0 for what its reader refuses."""
    try:
        with zipfile.ZipFile(path) as archive:
            return max((numbers_in(archive, name) for name in archive.namelist()), default=0)
    except zipfile.BadZipFile:
        return 0


def numbers_in(archive: zipfile.ZipFile, name: str) -> int:
    try:
        with archive.open(name) as file:
            shape, _ = npy_header(file)
        return math.prod(shape)
    except Exception:  # of many kinds, zipfile's and numpy's: `read_array`, which is next, says what is wrong
        return 0


def refuse_many_numbers(path: Path, count: int, limits: Limits) -> None:
    if count > limits.confidences:
        raise ValueError(
            f"{path}: holds {count} numbers, more than {limits.confidences} confidences; save smaller maps"
        )


def classes_in(array: np.ndarray) -> int:
    """How many classes an array of confidence maps, or a label map, is of."""
    if array.ndim == 2 and array.dtype.kind in "iu":
        return int(array[array != IGNORE_INDEX].max(initial=0)) + 1
    return array.shape[-3] if array.ndim > 2 else 0
