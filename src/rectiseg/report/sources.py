"""Where a report's cases come from: a model or files, on a data set or on a folder of images."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rectiseg.data.datasets import Dataset, PairedFiles, Split, pairs_by_stem, read_classes
from rectiseg.data.images import find_images
from rectiseg.data.predicted import numbered
from rectiseg.data.predictions import predictions_below
from rectiseg.data.registry import DatasetName, open_dataset
from rectiseg.evaluate import check_classes
from rectiseg.inference import names_and_colors
from rectiseg.models.checkpoint import load_parser
from rectiseg.report.cases import FileCases, ModelCases, Unlabelled

Colors = Sequence[tuple[int, int, int]]


@dataclass(frozen=True)
class Pictures:
    """A split of a data set, or a folder of images, with label maps of the same names or without."""

    dataset: DatasetName
    data: Path | None
    split: Split
    images: Path | None
    labels: Path | None

    def __post_init__(self) -> None:
        if self.images is not None and self.data is not None:
            raise ValueError("--data names a whole data set: leave out --images and --labels")
        if self.images is None and self.labels is not None:
            raise ValueError(f"--labels {self.labels}: name the folder of their --images, too")

    @property
    def title(self) -> str:
        return f"{self.dataset}, {self.split}" if self.images is None else str(self.images)

    def whole_dataset(self) -> Dataset | None:
        """With classes of its own; None for a folder of images."""
        return open_dataset(self.dataset, self.data, self.split) if self.images is None else None

    def folder(self, classes: Sequence[str], colors: Colors) -> Dataset:
        """The folder's images, whose classes are these."""
        assert self.images is not None
        if self.labels is not None:
            return PairedFiles(pairs_by_stem(self.images, self.labels), classes, colors, range(len(classes)))
        return Unlabelled(self.images, find_images([self.images]), classes, colors)


def parser_in(source: Path | None) -> Path | None:
    """The file of a parser: the source itself, or that of a training's folder; None if there is none."""
    if source is None or source.is_dir():
        found = None if source is None else source / "parser.safetensors"
        return found if found is not None and found.is_file() else None
    return source


def model_cases(model: Path | None, pictures: Pictures, device: str) -> ModelCases:
    """What a saved parser, by default the shipped one, says of the pictures."""
    parser = load_parser(model).to(device)
    dataset = pictures.whole_dataset()
    if dataset is None:
        names, palette = names_and_colors(parser)
        dataset = pictures.folder(names, [(int(red), int(green), int(blue)) for red, green, blue in palette])
    check_classes(parser, dataset)
    return ModelCases(parser, dataset)


def file_cases(refined: Path, predictions: Path, pictures: Pictures, classes: Path | None) -> FileCases:
    """What two folders hold of the pictures. Classes without names are numbered."""
    before, after = predictions_by_name(predictions), predictions_by_name(refined)
    dataset = pictures.whole_dataset()
    if dataset is None:
        names, colors = read_classes(classes) if classes is not None else numbered(next(iter(before.values())))
        dataset = pictures.folder(names, colors)
    return FileCases(dataset, before, after)


def predictions_by_name(folder: Path) -> dict[str, Path]:
    """Predictions by their places in the folder, less their suffixes."""
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder")
    found = {key.as_posix(): path for key, path in predictions_below(folder).items()}
    if not found:
        raise ValueError(f"{folder}: holds no predictions, .npy, .npz, .safetensors or .png")
    return found
