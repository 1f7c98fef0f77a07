"""File to file: find the images, parse them one by one, write what was asked for."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from errno import ENAMETOOLONG
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Integer, UInt8
from PIL import Image as PillowImage
from torch import Tensor, nn

from rectiseg import visualize
from rectiseg.data.files import atomic_path, real, save_file
from rectiseg.data.images import find_images, read_image, write_label_map
from rectiseg.data.submissions import Benchmark, in_official_ids
from rectiseg.models.combine import Cascade, SceneParser
from rectiseg.models.contested import label_map
from rectiseg.models.fusion import Ensemble, MultiScale
from rectiseg.models.lrn import LRN
from rectiseg.types import Image, Logits, Parser, Refiner


@dataclass(frozen=True)
class Job:
    """An image and the label map to write for it; what else is asked for lies beside the label map.

    The label map is written last: where it exists, the job is done.
    """

    image: Path
    labels: Path

    @property
    def overlay(self) -> Path:
        return self.labels.with_name(f"{self.labels.stem}_overlay.png")

    @property
    def panel(self) -> Path:
        return self.labels.with_name(f"{self.labels.stem}_panel.png")

    @property
    def probabilities(self) -> Path:
        """One tensor "probabilities", (classes, height, width) float16, with the classes' names in the header."""
        return self.labels.with_name(f"{self.labels.stem}_probabilities.safetensors")

    @property
    def targets(self) -> tuple[Path, ...]:
        """All that may be written for the image, whether it is asked for or not."""
        return self.labels, self.overlay, self.panel, self.probabilities


@dataclass(frozen=True)
class Failure:
    """An image without a result, or a path without images; the sentence names the file and says why."""

    image: Path
    sentence: str


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


def plan(paths: Sequence[Path], output: Path) -> list[Job | Failure]:
    """Where the results of which image go; refuses a plan that would overwrite an image or a result of its own.

    The tree below a folder is kept: `plan([photos], out)` sends photos/may/a.jpg to out/may/a.png. A path without
    images is a failure, which stands before the jobs; a plan without any job is refused.
    """
    if not paths:
        raise ValueError("no image was given: name image files, or folders that hold some")
    if output.exists() and not output.is_dir():
        raise ValueError(f"{output}: is a file; name a folder for the results")
    jobs: dict[Path, Job] = {}
    failures: dict[Path, Failure] = {}
    for path in paths:
        try:
            images, is_folder = find_images([path]), path.is_dir()
        except (ValueError, OSError) as error:
            failures[path] = Failure(path, str(error))
            continue
        if is_folder and real(output) != real(path) and real(output).is_relative_to(real(path)):
            raise ValueError(f"{output}: lies in {path}, where images are searched for; choose a folder outside it")
        for image in images:
            relative = image.relative_to(path) if is_folder else Path(image.name)
            jobs.setdefault(image.absolute(), Job(image, output / relative.with_name(f"{image.stem}.png")))
    if not jobs:
        raise ValueError("; ".join(failure.sentence for failure in failures.values()))
    refuse_collisions(list(jobs.values()))
    return [*failures.values(), *jobs.values()]


def refuse_collisions(jobs: Sequence[Job]) -> None:
    """Of all targets of every job: options then never decide whether a plan is good."""
    images = {real(job.image) for job in jobs}
    owners: dict[Path, Path] = {}
    for job in jobs:
        for target in job.targets:
            if target.exists() and real(target) in images:
                raise ValueError(f"{target}: an input, which {job.image}'s result would replace; choose another output")
            first = owners.setdefault(target, job.image)
            if first != job.image:
                raise ValueError(
                    f"{first} and {job.image}: both would be written to {target}; rename one, "
                    "or give the folder above both, whose tree is kept"
                )


Naming = Callable[[int], tuple[Sequence[str], UInt8[np.ndarray, "classes 3"]]]
"""The names and colours of so many classes."""


@dataclass(frozen=True)
class Wanted:
    """What to write beside a label map, and whether that holds a benchmark's official ids."""

    overlay: bool = False
    panel: bool = False
    probabilities: bool = False
    ids: Benchmark | None = None


LABELS_ONLY = Wanted()


