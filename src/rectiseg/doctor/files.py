"""Which image, label map and prediction belong together, split by split, and which files have no partner."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from rectiseg.data.datasets import PairedFiles
from rectiseg.data.images import find_images
from rectiseg.data.predictions import predictions_below
from rectiseg.data.registry import DatasetName, open_dataset
from rectiseg.doctor.classes import UNNAMED, Classes
from rectiseg.doctor.finding import Finding


class Pair(NamedTuple):
    """The files of one image."""

    image: Path
    labels: Path
    prediction: Path | None = None


@dataclass(frozen=True)
class Part:
    """A split of a data set: its pairs by name, and the folder of the label maps."""

    name: str
    labels: Path
    pairs: dict[Path, Pair]


def folder_part(name: str, images: Path, labels: Path) -> tuple[Part, list[Finding]]:
    """The pairs of two folders, or of two trees of folders: files of one path but for its suffix."""
    pictures, picture_twins = files_by_name(images)
    maps, map_twins = files_by_name(labels)
    pairs = {key: Pair(pictures[key], maps[key]) for key in pictures if key in maps}
    lonely = [no_partner(path, "label map", labels) for key, path in pictures.items() if key not in maps]
    lonely += [no_partner(path, "image", images) for key, path in maps.items() if key not in pictures]
    return Part(name, labels, pairs), [*picture_twins, *map_twins, *lonely]


def folder_parts(folders: Mapping[str, tuple[Path, Path]]) -> tuple[list[Part], list[Finding]]:
    """A part for each two folders, those of its images and of its label maps."""
    parts, findings = zip(*(folder_part(name, *pair) for name, pair in folders.items()), strict=True)
    return list(parts), list(chain(*findings))


def files_by_name(folder: Path) -> tuple[dict[Path, Path], list[Finding]]:
    """Every image file by its path in the folder less the suffix, and those whose name is taken."""
    refuse_no_folder(folder)
    files: dict[Path, Path] = {}
    twins = []
    for path in find_images([folder]):
        first = files.setdefault(path.relative_to(folder).with_suffix(""), path)
        if first != path:
            sentence = f"has the name of {first.name} but for its suffix, and is left aside"
            twins.append(Finding("same name twice", path, sentence, "Keep one of the two, or rename one."))
    return files, twins


def dataset_parts(name: DatasetName, root: Path) -> tuple[list[Part], Classes, list[Finding]]:
    """Both splits as the data set's own reader pairs them, and its classes; what that reader refuses is a finding.

    Splits that are the same files, as in a data set without folders for them, are one part.
    """
    refuse_no_folder(root)
    parts: list[Part] = []
    findings = []
    classes = UNNAMED
    for split in ("train", "val"):
        try:
            dataset = open_dataset(name, root, split)
        except ValueError as error:
            mend = f"Mend this first: nothing else of {split} was examined. Is it the right --data and --dataset?"
            findings.append(Finding("layout", root, f"{split}: {error}", mend))
            continue
        if not isinstance(dataset, PairedFiles):
            raise ValueError(f"the data set {name} has no files to examine: choose another --dataset")
        classes = Classes(dataset.classes, dataset.indices, dataset.palette)
        pairs = {Path(image.stem): Pair(image, labels) for image, labels in dataset.pairs}
        labels = Path(os.path.commonpath([pair.labels.parent for pair in pairs.values()]))
        if all(pairs != part.pairs for part in parts):
            parts.append(Part(split, labels, pairs))
    return parts, classes, findings


def with_predictions(parts: Sequence[Part], folder: Path, by_stem: bool) -> tuple[list[Part], list[Finding]]:
    """The parts with the predictions of their names, in whichever subfolder these lie if ``by_stem``.

    A part none of whose images has a prediction was not predicted, and none is missing there.
    """
    refuse_no_folder(folder)
    files = {Path(key.name) if by_stem else key: path for key, path in predictions_below(folder).items()}
    predicted, findings = [], []
    for part in parts:
        pairs = {key: pair._replace(prediction=files.pop(key, None)) for key, pair in part.pairs.items()}
        predicted.append(replace(part, pairs=pairs))
        if any(pair.prediction for pair in pairs.values()):
            lonely = (pair.image for pair in pairs.values() if pair.prediction is None)
            findings += [no_partner(path, "prediction", folder) for path in lonely]
    return predicted, findings + [of_no_pair(path) for path in files.values()]


def no_partner(path: Path, partner: str, folder: Path) -> Finding:
    mend = "Give both one name but for the suffix, or remove the file; layouts with names of their own take --dataset."
    return Finding("no partner", path, f"no {partner} in {folder} has its name", mend)


def of_no_pair(path: Path) -> Finding:
    mend = "Give it the name of its image, or move it elsewhere if it is a picture to look at and no label map."
    return Finding("no partner", path, "no pair of an image and a label map has its name", mend)


def refuse_no_folder(path: Path) -> None:
    if not path.is_dir():
        raise ValueError(f"{path}: {'not a folder' if path.exists() else 'no such folder'}; name another")
