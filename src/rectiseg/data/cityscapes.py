"""Cityscapes (Cordts et al., "The Cityscapes dataset for semantic urban scene understanding", CVPR 2016)."""

from pathlib import Path
from typing import NamedTuple

from rectiseg.data.datasets import PairedFiles, Split, files_below, paired
from rectiseg.types import IGNORE_INDEX


class Label(NamedTuple):
    name: str
    color: tuple[int, int, int] | None = None  # of a class that is evaluated; the others are void


LABELS = (
    Label("unlabeled"),
    Label("ego vehicle"),
    Label("rectification border"),
    Label("out of roi"),
    Label("static"),
    Label("dynamic"),
    Label("ground"),
    Label("road", (128, 64, 128)),
    Label("sidewalk", (244, 35, 232)),
    Label("parking"),
    Label("rail track"),
    Label("building", (70, 70, 70)),
    Label("wall", (102, 102, 156)),
    Label("fence", (190, 153, 153)),
    Label("guard rail"),
    Label("bridge"),
    Label("tunnel"),
    Label("pole", (153, 153, 153)),
    Label("polegroup"),
    Label("traffic light", (250, 170, 30)),
    Label("traffic sign", (220, 220, 0)),
    Label("vegetation", (107, 142, 35)),
    Label("terrain", (152, 251, 152)),
    Label("sky", (70, 130, 180)),
    Label("person", (220, 20, 60)),
    Label("rider", (255, 0, 0)),
    Label("car", (0, 0, 142)),
    Label("truck", (0, 0, 70)),
    Label("bus", (0, 60, 100)),
    Label("caravan"),
    Label("trailer"),
    Label("train", (0, 80, 100)),
    Label("motorcycle", (0, 0, 230)),
    Label("bicycle", (119, 11, 32)),
)
"""The official table in the order of its ids, 0 to 33. Its "license plate" has the id -1, which is never drawn into a
label map (a tool that does leaves 255 in 8 bits, and that is ignored)."""

EVALUATED = tuple(label for label in LABELS if label.color)


class Cityscapes(PairedFiles):
    """The fine annotations in their official layout: ``leftImg8bit/<split>/<city>/`` and ``gtFine/<split>/<city>/``.

    Label maps are the ``_gtFine_labelIds.png``, whose 19 evaluated ids become class indices in the order of their ids.
    A sample has its image's name, with city, sequence and frame.
    """

    CLASSES = tuple(label.name for label in EVALUATED)
    PALETTE = tuple(label.color for label in EVALUATED if label.color)
    INDICES = tuple(EVALUATED.index(label) if label in EVALUATED else IGNORE_INDEX for label in LABELS)

    def __init__(self, root: str | Path, split: Split = "train"):
        images, labels = Path(root) / "leftImg8bit" / split, Path(root) / "gtFine" / split
        pictures = files_by_frame(images, "_leftImg8bit.png")
        maps = files_by_frame(labels, "_gtFine_labelIds.png")
        super().__init__(paired(images, pictures, labels, maps), self.CLASSES, self.PALETTE, self.INDICES)


def files_by_frame(folder: Path, ending: str) -> dict[str, Path]:
    """The files of that ending by ``<city>/<city>_<sequence>_<frame>``; the many other kinds are passed over."""
    files = files_below(folder, f"*/*{ending}")
    if not files:
        raise ValueError(f"{folder}: no files <city>/*{ending} here, as in the official layout")
    return {path.relative_to(folder).as_posix().removesuffix(ending): path for path in files}