def predict_files(
    parser: Parser,
    jobs: Iterable[Job | Failure],
    classes: Sequence[str],
    palette: UInt8[np.ndarray, "classes 3"],
    wanted: Wanted = LABELS_ONLY,
    on_image: Callable[[], None] = lambda: None,
) -> list[Failure]:
    """Do the jobs, one image at a time, where the parser is; what was or became a failure comes back.

    What concerns all images (classes that do not match, a full disk) stops the work with a ValueError.
    """
    if isinstance(parser, nn.Module) and parser.training:
        raise ValueError("the parser is in training mode, where it answers differently; call parser.eval() first")
    if len(classes) != len(palette):
        raise ValueError(f"{len(classes)} classes and a palette of {len(palette)} colours: their numbers must agree")

    def named(count: int) -> tuple[Sequence[str], UInt8[np.ndarray, "classes 3"]]:
        if count != len(classes):
            raise ValueError(f"the parser knows {count} classes, {len(classes)} were named")
        return classes, palette

    def answer(job: Job) -> Prediction:
        return predict(parser, read_image(job.image), wanted.probabilities)

    return process(answer, jobs, named, wanted, on_image)


def process(
    answer: Callable[[Job], Prediction],
    jobs: Iterable[Job | Failure],
    named: Naming,
    wanted: Wanted,
    on_image: Callable[[], None] = lambda: None,
) -> list[Failure]:
    """Answer the jobs one by one and write the answers; a job that fails does not stop the others."""
    failures = []
    for job in jobs:
        if isinstance(job, Failure):
            failures.append(job)
            on_image()
            continue
        try:
            prediction = answer(job)
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            failures.append(Failure(job.image, f"{job.image}: does not fit in memory; cut it into smaller images"))
        except ValueError as error:
            sentence = str(error) if str(error).startswith(f"{job.image}:") else f"{job.image}: {error}"
            failures.append(Failure(job.image, sentence))
        else:
            classes, palette = named(prediction.num_classes)
            try:
                write(job, prediction, classes, palette, wanted)
            except OSError as error:
                if error.errno != ENAMETOOLONG:
                    raise ValueError(
                        f"{job.labels}: cannot be written ({error.strerror}); make room or choose another"
                    ) from error
                failures.append(
                    Failure(job.image, f"{job.image}: a result's name would be too long; give it a shorter one")
                )
        on_image()
    return failures


def names_and_colors(parser: SceneParser) -> tuple[tuple[str, ...], UInt8[np.ndarray, "classes 3"]]:
    """Of the classes, as they were saved with the parser; without them numbers and default colours."""
    classes = parser.classes or tuple(f"class {index}" for index in range(int(parser.front.num_classes)))  # pyright: ignore
    palette = np.asarray(parser.palette, np.uint8) if parser.palette else visualize.default_palette(len(classes))
    return classes, palette


def out_of_memory(error: Exception) -> bool:
    """Torch has an exception of its own for a GPU's memory, but not for the main memory."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)


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
    refuse_nan(logits)
    count = logits.shape[1]
    stages = [(title, labels_of(logits))]
    rest: Logits | None = logits
    for number, refiner in enumerate(refiners, start=1):
        title = f"+{type(refiner).__name__}"
        if isinstance(refiner, LRN) and number == len(refiners) and not confidences:
            labels, rest = label_map(refiner, image, logits), None
            stages.append((title, labels[0].int().cpu().numpy()))
        else:
            rest = logits = refiner(image, logits)
            refuse_nan(logits)
            stages.append((title, labels_of(logits)))
    return Prediction(image[0].cpu(), stages, count, None if rest is None else rest[0].float().cpu())


def labels_of(logits: Logits) -> Integer[np.ndarray, "height width"]:
    return logits[0].argmax(dim=0).int().cpu().numpy()


def refuse_nan(logits: Logits) -> None:
    if logits.isnan().any():
        raise ValueError("the parser gave confidences that are not numbers (NaN); check its weights")


def stages(parser: Parser, image: Image) -> Iterator[tuple[str, Logits]]:
    """The confidence maps after the front, named "front", and after each refiner, named "+GRN" and the like.

    Each is computed once, when it is asked for. A parser that is no SceneParser is all front, or "fused".
    """
    front, refiners = unrolled(parser)
    logits = front(image)
    yield title_of(front), logits
    for refiner in refiners:
        logits = refiner(image, logits)
        yield f"+{type(refiner).__name__}", logits


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
    if wanted.overlay:
        pixels = visualize.overlay(prediction.image, prediction.labels, palette)
        with atomic_path(job.overlay) as path:
            PillowImage.fromarray(pixels).save(path)
    if wanted.panel:
        picture = visualize.panel(prediction.image, prediction.stages, classes, palette)
        with atomic_path(job.panel) as path:
            picture.save(path)
    if wanted.ids is None:
        write_label_map(job.labels, prediction.labels, palette if len(palette) <= 256 else None)
    else:
        write_label_map(job.labels, in_official_ids(prediction.labels, wanted.ids))
