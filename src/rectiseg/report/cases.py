"""What a report is of: images with the labels before and after refinement, and the truth where it is known."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from PIL import Image as PillowImage
from torch import Tensor

from rectiseg.data.datasets import Dataset, Sample
from rectiseg.data.images import read_image
from rectiseg.data.predictions import read_prediction
from rectiseg.inference import device_of, stages, title_of, unrolled
from rectiseg.metrics import OneLabelMap
from rectiseg.models.bilateral_lrn import BilateralLRN
from rectiseg.models.combine import SceneParser
from rectiseg.models.grn import GRN
from rectiseg.models.lrn import LRN
from rectiseg.types import IGNORE_INDEX, Image, Logits
from rectiseg.visualize import coefficient_map, residual_maps

Insight = tuple[str, PillowImage.Image]
"""A picture of what happens inside a refiner, with its title."""


class Answer(NamedTuple):
    """The likeliest classes of one image, and their probabilities where these are known."""

    labels: OneLabelMap
    confidence: Float[Tensor, "height width"] | None


class Case(NamedTuple):
    """One image before and after; where nothing is annotated the truth is IGNORE_INDEX."""

    name: str
    image: Float[Tensor, "3 height width"]
    before: Answer
    after: Answer
    truth: OneLabelMap


@runtime_checkable
class Cases(Protocol):
    """Cases by index. ``titles`` say what "before" and "after" are."""

    titles: tuple[str, str]

    @property
    def classes(self) -> Sequence[str]: ...
    @property
    def palette(self) -> Sequence[tuple[int, int, int]]: ...
    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> Case: ...
    def insights(self, index: int) -> list[Insight]: ...


class Unlabelled:
    """Images without annotation, as a data set in which every pixel is ignored; named by their places in a folder."""

    def __init__(
        self, folder: Path, images: Sequence[Path], classes: Sequence[str], palette: Sequence[tuple[int, int, int]]
    ):
        self.images = images
        self.classes, self.palette = tuple(classes), tuple(palette)
        self.names: Sequence[str] = [image.relative_to(folder).with_suffix("").as_posix() for image in images]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Sample:
        image = read_image(self.images[index])
        return Sample(image, torch.full(image.shape[1:], IGNORE_INDEX), self.names[index])


class ModelCases:
    """What a parser says after its front, and after the last of its refiners. One without any raises ValueError."""

    def __init__(self, parser: SceneParser, dataset: Dataset):
        self.parser = parser
        self.dataset = dataset
        self.classes, self.palette = dataset.classes, dataset.palette
        front, refiners = unrolled(parser)
        if not refiners:
            raise ValueError(
                "the model has no refiner, hence no before and after: name one that has, or two predictions"
            )
        start = title_of(front)
        self.titles = start, " ".join([start, *(f"+{type(refiner).__name__}" for refiner in refiners)])

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Case:
        sample = self.dataset[index]
        with torch.inference_mode():
            (_, before), *_, (_, after) = stages(self.parser, sample.image[None].to(device_of(self.parser)))
            return Case(sample.name, sample.image, answer_of(before), answer_of(after), sample.labels)

    def insights(self, index: int) -> list[Insight]:
        """GRN's residuals, and an LRN's coefficients of one pixel."""
        batch = self.dataset[index].image[None].to(device_of(self.parser))
        front, refiners = unrolled(self.parser)
        found: list[Insight] = []
        with torch.inference_mode():
            logits = front(batch)
            for refiner in refiners:
                if isinstance(refiner, GRN):
                    residuals = [residual[0] for _, residual, _ in refiner.iterate(batch, logits)]
                    found.append(("GRN: how much each iteration adds to the confidences", residual_maps(residuals)))
                after = refiner(batch, logits)
                if isinstance(refiner, LRN | BilateralLRN):
                    found.append(coefficients_of_one_pixel(batch, logits, after, refiner))
                logits = after
        return found


def coefficients_of_one_pixel(image: Image, before: Logits, after: Logits, refiner: LRN | BilateralLRN) -> Insight:
    """Of the pixel that gets another label and is the surest of it."""
    surest = torch.where(before.argmax(dim=1) == after.argmax(dim=1), -1, after.softmax(dim=1).amax(dim=1))
    row, column = divmod(int(surest[0].argmax()), surest.shape[-1])
    weights = refiner.coefficients_of(image, before, row, column)
    own = 100 * float(weights[len(weights) // 2, len(weights) // 2])
    title = f"{type(refiner).__name__}: the weights of row {row}, column {column}, which keeps {own:.0f} % of its own"
    return title, PillowImage.fromarray(coefficient_map(image[0].cpu(), weights, row, column))


class FileCases:
    """What another model predicted, and what was made of it: two files for every image, by its name."""

    titles: tuple[str, str] = ("predictions", "refined")

    def __init__(self, dataset: Dataset, before: Mapping[str, Path], after: Mapping[str, Path]):
        self.dataset = dataset
        self.classes, self.palette = dataset.classes, dataset.palette
        self.before, self.after = before, after
        for files in (before, after):
            if lonely := [name for name in dataset.names if name not in files]:
                folder = next(iter(files.values())).parent if files else "an empty folder"
                raise ValueError(f"{len(lonely)} images have no prediction in {folder}, the first is {lonely[0]}")

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Case:
        sample = self.dataset[index]
        size = (sample.image.shape[1], sample.image.shape[2])
        before, after = (self.read(files[sample.name], size) for files in (self.before, self.after))
        return Case(sample.name, sample.image, before, after, sample.labels)

    def read(self, path: Path, size: tuple[int, int]) -> Answer:
        """A label map does not say how sure its model was."""
        logits, values = read_prediction(path, size, len(self.classes))
        answer = answer_of(logits[None])
        return Answer(answer.labels, None) if values == "labels" else answer

    def insights(self, index: int) -> list[Insight]:
        """Files show nothing of how they were made."""
        return []


def answer_of(logits: Logits) -> Answer:
    confidence, labels = logits[0].float().softmax(dim=0).max(dim=0)
    return Answer(labels.cpu(), confidence.cpu())
