"""What a stage trains on: random views of images, or of their stored confidences."""

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from rectiseg.data.confidences import Confidences, View
from rectiseg.data.datasets import Dataset
from rectiseg.data.transforms import coin, draw, jittered, random_crop, view_image, view_labels
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
    """What a refiner trains on: a stored view of one of the wanted scales, cropped at random."""

    def __init__(self, confidences: Confidences):
        self.confidences = confidences

    def __len__(self) -> int:
        return len(self.confidences)

    def view(self, index: int, settings: Settings, generator: torch.Generator) -> tuple[tuple[Tensor, ...], Tensor]:
        views = [view for view in self.confidences.views if view.scale in settings.scales]
        if not views:
            raise ValueError(
                f"{self.confidences.folder}: no confidences at scale {settings.scales[0]:g} are stored here"
            )
        view = views[int(torch.randint(len(views), (), generator=generator))]
        sample = self.confidences.read(index, view)
        image, labels, logits = random_crop(sample.image, sample.labels, sample.logits, settings.crop, generator)
        assert logits is not None
        return (image, logits), labels

    def whole(self, index: int) -> tuple[tuple[Tensor, ...], Tensor]:
        sample = self.confidences.read(index, View())
        return (sample.image[None], sample.logits[None]), sample.labels[None]
