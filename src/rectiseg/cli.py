"""The command `rectiseg`. Exit status: 0 all done, 1 some inputs failed, 2 refused."""

import json
import shlex
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from tyro.conf import Positional, arg

if TYPE_CHECKING:
    from rectiseg.models.combine import SceneParser
    from rectiseg.models.fusion import MultiScale

# What a command needs is imported in it, so that --help answers at once.

DatasetChoice = Literal["camvid", "folder", "scenes", "cityscapes", "ade20k"]
EncoderChoice = Literal[
    "lite0", "lite1", "lite2", "resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnet200"
]
Output = Annotated[Path, arg(aliases=["-o"])]
OptionalPath = Annotated[Path | None, arg(metavar="PATH", help_behavior_hint="")]
StageChoice = Literal["front", "lrn_alone", "grn", "lrn", "context", "grn_last", "grn_iterated"]
RecipeName = Literal["camvid_lite", "camvid_best", "camvid_paper", "scenes_tiny", "ade20k_paper", "cityscapes_paper"]


def main() -> None:
    """Run the command line and leave with its status."""
    commands: dict[str, Callable[..., int]] = {
        "predict": predict,
        "evaluate": evaluate,
        "train": train,
        "confidences": confidences,
        "table2": table2,
    }
    try:
        status = tyro.extras.subcommand_cli_from_dict(
            commands, prog="rectiseg", description="Rectify scene parsing: GRN and LRN after any parser."
        )
    except (ValueError, OSError) as error:  # what a user can mend: an argument, a file, a folder, a full disk
        print(f"rectiseg: {error}", file=sys.stderr)
        status = 2
    sys.exit(status)


def train(
    recipe: Positional[RecipeName],
    dataset: Annotated[DatasetChoice | None, arg(help_behavior_hint="")] = None,
    data: OptionalPath = None,
    output: Annotated[Path | None, arg(aliases=["-o"], metavar="PATH", help_behavior_hint="")] = None,
    stages: tuple[StageChoice, ...] = ("front", "lrn_alone", "grn", "lrn"),
    seed: int = 0,
    refiner_seed: Annotated[int | None, arg(help_behavior_hint="")] = None,
    encoder: Annotated[EncoderChoice | None, arg(help_behavior_hint="")] = None,
    encoder_weights: Annotated[Literal["random"] | Path | None, arg(metavar="PATH", help_behavior_hint="")] = None,
    confidences: OptionalPath = None,
    grn_weights: OptionalPath = None,
    save_memory: bool = False,
) -> int:
    """Train a front, then GRN, then LRN. The same command goes on where it was stopped.

    Example: rectiseg train camvid_lite --data CamVid -o runs/camvid_lite

    Args:
        recipe: The experiment; src/rectiseg/recipes.py has its settings.
        dataset: The reader of the data set; the recipe's by default.
        data: The data set's folder (generated scenes need none).
        output: Where weights, curves and stored confidences go; runs/RECIPE by default.
        stages: What to train; stages before them are taken from the folder or trained too.
        seed: Decides weights, order and crops.
        refiner_seed: Another seed for all stages after the front, whose results lie beside the first's.
        encoder: Another encoder than the recipe's (section 4.2's ensemble has ResNet-101, -152 and -200).
        encoder_weights: Its pretrained weights, .pth or .safetensors, which a ResNet needs; "random": none.
        confidences: Train only refiners, after any parser: `rectiseg confidences` stored what it says in train/ and
            val/ here.
        grn_weights: A saved GRN, or a parser with one, that GRN's training goes on from.
        save_memory: Take a batch image by image and compute activations twice instead of keeping them.
    """
    from rectiseg.progress import ProgressReporter
    from rectiseg.recipes import RECIPES
    from rectiseg.train import Training

    with ProgressReporter() as reporter:
        settings = RECIPES[recipe]()
        settings = settings if dataset is None else replace(settings, dataset=dataset)
        settings = settings if encoder is None else replace(settings, encoder=encoder)
        training = Training(
            settings,
            data,
            output or Path("runs", recipe),
            seed,
            encoder_weights,
            reporter,
            save_memory,
            refiner_seed,
            confidences,
            grn_weights,
        )
        training.run(stages)
    return 0


