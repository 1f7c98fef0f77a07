"""`rectiseg doctor`: find what is wrong with a data set."""

from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from rectiseg.commands.options import DatasetChoice, JsonFile, OptionalPath, write_json


def doctor(
    images: OptionalPath = None,
    labels: OptionalPath = None,
    val_images: OptionalPath = None,
    val_labels: OptionalPath = None,
    dataset: DatasetChoice = "camvid",
    data: OptionalPath = None,
    predictions: OptionalPath = None,
    classes: Annotated[str | None, arg(metavar="FILE|N", help_behavior_hint="")] = None,
    json_file: JsonFile = None,
) -> int:
    """Find what is wrong with a data set, and say what mends it. Exit status: 0 nothing found, 1 something, 2 refused.

    Sizes that differ, labels out of range, masks in colours or in 0/255, images without labels and labels without
    images, classes that are absent, images of train that val repeats, broken files, predictions shifted by one.

    Example: rectiseg doctor --images photos --labels annotated --classes classes.json

    Args:
        images: The folder of the images, or of train's images.
        labels: The folder of their label maps, of the same names.
        val_images: The folder of val's images.
        val_labels: The folder of their label maps.
        dataset: The reader of the data set in --data.
        data: A data set's folder, in place of folders of images and of labels.
        predictions: A folder of predictions: label maps, or confidence maps as numpy or safetensors files.
        classes: The number of the classes, or their list, as the classes.json of --dataset folder.
        json_file: Where to write all findings and the classes' frequencies as JSON.
    """
    from rich.console import Console

    from rectiseg.doctor.classes import classes_of
    from rectiseg.doctor.examine import examine
    from rectiseg.doctor.files import dataset_parts, folder_parts, with_predictions
    from rectiseg.doctor.report import as_json, class_table, finding_table
    from rectiseg.progress import ProgressReporter

    if data is not None:
        if classes is not None or any((images, labels, val_images, val_labels)):
            raise ValueError("--data names a whole data set: leave out --classes and the folders of images and labels")
        parts, known, findings = dataset_parts(dataset, data)
    else:
        parts, findings = folder_parts(folders_of(images, labels, val_images, val_labels))
        known = classes_of(classes)
    if predictions is not None:
        parts, lonely = with_predictions(parts, predictions, by_stem=data is not None)
        findings += lonely
    with ProgressReporter() as reporter:
        found, tallies = examine(parts, known, reporter)
    findings += found
    console = Console()
    if tallies:
        console.print(class_table(tallies))
    console.print(finding_table(findings) if findings else "Nothing found.")
    if json_file is not None:
        write_json(json_file, as_json(findings, tallies))
    return 1 if findings else 0


def folders_of(
    images: Path | None, labels: Path | None, val_images: Path | None, val_labels: Path | None
) -> dict[str, tuple[Path, Path]]:
    """Images and label maps of each split that was named."""
    if images is None or labels is None:
        raise ValueError("name the folders of --images and --labels, or a data set's with --data")
    if val_images is not None and val_labels is not None:
        return {"train": (images, labels), "val": (val_images, val_labels)}
    if val_images is not None or val_labels is not None:
        raise ValueError("val needs both of its folders: --val-images and --val-labels")
    return {"train": (images, labels)}
