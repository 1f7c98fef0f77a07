"""What a parser and refiners say of an image, and the files that say so."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Integer, UInt8
from torch import Tensor, nn

from rectiseg import visualize
from rectiseg.data.files import atomic_path, save_file
from rectiseg.data.images import write_label_map
from rectiseg.data.submissions import Benchmark, in_official_ids
from rectiseg.jobs import Job, Seen
from rectiseg.models.combine import Cascade, SceneParser
from rectiseg.models.contested import label_map
from rectiseg.models.fusion import Ensemble, MultiScale, classes_of, known_classes, known_palette
from rectiseg.models.lrn import LRN
from rectiseg.ops.likeliest import likeliest
from rectiseg.types import Image, Logits, Parser, Refiner


@dataclass(frozen=True)
class Prediction:
    """What a parser said of one image: the labels after each stage, and the last one's confidences if wanted."""

    image: Float[Tensor, "3 height width"]
    stages: list[tuple[str, Integer[np.ndarray, "height width"]]]
    num_classes: int
    logits: Float[Tensor, "classes height width"] | None

    @property
    def labels(self) -> Integer[np.ndarray, "height width"]:
        return self.stages[-1][1]


Naming = Callable[[int], tuple[Sequence[str], UInt8[np.ndarray, "classes 3"]]]
"""The names and colours of so many classes; ConcernsAll where a model should not have so many."""


@dataclass(frozen=True)
class Wanted:
    """What to write beside a label map, and whether that holds a benchmark's official ids."""

    overlay: bool = False
    panel: bool = False
    probabilities: bool = False
    ids: Benchmark | None = None


LABELS_ONLY = Wanted()


@runtime_checkable
class Answers(Protocol[Seen]):
    """What answers images, which another thread reads."""

    def read(self, job: Job, /) -> Seen: ...

    def answer(self, job: Job, seen: Seen, /) -> Prediction: ...


@dataclass(frozen=True)
class Written(Generic[Seen]):
    """The work of writing what was answered, for `process`."""

    answers: Answers[Seen]
    named: Naming
    wanted: Wanted = LABELS_ONLY

    def read(self, job: Job) -> Seen:
        return self.answers.read(job)

    def answer(self, job: Job, seen: Seen) -> Prediction:
        prediction = self.answers.answer(job, seen)
        self.named(prediction.num_classes)  # before anything is written
        return prediction

    def write(self, job: Job, prediction: Prediction) -> None:
        write(job, prediction, *self.named(prediction.num_classes), self.wanted)


def names_and_colors(parser: nn.Module) -> tuple[tuple[str, ...], UInt8[np.ndarray, "classes 3"]]:
    """Of the classes, as the parser or one in it knows them; without them numbers and default colours.

    ValueError where nothing in it says how many classes there are.
    """
    classes, palette = known_classes(parser), known_palette(parser)
    if not classes:
        count = classes_of(parser)
        if count is None:
            raise ValueError("the parser does not say which classes it knows; give SceneParser their names")
        classes = tuple(f"class {index}" for index in range(count))
    return classes, np.asarray(palette, np.uint8) if palette else visualize.default_palette(len(classes))


@torch.inference_mode()
def predict(parser: Parser, image: Float[Tensor, "3 height width"], confidences: bool = True) -> Prediction:
    """The labels of every stage, and the last one's confidences if wanted: without them an LRN has less to do."""
    front, refiners = unrolled(parser)
    batch = image[None].to(device_of(parser))
    logits = front(batch)
    if logits.shape[-2:] != image.shape[-2:]:
        sizes = f"{tuple(logits.shape[-2:])} for an image of {tuple(image.shape[-2:])}"
        raise ValueError(f"the parser gave confidence maps of {sizes}; they must have the image's size")
    return refined(title_of(front), batch, logits, refiners, confidences)