def evaluate(
    model: Positional[OptionalPath] = None,
    /,
    dataset: DatasetChoice = "camvid",
    data: OptionalPath = None,
    split: Literal["train", "val"] = "val",
    refiner: Annotated[tuple[Path, ...], arg(help_behavior_hint="")] = (),
    scales: tuple[float, ...] = (1.0,),
    flip: bool = False,
    boundaries: bool = False,
    json_file: Annotated[Path | None, arg(name="json", metavar="PATH", help_behavior_hint="")] = None,
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
        json_file: Where to write the scores as JSON.
        device: cpu, cuda, ...
    """
    from rich.console import Console

    from rectiseg.data.files import atomic_path
    from rectiseg.data.registry import open_dataset
    from rectiseg.evaluate import as_json, as_table, boundary_measures, evaluate_parser
    from rectiseg.models.checkpoint import load_parser, load_refiner
    from rectiseg.progress import ProgressReporter

    samples = open_dataset(dataset, data, split)
    parser = load_parser(model).to(device_named(device))
    refiners = {path.stem: load_refiner(path).to(device) for path in refiner}
    if json_file is not None:
        json_file.parent.mkdir(parents=True, exist_ok=True)
    with ProgressReporter() as reporter:
        further = boundary_measures(len(samples.classes)) if boundaries else {}
        rows = evaluate_parser(fused(parser, scales, flip), refiners, samples, reporter, further)
    Console().print(as_table(rows, samples.classes))
    if json_file is not None:
        with atomic_path(json_file) as path:
            path.write_text(json.dumps(as_json(rows, samples.classes), indent=2) + "\n", encoding="utf-8")
    return 0


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
    device: str = "cpu",
) -> int:
    """Parse images and rectify the result. Every image gets a label map of its size, a PNG of class indices.

    Example: rectiseg predict photo.jpg holiday/ -o labels --panel

    Args:
        images: Image files, and folders that are searched for them: JPEG, PNG, TIFF, WebP.
        output: The folder for the results; the tree below a given folder is kept.
        model: A saved parser; the shipped one, for street scenes, by default.
        overlay: Write the labels' colours over the image, too.
        panel: Write the image, the labels after each stage and the changed pixels side by side, too.
        probabilities: Write the probability of every class, too.
        ids: Label maps hold this benchmark's official ids, for its tools and servers, in place of class indices.
        scales: Take the mean of what the model says of the image at each of these scales.
        flip: And of its mirror image.
        device: cpu, cuda, ...
    """
    from rectiseg.data.submissions import refuse_other_classes
    from rectiseg.inference import names_and_colors, plan, predict_files
    from rectiseg.models.checkpoint import load_parser
    from rectiseg.progress import ProgressReporter

    if ids == "cityscapes" and (overlay or panel):
        raise ValueError(
            "--ids cityscapes: the official tool takes every PNG of an image's name for its label map; "
            "write overlays and panels in a run of their own"
        )
    jobs = plan(images, output)
    parser = load_parser(model).to(device_named(device))
    classes, palette = names_and_colors(parser)
    if ids is not None:
        refuse_other_classes(len(classes), ids)
    with ProgressReporter() as reporter:
        reporter.stage("predict", len(jobs))
        failures = predict_files(
            fused(parser, scales, flip),
            jobs,
            classes,
            palette,
            overlay=overlay,
            panel=panel,
            probabilities=probabilities,
            ids=ids,
            on_image=reporter.advance,
        )
    for failure in failures:
        print(f"rectiseg: {failure.sentence}", file=sys.stderr)
    return 1 if failures else 0


def confidences(
    output: Output,
    model: OptionalPath = None,
    dataset: DatasetChoice = "camvid",
    data: OptionalPath = None,
    split: Literal["train", "val"] = "train",
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

    from rectiseg.data.confidences import View, store_confidences
    from rectiseg.data.registry import open_dataset
    from rectiseg.evaluate import check_classes
    from rectiseg.models.checkpoint import identity, load_parser
    from rectiseg.progress import ProgressReporter

    samples = open_dataset(dataset, data, split)
    parser = load_parser(model).to(device_named(device))
    check_classes(parser, samples)
    front = parser.front
    views = [View(scale, mirrored) for scale in scales for mirrored in ((False, True) if flip else (False,))]
    with ProgressReporter() as reporter, torch.inference_mode():
        reporter.stage("confidences", len(samples))
        store_confidences(front, samples, output, views, identity(front), device, reporter.advance)
    return 0


def table2(
    recipe: Positional[RecipeName] = "camvid_lite",
    /,
    data: OptionalPath = None,
    output: Annotated[Path | None, arg(aliases=["-o"], metavar="PATH", help_behavior_hint="")] = None,
    confidences: OptionalPath = None,
    grn_weights: OptionalPath = None,
    seeds: tuple[int, ...] = (0,),
    grn_seeds: tuple[int, ...] = (0,),
    drives: bool = True,
    crf: bool = True,
    iterated: bool = True,
    ensemble: Annotated[tuple[Path, ...], arg(help_behavior_hint="")] = (),
) -> int:
    """Print the paper's Table 2: what each refiner is worth after the recipe's front, with 95 % intervals.

    What is not trained yet is trained, and nothing is measured twice: the same command goes on where it was stopped.

    Example: rectiseg table2 camvid_lite --data CamVid --seeds 0 1 2 --grn-seeds 0 1

    Args:
        recipe: The experiment whose front and refiners are compared on its val images.
        data: The data set's folder (generated scenes need none).
        output: The training's folder; runs/RECIPE by default.
        confidences: Compare refiners after another parser, which `rectiseg confidences` stored in train/ and val/ here.
        grn_weights: A saved GRN, or a parser with one, that GRN's training goes on from.
        seeds: Of LRN and MS-Dilation; the front's is the first.
        grn_seeds: Of GRN and what goes with it.
        drives: Print a second table, measured on each drive of the data set after training on the others.
        crf: Compare with a fully connected CRF, too, tuned on training images.
        iterated: Read a GRN that is trained for three iterations after each of them, too.
        ensemble: Saved parsers that speak together with the first cascade in the last row.
    """
    from rectiseg.progress import ProgressReporter
    from rectiseg.recipes import RECIPES
    from rectiseg.table2 import Rows, page
    from rectiseg.train import Training

    if not seeds or not grn_seeds:
        raise ValueError("a table takes one seed or more: name them after --seeds and --grn-seeds")
    folder = output or Path("runs", recipe)
    with ProgressReporter() as reporter:

        def trainings(refiner_seeds: tuple[int, ...]) -> list[Training]:
            return [
                Training(
                    RECIPES[recipe](),
                    data,
                    folder,
                    seeds[0],
                    None,
                    reporter,
                    refiner_seed=seed,
                    confidences=confidences,
                    grn_weights=grn_weights,
                )
                for seed in refiner_seeds
            ]

        rows = Rows(trainings(seeds), trainings(grn_seeds), crf, iterated, ensemble)
        text = page(rows, shlex.join(["rectiseg", *sys.argv[1:]]), drives)
    print(text)
    return 0


def fused(parser: "SceneParser", scales: tuple[float, ...], flip: bool) -> "SceneParser | MultiScale":
    """The parser, or several of its views of the image in one."""
    from rectiseg.models.fusion import MultiScale

    return parser if scales == (1.0,) and not flip else MultiScale(parser, scales, flip).eval()


def device_named(name: str) -> str:
    """The name, if tensors can be made there."""
    import torch

    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:  # torch asserts that it was built with CUDA
        reason = str(error).splitlines()[0].rstrip(".")
        raise ValueError(f"--device {name} cannot be used here ({reason}): choose another, such as cpu") from error
    return name
