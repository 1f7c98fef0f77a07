"""Data sets on disk: pairs of files; CamVid as SegNet laid it out, and a plain folder of images and labels."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int, Int64, Integer
from torch import Tensor

from rectiseg.data.images import IMAGE_SUFFIXES, read_image, read_label_map
from rectiseg.types import IGNORE_INDEX

Split = Literal["train", "val", "test"]


class Sample(NamedTuple):
    image: Float[Tensor, "3 height width"]  # RGB in [0, 1]
    labels: Int[Tensor, "height width"]  # int64: a class index, or IGNORE_INDEX
    name: str


@runtime_checkable
class Dataset(Protocol):
    """Samples by index, their names without reading them, and the names and colours of their classes."""

    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    names: Sequence[str]

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> Sample: ...


class Subset:
    """Some of a data set's samples, by their indices there."""

    def __init__(self, dataset: Dataset, indices: Sequence[int]):
        self.dataset = dataset
        self.indices = indices
        self.classes, self.palette = dataset.classes, dataset.palette
        self.names: Sequence[str] = [dataset.names[index] for index in indices]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Sample:
        return self.dataset[self.indices[index]]


class Joined:
    """The samples of several data sets of the same classes, one set after the other."""

    def __init__(self, *datasets: Dataset):
        self.places = [(dataset, index) for dataset in datasets for index in range(len(dataset))]
        self.classes, self.palette = datasets[0].classes, datasets[0].palette
        self.names: Sequence[str] = [name for dataset in datasets for name in dataset.names]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> Sample:
        dataset, place = self.places[index]
        return dataset[place]


def drive_of(name: str) -> str:
    """What precedes the first underscore: CamVid's 0016E5_07959 is a frame of the drive 0016E5."""
    return name.partition("_")[0]


def drives(dataset: Dataset) -> dict[str, list[int]]:
    """The samples of each drive."""
    result: dict[str, list[int]] = {}
    for index, name in enumerate(dataset.names):
        result.setdefault(drive_of(name), []).append(index)
    return result


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
    """Images and label maps, pair by pair.

    ``indices`` says what the values of a label map stand for, by their position: a class index, or IGNORE_INDEX. The
    value IGNORE_INDEX itself is ignored in every data set.
    """

    def __init__(
        self,
        pairs: Sequence[tuple[Path, Path]],
        classes: Sequence[str],
        palette: Sequence[tuple[int, int, int]],
        indices: Sequence[int],
    ):
        self.pairs = pairs
        self.classes = tuple(classes)
        self.palette = tuple(palette)
        self.indices = indices
        self.names: Sequence[str] = [image.stem for image, _ in pairs]

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Sample:
        image_path, label_path = self.pairs[index]
        image = read_image(image_path)
        stored = read_label_map(label_path)
        if stored.shape != image.shape[1:]:
            raise ValueError(
                f"{label_path}: the label map is {stored.shape[1]}x{stored.shape[0]}, "
                f"its image {image.shape[2]}x{image.shape[1]}: both need one size"
            )
        labels = class_indices(stored, self.indices, label_path)
        return Sample(image, torch.from_numpy(labels), self.names[index])


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
        pairs = pairs_by_stem(root / split, root / f"{split}annot")
        super().__init__(pairs, self.CLASSES, self.PALETTE, (*range(11), IGNORE_INDEX))


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
        super().__init__(pairs_by_stem(folder / "images", folder / "labels"), classes, palette, range(len(classes)))


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


def pairs_by_stem(images: Path, labels: Path) -> list[tuple[Path, Path]]:
    """Images and label maps of the same stem in two folders."""
    return paired(images, files_by_stem(images), labels, files_by_stem(labels))


def paired(
    images: Path, pictures: Mapping[str, Path], labels: Path, maps: Mapping[str, Path]
) -> list[tuple[Path, Path]]:
    """Pictures of the folder `images` and maps of the folder `labels` that have one key, in the order of the keys."""
    if lonely := sorted(pictures.keys() ^ maps.keys()):
        there, absent = (images, labels) if lonely[0] in pictures else (labels, images)
        raise ValueError(
            f"{there}: {len(lonely)} files have no partner of the same name in {absent}, the first is {lonely[0]}"
        )
    return [(pictures[key], maps[key]) for key in sorted(pictures)]


def files_by_stem(folder: Path) -> dict[str, Path]:
    files = [path for path in files_below(folder, "*") if path.suffix.lower() in IMAGE_SUFFIXES]
    if not files:
        raise ValueError(f"{folder}: no images here ({', '.join(sorted(IMAGE_SUFFIXES))} are read)")
    by_stem = {path.stem: path for path in files}
    if len(by_stem) < len(files):
        twice = next(path for path in files if by_stem[path.stem] != path)
        raise ValueError(f"{twice}: another file here has the same name but for its suffix; keep one")
    return by_stem


def files_below(folder: Path, pattern: str) -> list[Path]:
    if not folder.is_dir():
        raise ValueError(f"{folder}: this folder is missing")
    return sorted(folder.glob(pattern))


def class_indices(
    stored: Integer[np.ndarray, "height width"], indices: Sequence[int], path: Path
) -> Int64[np.ndarray, "height width"]:
    """What the stored values stand for; one without a place in ``indices`` is refused in the name of its file."""
    unknown = (stored >= len(indices)) & (stored != IGNORE_INDEX)
    if unknown.any():
        known = [value for value, index in enumerate(indices) if index != IGNORE_INDEX]
        ignored = [value for value, index in enumerate(indices) if index == IGNORE_INDEX] + [IGNORE_INDEX]
        raise ValueError(
            f"{path}: label {stored[unknown][0]} is outside {known[0]}..{known[-1]} "
            f"and is not ignored ({', '.join(map(str, ignored))})"
        )
    table = np.full(IGNORE_INDEX + 1, IGNORE_INDEX, np.int64)
    table[: len(indices)] = indices
    return table[stored]