def refined(title: str, image: Image, logits: Logits, refiners: Sequence[Refiner], confidences: bool) -> Prediction:
    """What these confidences, of that title, and each refiner after them say of one image."""
    last = refiners[-1] if refiners and not confidences else None
    labels_alone = isinstance(last, LRN)
    maps = refinements(title, image, logits, refiners[:-1] if labels_alone else refiners)
    said = []
    for name, logits in maps:
        said.append((name, labels_of(logits)))
    if labels_alone:
        said.append((f"+{type(last).__name__}", label_map(last, image, logits)[0].int().cpu().numpy()))
    return Prediction(image[0].cpu(), said, logits.shape[1], None if labels_alone else logits[0].float().cpu())


def refinements(title: str, image: Image, logits: Logits, refiners: Sequence[Refiner]) -> Iterator[tuple[str, Logits]]:
    """These confidences, of that title, and those after each refiner, named "+GRN" and the like; ValueError for NaN."""
    refuse_nan(logits)
    yield title, logits
    for refiner in refiners:
        logits = refiner(image, logits)
        refuse_nan(logits)
        yield f"+{type(refiner).__name__}", logits


def labels_of(logits: Logits) -> Integer[np.ndarray, "height width"]:
    return likeliest(logits[0], dim=0).int().cpu().numpy()


def refuse_nan(logits: Logits) -> None:
    if logits.isnan().any():
        raise ValueError("the parser gave confidences that are not numbers (NaN); check its weights")


def stages(parser: Parser, image: Image) -> Iterator[tuple[str, Logits]]:
    """The confidence maps after the front, named "front", and after each refiner, named "+GRN" and the like.

    Each is computed once, when it is asked for. A parser that is no SceneParser is all front, or "fused". Confidences
    that are not numbers raise ValueError.
    """
    front, refiners = unrolled(parser)
    yield from refinements(title_of(front), image, front(image), refiners)


def title_of(front: Parser) -> str:
    return "fused" if isinstance(front, MultiScale | Ensemble) else "front"


def unrolled(parser: Parser) -> tuple[Parser, list[Refiner]]:
    """The innermost front, and every refiner after it in order."""
    if not isinstance(parser, SceneParser):
        return parser, []
    front, refiners = unrolled(parser.front)
    return front, [*refiners, *flattened(parser.refiner)]


def flattened(refiner: Refiner) -> list[Refiner]:
    if not isinstance(refiner, Cascade):
        return [refiner]
    return [inner for part in refiner.refiners for inner in flattened(part)]


def device_of(parser: Parser) -> torch.device:
    """Where its parameters are; the CPU for what has none."""
    parameters = parser.parameters() if isinstance(parser, nn.Module) else iter(())
    return next((parameter.device for parameter in parameters), torch.device("cpu"))


def write(
    job: Job,
    prediction: Prediction,
    classes: Sequence[str],
    palette: UInt8[np.ndarray, "classes 3"],
    wanted: Wanted,
) -> None:
    """The label map, last, and what else was asked for: each file whole or not at all."""
    job.labels.parent.mkdir(parents=True, exist_ok=True)
    if wanted.probabilities:
        assert prediction.logits is not None
        tensors = {"probabilities": prediction.logits.softmax(dim=0).half()}
        with atomic_path(job.probabilities) as path:
            save_file(tensors, path, {"classes": json.dumps(list(classes))})
    draw(job, prediction, classes, palette, wanted)
    if wanted.ids is None:
        write_label_map(job.labels, prediction.labels, palette if len(palette) <= 256 else None)
    else:
        write_label_map(job.labels, in_official_ids(prediction.labels, wanted.ids))


def draw(
    job: Job,
    prediction: Prediction,
    classes: Sequence[str],
    palette: UInt8[np.ndarray, "classes 3"],
    wanted: Wanted,
) -> None:
    """The pictures that are wanted, each whole or not at all."""
    if wanted.overlay:
        picture = visualize.overlay_with_legend(prediction.image, prediction.labels, classes, palette)
        with atomic_path(job.overlay) as path:
            picture.save(path)
    if wanted.panel:
        picture = visualize.panel(prediction.image, prediction.stages, classes, palette)
        with atomic_path(job.panel) as path:
            picture.save(path)
