"""`rectiseg evaluate`: measure a model."""

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from rectiseg.commands.options import DatasetChoice, JsonFile, OptionalPath, device_named, fused, write_json


def evaluate(
    model: Positional[OptionalPath] = None,
    /,
    dataset: DatasetChoice = "camvid",
    data: OptionalPath = None,
    split: Literal["train", "val", "test"] = "val",
    refiner: Annotated[tuple[Path, ...], arg(help_behavior_hint="")] = (),
    scales: tuple[float, ...] = (1.0,),
    flip: bool = False,
    boundaries: bool = False,
    json_file: JsonFile = None,
    device: str = "cpu",
) -> int:
    """Measure a model after each of its stages: pixel accuracy, mean IoU and the IoU of every class.

    Example: rectiseg evaluate --data CamVid --json scores.json

    Args:
        model: A saved parser; the shipped one by default.
        dataset: The reader of the data set.
        data: The data set's folder (generated scenes need none).
        split: Which part of it.
        refiner: Saved refiners to measure as well, each directly after the model's front.
        scales: Measure the mean of what the whole model says of the image at each of these scales.
        flip: And of its mirror image.
        boundaries: Measure how well class boundaries are met, too, and count wrong regions.
        json_file: Where to write the scores as JSON, and beside it every class's IoU as a picture, .png.
        device: cpu, cuda, ...
    """
    from rich.console import Console

    from rectiseg.data.files import atomic_path
    from rectiseg.data.registry import open_dataset
    from rectiseg.evaluate import as_json, as_table, boundary_measures, evaluate_parser
    from rectiseg.models.checkpoint import load_parser, load_refiner
    from rectiseg.plots import as_picture
    from rectiseg.progress import ProgressReporter
    from rectiseg.report.figures import iou_bars

    if json_file is not None and json_file.suffix == ".png":
        raise ValueError(f"{json_file}: the picture beside the JSON will have this name; end it in .json")
    samples = open_dataset(dataset, data, split)
    parser = load_parser(model).to(device_named(device))
    refiners = {path.stem: load_refiner(path).to(device) for path in refiner}
    if json_file is not None:
        json_file.parent.mkdir(parents=True, exist_ok=True)  # what cannot be made is said before hours of measuring
    with ProgressReporter() as reporter:
        further = boundary_measures(len(samples.classes)) if boundaries else {}
        rows = evaluate_parser(fused(parser, scales, flip), refiners, samples, reporter, further)
    Console().print(as_table(rows, samples.classes))
    if json_file is not None:
        write_json(json_file, as_json(rows, samples.classes))
        with atomic_path(json_file.with_suffix(".png")) as path:
            as_picture(iou_bars(rows, samples.classes)).save(path)
    return 0
