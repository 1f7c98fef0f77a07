"""`rectiseg confidences`: store what a front says."""

from typing import Literal

from rectiseg.commands.options import DatasetChoice, OptionalPath, Output, device_named


def confidences(
    output: Output,
    model: OptionalPath = None,
    dataset: DatasetChoice = "camvid",
    data: OptionalPath = None,
    split: Literal["train", "val", "test"] = "train",
    scales: tuple[float, ...] = (1.0,),
    flip: bool = True,
    device: str = "cpu",
) -> int:
    """Store what a model's front says of a data set, so that refiners train without running it.

    Example: rectiseg confidences --data CamVid -o confidences/train

    Args:
        output: The store's folder.
        model: A saved parser, whose front is run; the shipped one by default.
        dataset: The reader of the data set.
        data: The data set's folder (generated scenes need none).
        split: Which part of it.
        scales: Sizes at which the front sees each image.
        flip: Store what it says of each mirrored image, too.
        device: cpu, cuda, ...
    """
    import torch
    from torch import nn

    from rectiseg.data.confidences import View, store_confidences
    from rectiseg.data.registry import open_dataset
    from rectiseg.evaluate import check_classes
    from rectiseg.models.checkpoint import identity, load_parser
    from rectiseg.progress import ProgressReporter

    samples = open_dataset(dataset, data, split)
    parser = load_parser(model).to(device_named(device))
    check_classes(parser, samples)
    front = parser.front
    assert isinstance(front, nn.Module)  # what was saved is one
    views = [View(scale, mirrored) for scale in scales for mirrored in ((False, True) if flip else (False,))]
    with ProgressReporter() as reporter, torch.inference_mode():
        reporter.stage("confidences", len(samples))
        store_confidences(front, samples, output, views, identity(front), device, reporter.advance)
    return 0
