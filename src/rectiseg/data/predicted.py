"""A data set with what the user's own model predicted of its images: what `fit` learns from."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from rectiseg.data.confidences import Confidences, StoredSample, View
from rectiseg.data.datasets import Dataset, PairedFiles, Sample, Subset, pairs_by_stem, read_classes
from rectiseg.data.predictions import Values, predictions_below, read_prediction
from rectiseg.data.transforms import view_image, view_labels
from rectiseg.visualize import default_palette


class Predicted(Confidences):
    """Confidences of any model, read from its own files; of a mirrored image they are taken to be mirrored, too.

    ``files`` are the predictions by the samples' names, ``source`` says which data they and the images are.
    """

    def __init__(self, dataset: Dataset, files: Mapping[str, Path], source: str, values: Values | None = None):
        self.dataset = dataset
        self.files = files
        self.values: Values | None = values
        self.about = {"source": source, "classes": list(dataset.classes)}
        self.views = (View(), View(flip=True))
        self.coarse = None

    def subset(self, indices: Sequence[int]) -> "Predicted":
        return Predicted(Subset(self.dataset, indices), self.files, self.about["source"], self.values)

    def seen(self, sample: Sample, view: View) -> StoredSample:
        height, width = sample.labels.shape
        classes = len(self.dataset.classes)
        logits = read_prediction(self.files[sample.name], (height, width), classes, self.values).logits
        image, labels = view_image(sample.image, *view), view_labels(sample.labels, *view)
        return StoredSample(image, labels, logits.flip(-1) if view.flip else logits, sample.name)


def open_predicted(
    images: Path, labels: Path, predictions: Path, classes: Path | None = None, values: Values | None = None
) -> Predicted:
    """Images, label maps and predictions of the same stems in three folders.

    Without a classes.json there are as many classes as the first prediction has maps. Missing partners, and label maps
    as predictions without a classes.json, raise ValueError.
    """
    pairs = pairs_by_stem(images, labels)
    files: dict[str, Path] = {}
    for key, path in predictions_below(predictions).items():
        if files.setdefault(key.name, path) != path:
            raise ValueError(f"{path}: {files[key.name]} has the same name; keep one")
    if lonely := [image.stem for image, _ in pairs if image.stem not in files]:
        raise ValueError(
            f"{predictions}: {len(lonely)} images of {images} have no prediction here, the first is {lonely[0]}"
        )
    names, palette = read_classes(classes) if classes is not None else numbered(files[pairs[0][0].stem])
    source = fingerprint([path for image, label_map in pairs for path in (image, label_map, files[image.stem])])
    source = source if values is None else f"{source}-{values}"
    return Predicted(PairedFiles(pairs, names, palette, range(len(names))), files, source, values)


def numbered(prediction: Path) -> tuple[list[str], list[tuple[int, int, int]]]:
    """Names and colours of as many classes as a prediction has."""
    logits, values = read_prediction(prediction)
    if values == "labels":
        raise ValueError(f"{prediction}: a label map does not say how many classes there are; name a classes.json")
    colors = [(int(red), int(green), int(blue)) for red, green, blue in default_palette(len(logits))]
    return [f"class {index}" for index in range(len(logits))], colors


def fingerprint(files: Sequence[Path]) -> str:
    """Twelve hexadecimal digits that change with the files' places, sizes and times."""
    known = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return hashlib.sha256(json.dumps(known).encode()).hexdigest()[:12]
