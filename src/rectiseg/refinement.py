"""Refine what another model predicted: arrays in memory, or files beside their images."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple, TypeVar, cast

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from rectiseg import visualize
from rectiseg.data.files import real
from rectiseg.data.images import read_image
from rectiseg.data.predictions import Values, predictions_below, read_prediction, refuse_another_shape
from rectiseg.inference import LABELS_ONLY, Prediction, Wanted, Written, device_of, flattened, refined
from rectiseg.jobs import Failure, Job, plan, process
from rectiseg.models.checkpoint import SHIPPED_REFINER, load_refiner
from rectiseg.models.fusion import classes_of
from rectiseg.ops.resize import resized
from rectiseg.types import Image, Refiner

Array = TypeVar("Array", Tensor, np.ndarray)
colors_of = cache(visualize.default_palette)


def refine(image: Tensor | np.ndarray, logits: Array, refiner: Refiner | None = None) -> Array:
    """Better confidence maps of an image, or of a batch, from those that any model gave.

    ``image`` is RGB: a tensor (3, H, W) or an array (H, W, 3), of 0..1, or of 0..255 where it holds bytes. ``logits``
    are (K, h, w) before the softmax, of the image's size or smaller; of probabilities give the logarithm. Both may be
    batches. The result is of the logits' kind and type, (K, H, W). Without a ``refiner`` `default_refiner`'s is taken.
    Shapes that do not fit raise ValueError.
    """
    maps = logits if isinstance(logits, Tensor) else torch.tensor(logits)
    if not maps.is_floating_point() or maps.dim() not in (3, 4) or maps.dim() != image.ndim:
        raise ValueError(
            f"an image of {list(image.shape)} and {maps.dtype} logits of {list(maps.shape)}: logits are floating "
            "point, (K, h, w) for one image or (B, K, h, w) for a batch"
        )
    images, batch = as_images(image), maps if maps.dim() == 4 else maps[None]
    if len(batch) != len(images):
        raise ValueError(f"{len(images)} images and logits of {len(batch)}: give one set of confidence maps an image")
    refuse_another_shape(tuple(batch.shape[-2:]), (images.shape[-2], images.shape[-1]))
    if refiner is None:
        refiner = default_refiner(str(batch.device))
    with torch.no_grad():
        better = refiner(images.to(batch.device), resized(batch.float(), images.shape[-2:])).to(maps.dtype)
    better = better if maps.dim() == 4 else better[0]
    return cast(Array, better if isinstance(logits, Tensor) else better.numpy())


def as_images(image: Tensor | np.ndarray) -> Image:
    """A batch of RGB in [0, 1], of one image too."""
    # An array has its bands last, as every library of images has them.
    pixels = image if isinstance(image, Tensor) else torch.tensor(image).movedim(-1, -3)
    pixels = pixels if pixels.dim() == 4 else pixels[None]
    if pixels.shape[1] != 3:
        raise ValueError(
            f"an image of {list(image.shape)}: tensors are (3, H, W), arrays (H, W, 3), and batches of them"
        )
    if pixels.dtype == torch.uint8:
        return pixels.float() / 255
    if not pixels.is_floating_point() or not 0 <= pixels.min() <= pixels.max() <= 1:
        raise ValueError(f"the image's {pixels.dtype} reach {pixels.max():g}: give RGB in 0..1, or bytes in 0..255")
    return pixels.float()


@cache
def default_refiner(device: str = "cpu") -> nn.Module:
    """What follows any model and any classes without training: the shipped BilateralLRN, read once a device."""
    return load_refiner(SHIPPED_REFINER).to(device)


@dataclass(frozen=True)
class RefineJob(Job):
    """The same, where another model has said something of the image."""

    prediction: Path


def plan_refinement(images: Path, predictions: Path, output: Path) -> list[Job | Failure]:
    """Images and predictions, one of each or folders of them, matched by place and stem.

    What has no partner is a failure, but for predictions of other images than a single one. A plan that would overwrite
    an input, or without any pair, raises ValueError.
    """
    jobs = plan([images], output)
    found = partners(images, predictions)
    matched: list[Job | Failure] = []
    for job in jobs:
        if isinstance(job, Failure):
            matched.append(job)
            continue
        key = job.labels.relative_to(output).with_suffix("")
        if key in found:
            matched.append(RefineJob(job.image, job.labels, found.pop(key)))
        else:
            matched.append(Failure(job.image, f"{job.image}: no prediction of this name in {predictions}"))
    pairs = [job for job in matched if isinstance(job, RefineJob)]
    if not pairs:
        raise ValueError(f"{predictions}: no prediction has the name of an image in {images}")
    refuse_lost_predictions(pairs)
    lonely = found.values() if images.is_dir() else ()
    return [*matched, *(Failure(path, f"{path}: no image of this name in {images}") for path in lonely)]


def partners(images: Path, predictions: Path) -> dict[Path, Path]:
    if predictions.is_dir():
        return predictions_below(predictions)
    if not predictions.exists():
        raise ValueError(f"{predictions}: no such file or folder")
    if images.is_dir():
        raise ValueError(f"{predictions}: one prediction for a folder of images; name the folder of all of them")
    return {Path(images.stem): predictions}


def refuse_lost_predictions(jobs: Sequence[RefineJob]) -> None:
    predictions = {real(job.prediction) for job in jobs}
    for job in jobs:
        for target in job.targets:
            if real(target) in predictions:
                raise ValueError(f"{target}: a prediction, which the result would replace; choose another output")


class Asked(NamedTuple):
    """An image and the confidences of it that are to be refined, read from a file of such values."""

    image: Float[Tensor, "3 height width"]
    logits: Float[Tensor, "classes height width"]
    values: Values


class FileRefiner:
    """Answers refinement's jobs, and counts what it read and changed."""

    def __init__(
        self,
        refiner: nn.Module,
        num_classes: int | None = None,
        values: Values | None = None,
        confidences: bool = True,
    ):
        self.refiner = refiner
        self.confidences = confidences
        self.num_classes = num_classes or classes_of(refiner)
        self.values: Values | None = values
        self.found: Counter[Values] = Counter()
        self.pixels = 0
        self.changed = 0

    def read(self, job: Job) -> Asked:
        assert isinstance(job, RefineJob)
        image = read_image(job.image)
        size = (image.shape[1], image.shape[2])
        return Asked(image, *read_prediction(job.prediction, size, self.num_classes, self.values))

    @torch.inference_mode()
    def answer(self, job: Job, asked: Asked) -> Prediction:
        device = device_of(self.refiner)
        batch, logits = asked.image[None].to(device), asked.logits[None].to(device)
        prediction = refined("prediction", batch, logits, flattened(self.refiner), self.confidences)
        (_, before), *_ = prediction.stages
        self.found[asked.values] += 1
        self.pixels += before.size
        self.changed += int((before != prediction.labels).sum())
        return prediction

    @property
    def summary(self) -> str:
        read = ", ".join(f"{count} as {values}" for values, count in self.found.most_common())
        return f"read {read}; {100 * self.changed / max(self.pixels, 1):.2f} % of the pixels have another label"


def numbered(count: int) -> tuple[Sequence[str], UInt8[np.ndarray, "classes 3"]]:
    """Names and colours of classes that nobody has named."""
    return [f"class {index}" for index in range(count)], colors_of(count)


def refine_files(
    refine: FileRefiner,
    jobs: Sequence[Job | Failure],
    classes: Sequence[str] = (),
    palette: Sequence[tuple[int, int, int]] = (),
    wanted: Wanted = LABELS_ONLY,
    on_image: Callable[[], None] = lambda: None,
) -> list[Failure]:
    """Do the jobs, one image at a time; what was or became a failure comes back. Classes without names are numbered."""

    def named(count: int) -> tuple[Sequence[str], UInt8[np.ndarray, "classes 3"]]:
        if classes:
            return classes, np.asarray(palette, np.uint8)
        return numbered(count)

    return process(Written(refine, named, wanted), jobs, on_image)
