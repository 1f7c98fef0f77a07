"""ADE20K's scene parsing benchmark (Zhou et al., "Scene parsing through ADE20K dataset", CVPR 2017)."""

import csv
import re
from pathlib import Path

from rectiseg.data.datasets import PairedFiles, Split, pairs_by_stem
from rectiseg.types import IGNORE_INDEX
from rectiseg.visualize import default_palette

NUM_CLASSES = 150
FOLDERS: dict[Split, str] = {"train": "training", "val": "validation", "test": "testing"}


class ADE20K(PairedFiles):
    """ADEChallengeData2016 as published: ``images/`` and ``annotations/``, both with ``training/`` and ``validation/``.

    Ids 1 to 150 are classes, named in ``objectInfo150.txt`` or ``.csv``; 0 is everything else and is ignored. Where
    neither split has a folder, the pairs lie in ``images/`` and ``annotations/`` themselves. The colours are ours.
    """

    INDICES = (IGNORE_INDEX, *range(NUM_CLASSES))

    def __init__(self, root: str | Path, split: Split = "train"):
        root = Path(root)
        classes = read_class_names(root)
        images, labels = root / "images", root / "annotations"
        if any((images / folder).is_dir() for folder in FOLDERS.values()):
            images, labels = images / FOLDERS[split], labels / FOLDERS[split]
        palette = [(red, green, blue) for red, green, blue in default_palette(NUM_CLASSES).tolist()]
        super().__init__(pairs_by_stem(images, labels), classes, palette, self.INDICES)


def read_class_names(root: Path) -> list[str]:
    """Every class's first name, from the official .txt (tabs) where there is one, else from the .csv.

    The .csv cuts names of several words ("screen;door;screen"): where that makes two names equal, their ids follow.
    """
    paths = [path for path in (root / "objectInfo150.txt", root / "objectInfo150.csv") if path.is_file()]
    if not paths:
        raise ValueError(
            f"{root}: ade20k's list of classes is not here, objectInfo150.txt or .csv; copy it to this place"
        )
    path = paths[0]
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file, delimiter="\t" if path.suffix == ".txt" else ","))
        ids = [int(row["Idx"]) for row in rows]
        names = [re.split("[,;]", row["Name"])[0].strip() for row in rows]
    except (ValueError, KeyError, TypeError, csv.Error) as error:
        raise ValueError(f"{path}: not a table with columns Idx and Name; copy the official one again") from error
    if ids != list(range(1, NUM_CLASSES + 1)):
        raise ValueError(
            f"{path}: the classes are not numbered 1 to {NUM_CLASSES} in order; copy the official one again"
        )
    return [name if names.count(name) == 1 else f"{name} {number}" for number, name in zip(ids, names, strict=True)]
