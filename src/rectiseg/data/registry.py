"""Data sets by name."""

from pathlib import Path
from typing import Literal

from rectiseg.data.ade20k import ADE20K
from rectiseg.data.cityscapes import Cityscapes
from rectiseg.data.datasets import CamVid, Dataset, Folder, Split
from rectiseg.data.scenes import GeneratedScenes

DatasetName = Literal["camvid", "folder", "scenes", "cityscapes", "ade20k"]


def open_dataset(name: DatasetName, root: Path | None, split: Split) -> Dataset:
    """A data set by its name; generated scenes need no folder."""
    if name == "scenes":
        count, seed = {"train": (64, 0), "val": (16, 1), "test": (16, 2)}[split]
        return GeneratedScenes(count, seed)
    if root is None:
        raise ValueError(f"the data set {name} lies in a folder: name it with --data")
    readers = {"camvid": CamVid, "folder": Folder, "cityscapes": Cityscapes, "ade20k": ADE20K}
    return readers[name](root, split)
