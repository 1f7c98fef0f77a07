"""`rectiseg refine`: mend what another model predicted."""

from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from rectiseg.commands.options import JsonFile, OptionalPath, Output, device_named, ended


def refine(
    images: Positional[Path],
    predictions: Positional[Path],
    output: Output,
    refiner: OptionalPath = None,
    values: Annotated[Literal["logits", "probabilities", "labels"] | None, arg(help_behavior_hint="")] = None,
    classes: OptionalPath = None,
    overlay: bool = False,
    panel: bool = False,
    probabilities: bool = False,
    json_file: JsonFile = None,
    device: str = "cpu",
) -> int:
    """Refine what another model predicted. Every image gets a label map of its size, a PNG of class indices.

    Example: rectiseg refine photos/ predictions/ -o refined --panel

    Args:
        images: An image file, or a folder that is searched for images.
        predictions: What the model said of it, or a folder of that: files of the images' names, .npy, .npz or
            .safetensors with (classes, height, width) logits or probabilities, of the image's size or smaller, or
            label maps as PNG.
        output: The folder for the results; the images' tree is kept.
        refiner: A saved refiner, or a parser whose refiner is taken; by default an LRN that follows any model.
        values: What the files hold; by default it is told from the numbers, and said.
        classes: A classes.json with the classes' names and colours, in the order of the labels.
        overlay: Write the labels' colours over the image, with a legend below it, too.
        panel: Write the image, the labels before and after, and the changed pixels side by side, too.
        probabilities: Write the probability of every class, too.
        json_file: Where to write, as JSON, every image with its label map or with what is wrong with it.
        device: cpu, cuda, ...
    """
    from rectiseg.data.datasets import read_classes
    from rectiseg.inference import Wanted
    from rectiseg.models.checkpoint import load_refiner
    from rectiseg.progress import ProgressReporter
    from rectiseg.refinement import FileRefiner, default_refiner, plan_refinement, refine_files

    names, palette = read_classes(classes) if classes is not None else ([], [])
    jobs = plan_refinement(images, predictions, output)
    place = device_named(device)
    network = default_refiner(place) if refiner is None else load_refiner(refiner).to(place)
    refine = FileRefiner(network, len(names) or None, values, probabilities)
    with ProgressReporter() as reporter:
        reporter.stage("refine", len(jobs))
        failures = refine_files(refine, jobs, names, palette, Wanted(overlay, panel, probabilities), reporter.advance)
    if refine.found:
        print(refine.summary)
    return ended(jobs, failures, json_file)
