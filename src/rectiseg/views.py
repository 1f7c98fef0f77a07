"""What a stage trains on: random views of images, or of their stored confidences."""

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from rectiseg.data.confidences import Confidences, View
from rectiseg.data.datasets import Dataset
from rectiseg.data.transforms import coin, displaced, draw, jittered, random_crop, view_image, view_labels
from rectiseg.ops.resize import resized, scaled
from rectiseg.settings import Settings


@runtime_checkable
class TrainingData(Protocol):
    """Random views of a data set; the same (index, generator state) gives the same tensors."""

    def __len__(self) -> int: ...

    def view(self, index: int, settings: Settings, generator: torch.Generator) -> tuple[tuple[Tensor, ...], Tensor]:
        """The stage's inputs and labels of one random view, without the batch's dimension."""
        ...

    def whole(self, index: int) -> tuple[tuple[Tensor, ...], Tensor]:
        """Inputs and labels of a whole sample as a batch of one, for validation."""
        ...


class ImageViews:
    """What a front trains on: image and labels, scaled, mirrored and cropped at random."""

    def __init__(self, dataset: Dataset):
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def view(self, index: int, settings: Settings, generator: torch.Generator) -> tuple[tuple[Tensor, ...], Tensor]:
        sample = self.dataset[index]
        view = View(draw(settings.scales, generator), coin(generator))
        image, labels = view_image(sample.image, *view), view_labels(sample.labels, *view)
        image, labels, _ = random_crop(image, labels, None, settings.crop, generator)
        if settings.jitter:
            image = jittered(image, settings.jitter, generator)
        return (image,), labels

    def whole(self, index: int) -> tuple[tuple[Tensor, ...], Tensor]:
        sample = self.dataset[index]
        return (sample.image[None],), sample.labels[None]


class ConfidenceViews:
    """What a refiner trains on: stored views at one of the wanted scales, cropped at random.

    A scale at which nothing is stored is made from what is stored at full size.
    """

    def __init__(self, confidences: Confidences):
        self.confidences = confidences

    def __len__(self) -> int:
        return len(self.confidences)

    def view(self, index: int, settings: Settings, generator: torch.Generator) -> tuple[tuple[Tensor, ...], Tensor]:
        scale = draw(settings.scales, generator)
        views = self.stored_at(scale) or self.stored_at(1.0)
        if not views:
            raise ValueError(f"{self.confidences.folder}: no confidences at full size or at scale {scale:g} here")
        view = views[int(torch.randint(len(views), (), generator=generator))]
        image, labels, logits, _ = self.confidences.read(index, view)
        if view.scale != scale:
            size = scaled(labels.shape, scale)
            image, logits = (resized(maps[None], size)[0] for maps in (image, logits))
            labels = view_labels(labels, scale, flip=False)
        image, labels, logits = random_crop(image, labels, logits, settings.crop, generator)
        assert logits is not None
        if settings.jitter:
            image = jittered(image, settings.jitter, generator)
        if settings.displacement and coin(generator):
            logits = displaced(logits, settings.displacement, generator)
        return (image, logits), labels

    def stored_at(self, scale: float) -> list[View]:
        return [view for view in self.confidences.views if view.scale == scale]

    def whole(self, index: int) -> tuple[tuple[Tensor, ...], Tensor]:
        sample = self.confidences.read(index, View())
        return (sample.image[None], sample.logits[None]), sample.labels[None]
