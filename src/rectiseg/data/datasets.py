"""Data sets on disk: CamVid as SegNet laid it out, and a plain folder of images and labels."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from rectiseg.data.images import IMAGE_SUFFIXES, read_image, read_label_map
from rectiseg.types import IGNORE_INDEX

Split = Literal["train", "val"]


class Sample(NamedTuple):
    image: Float[Tensor, "3 height width"]  # RGB in [0, 1]
    labels: Int[Tensor, "height width"]  # int64: a class index, or IGNORE_INDEX
    name: str


@runtime_checkable
class Dataset(Protocol):
    """Samples by index, with the names and colours of their classes."""

    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> Sample: ...


class Subset:
    """Some of a data set's samples, by their indices there."""

    def __init__(self, dataset: Dataset, indices: Sequence[int]):
        self.dataset = dataset
        self.indices = indices
        self.classes, self.palette = dataset.classes, dataset.palette

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Sample:
        return self.dataset[self.indices[index]]


def left_out(count: int, folds: int, runs: int = 8) -> list[list[int]]:
    """The samples that each of the folds leaves out: every sample once, in so many runs of neighbours a fold.

    Neighbours in a video look alike: a sample between two that a front has seen would be no test of it. Fewer than two
    folds, or more folds than samples, raise ValueError.
    """
    if not 2 <= folds <= count:
        raise ValueError(f"cross-fitting takes two folds or more and no more than there are images: {folds} of {count}")
    blocks = folds * min(runs, count // folds)
    return [[index for index in range(count) if index * blocks // count % folds == fold] for fold in range(folds)]


class PairedFiles:
    """Images and label maps of the same stem in two folders."""

    def __init__(
        self,
        images: Path,
        labels: Path,
        classes: Sequence[str],
        palette: Sequence[tuple[int, int, int]],
        void: int | None = None,
    ):
        self.classes = tuple(classes)
        self.palette = tuple(palette)
        self.void = void
        pictures, maps = files_by_stem(images), files_by_stem(labels)
        if lonely := sorted(pictures.keys() ^ maps.keys()):
            there, absent = (images, labels) if lonely[0] in pictures else (labels, images)
            raise ValueError(
                f"{there}: {len(lonely)} files have no partner of the same name in {absent}, the first is {lonely[0]}"
            )
        if not pictures:
            raise ValueError(f"{images}: no images here ({', '.join(sorted(IMAGE_SUFFIXES))} are read)")
        self.pairs = [(pictures[stem], maps[stem]) for stem in sorted(pictures)]

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Sample:
        image_path, label_path = self.pairs[index]
        image = read_image(image_path)
        labels = read_label_map(label_path).astype(np.int64)
        if labels.shape != image.shape[1:]:
            raise ValueError(
                f"{label_path}: the label map is {labels.shape[1]}x{labels.shape[0]}, "
                f"its image {image.shape[2]}x{image.shape[1]}: both need one size"
            )
        if self.void is not None:
            labels[labels == self.void] = IGNORE_INDEX
        refuse_unknown_labels(labels, len(self.classes), label_path)
        return Sample(image, torch.from_numpy(labels), image_path.stem)


class CamVid(PairedFiles):
    """CamVid in SegNet's split and 11 classes: ``<split>/``, ``<split>annot/``; label 11 is void.

    Brostow et al., "Semantic object classes in video", 2009; Badrinarayanan et al., "SegNet", 2015.
    """

    CLASSES = (
        "sky",
        "building",
        "pole",
        "road",
        "pavement",
        "tree",
        "sign",
        "fence",
        "car",
        "pedestrian",
        "bicyclist",
    )
    PALETTE = (
        (128, 128, 128),
        (128, 0, 0),
        (192, 192, 128),
        (128, 64, 128),
        (60, 40, 222),
        (128, 128, 0),
        (192, 128, 128),
        (64, 64, 128),
        (64, 0, 128),
        (64, 64, 0),
        (0, 128, 192),
    )

    def __init__(self, root: str | Path, split: Split = "train"):
        root = Path(root)
        super().__init__(root / split, root / f"{split}annot", self.CLASSES, self.PALETTE, void=11)


class Folder(PairedFiles):
    """A data set of your own: ``<split>/images/``, ``<split>/labels/`` and one ``classes.json``.

    That file is a list in the order of the labels, ``[{"name": "sky", "color": [70, 130, 180]}, ...]``. Label maps
    are single-channel PNGs that hold the position in that list, or 255 where nobody annotated. Without a folder of the
    split's name, ``images/`` and ``labels/`` lie in the root itself.
    """

    def __init__(self, root: str | Path, split: Split = "train"):
        root = Path(root)
        classes, palette = read_classes(root / "classes.json")
        folder = root / split if (root / split).is_dir() else root
        super().__init__(folder / "images", folder / "labels", classes, palette)


def read_classes(path: Path) -> tuple[list[str], list[tuple[int, int, int]]]:
    """Names and colours of the classes, in the order of their labels."""
    example = '[{"name": "sky", "color": [70, 130, 180]}, ...]'
    if not path.is_file():
        raise ValueError(f"{path}: missing; write the classes there in the order of their labels, {example}")
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        classes = [str(entry["name"]) for entry in entries]
        palette = [(int(red), int(green), int(blue)) for red, green, blue in (entry["color"] for entry in entries)]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: not a list of classes like {example}") from error
    for name, color in zip(classes, palette, strict=True):
        if not all(0 <= value <= 255 for value in color):
            raise ValueError(f"{path}: {name}'s colour {list(color)} is not of three values in 0..255")
    if not 1 <= len(classes) <= IGNORE_INDEX:
        raise ValueError(f"{path}: {len(classes)} classes are named, between 1 and {IGNORE_INDEX} can be")
    return classes, palette


def files_by_stem(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise ValueError(f"{folder}: this folder is missing")
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
    by_stem = {path.stem: path for path in files}
    if len(by_stem) < len(files):
        twice = next(path for path in files if by_stem[path.stem] != path)
        raise ValueError(f"{twice}: another file here has the same name but for its suffix; keep one")
    return by_stem


def refuse_unknown_labels(labels: np.ndarray, num_classes: int, path: Path) -> None:
    unknown = (labels >= num_classes) & (labels != IGNORE_INDEX)
    if unknown.any():
        raise ValueError(
            f"{path}: label {labels[unknown][0]} is outside 0..{num_classes - 1} and is not {IGNORE_INDEX} (ignored)"
        )
