"""`rectiseg predict`: parse images."""

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from rectiseg.commands.options import JsonFile, OptionalPath, Output, choices_on, device_named, ended, fused


def predict(
    images: Annotated[Positional[tuple[Path, ...]], arg(help_behavior_hint="(at least one)")],
    output: Output,
    model: OptionalPath = None,
    overlay: bool = False,
    panel: bool = False,
    probabilities: bool = False,
    ids: Annotated[Literal["cityscapes", "ade20k"] | None, arg(help_behavior_hint="")] = None,
    scales: tuple[float, ...] = (1.0,),
    flip: bool = False,
    tile: Annotated[int | None, arg(metavar="INT", help_behavior_hint="")] = None,
    json_file: JsonFile = None,
    device: str = "cpu",
) -> int:
    """Parse images and rectify the result. Every image gets a label map of its size, a PNG of class indices.

    Example: rectiseg predict photo.jpg holiday/ -o labels --panel

    Args:
        images: Image files, and folders that are searched for them: JPEG, PNG, TIFF, WebP.
        output: The folder for the results; the tree below a given folder is kept.
        model: A saved parser; the shipped one, for street scenes, by default.
        overlay: Write the labels' colours over the image, with a legend below it, too.
        panel: Write the image, the labels after each stage and the changed pixels side by side, too.
        probabilities: Write the probability of every class, too.
        ids: Label maps hold this benchmark's official ids, for its tools and servers, in place of class indices.
        scales: Take the mean of what the model says of the image at each of these scales.
        flip: And of its mirror image.
        tile: Images larger than so many pixels a side are parsed in tiles of it, which give no probabilities.
            Without it those of more than 4 million pixels are, in tiles of 1024; install rectiseg[large] for them.
        json_file: Where to write, as JSON, every image with its label map or with what is wrong with it.
        device: cpu, cuda, ...
    """
    from rectiseg.data.submissions import refuse_other_classes
    from rectiseg.inference import Wanted, names_and_colors
    from rectiseg.jobs import plan
    from rectiseg.models.checkpoint import load_parser
    from rectiseg.models.exported import OPENERS
    from rectiseg.prediction import predict_files
    from rectiseg.progress import ProgressReporter

    if ids == "cityscapes" and (overlay or panel):
        raise ValueError(
            "--ids cityscapes: the official tool takes every PNG of an image's name for its label map; "
            "write overlays and panels in a run of their own"
        )
    jobs = plan(images, output)
    place = device_named(device)
    parser = load_parser(model).to(place)
    classes, palette = names_and_colors(parser)
    if ids is not None:
        refuse_other_classes(len(classes), ids)
    with ProgressReporter() as reporter:
        if model is None or model.suffix not in OPENERS:
            reporter.say(choices_on(place))
        reporter.stage("predict", len(jobs))
        failures = predict_files(
            fused(parser, scales, flip),
            jobs,
            classes,
            palette,
            Wanted(overlay, panel, probabilities, ids),
            reporter,
            tile,
        )
    return ended(jobs, failures, json_file)
