"""`rectiseg batch`: parse, refine or measure images by the million, on one machine or many."""

import sys
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional, arg

from rectiseg.commands.options import OptionalPath, device_named, fused

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

    from rectiseg.batch.items import Item
    from rectiseg.batch.worker import Task
    from rectiseg.inference import Wanted
    from rectiseg.refinement import FileRefiner


def batch(
    images: Positional[str],
    output: Annotated[str, arg(aliases=["-o"], metavar="PLACE")],
    predictions: Annotated[str | None, arg(metavar="PLACE", help_behavior_hint="")] = None,
    truth: Annotated[str | None, arg(metavar="PLACE", help_behavior_hint="")] = None,
    model: OptionalPath = None,
    overlay: bool = False,
    panel: bool = False,
    probabilities: bool = False,
    scales: tuple[float, ...] = (1.0,),
    flip: bool = False,
    device: Literal["cpu", "cuda"] = "cpu",
    workers: Annotated[int | None, arg(metavar="N", help_behavior_hint="")] = None,
    batch_size: int = 1,
    ray_address: Annotated[str | None, arg(metavar="ADDRESS", help_behavior_hint="")] = None,
    manifest: OptionalPath = None,
) -> int:
    """Parse, refine or measure very many images on all processors of a machine or of a Ray cluster.

    What `rectiseg predict` writes is written, or with --predictions what `rectiseg refine` writes; with --truth it is
    measured, too. A manifest has a line of JSON for every image, with its result or what is wrong with it. The same
    command goes on after a stop.
    Exit status: 0 all done, 1 some failed, 2 refused.

    Example: rectiseg batch photos -o labels

    Args:
        images: A folder, a glob in quotes, a list (.txt) with a path a line, or an address, s3://bucket/photos.
        output: The folder, or address, for the results; the images' tree is kept.
        predictions: What another model said of the images, to be refined: a folder, or address, of the same tree.
        truth: True labels to measure by, PNGs of class indices: a folder, or address, of the same tree.
        model: A saved parser, or with --predictions a refiner, at the same path on every node; by default the shipped
            one.
        overlay: Write the labels' colours over the image, with a legend below it, too.
        panel: Write the image, the labels after each stage and the changed pixels side by side, too.
        probabilities: Write the probability of every class, too.
        scales: Take the mean of what the parser says of the image at each of these scales.
        flip: And of its mirror image.
        device: What each worker computes on.
        workers: How many; by default one for each GPU or processor.
        batch_size: So many images of equal size pass through the front together; 1 gives the bytes that predict gives.
        ray_address: A running cluster's, such as auto or ray://head:10001; by default one is started here.
        manifest: The manifest's file; OUTPUT/manifest.jsonl by default.
    """
    from rectiseg.batch.items import claim, plan
    from rectiseg.batch.manifest import counted, remaining
    from rectiseg.batch.places import absolute, is_remote
    from rectiseg.data.files import alone_at
    from rectiseg.inference import Wanted
    from rectiseg.models.checkpoint import file_of

    if batch_size < 1 or (workers is not None and workers < 1):
        raise ValueError("--batch-size and --workers count from 1")
    if predictions is not None and (scales != (1.0,) or flip or batch_size > 1):
        raise ValueError("--scales, --flip and --batch-size are a parser's; leave them out with --predictions")
    if manifest is None and is_remote(output):
        raise ValueError(f"{output}: lines cannot be appended there; name a file on this machine with --manifest")
    items = plan(images, output, predictions, truth)
    model = None if model is None else file_of(model).absolute()
    wanted = Wanted(overlay, panel, probabilities)
    if predictions is None:
        task = parsing(model, scales, flip, device, wanted, batch_size)
    else:
        task = refining(model, device, wanted)
    if truth is not None and not task.num_classes:
        raise ValueError("--truth needs a refiner that knows how many classes there are: name one with --model")
    settings = {
        "model": task.source,
        "predictions": None if predictions is None else absolute(predictions),
        "truth": None if truth is None else absolute(truth),
        "scales": scales,
        "flip": flip,
        "batch_size": batch_size,
        **asdict(wanted),
    }
    lines = manifest or Path(output, "manifest.jsonl")
    lines.parent.mkdir(parents=True, exist_ok=True)
    with alone_at(lines, "wait for it, or choose another output"):
        todo = remaining(lines, items, absolute(output), claim(output, settings), task.model)
        status = done(todo, len(items), lines, task, workers, on_gpu=device == "cuda", ray_address=ray_address)
        if truth is not None:
            print_scores(counted(lines, items, task.num_classes), task.naming(task.num_classes)[0])
    return status


def print_scores(counts: "np.ndarray", classes: "Sequence[str]") -> None:
    """What all images together are worth."""
    import torch
    from rich.console import Console

    from rectiseg.evaluate import as_table
    from rectiseg.metrics import scores_of

    Console().print(as_table({"all images": scores_of(torch.from_numpy(counts))}, classes))


def done(
    todo: "Sequence[Item]",
    total: int,
    lines: Path,
    task: "Task",
    workers: int | None,
    on_gpu: bool,
    ray_address: str | None,
) -> int:
    """Do what is to be done, with a line for each; returns the exit status."""
    from rectiseg.batch.manifest import append
    from rectiseg.batch.pool import Pool, cluster
    from rectiseg.progress import ProgressReporter

    failed = 0
    if not todo:
        return 0
    with cluster(ray_address), lines.open("a", encoding="utf-8", buffering=1) as file, ProgressReporter() as reporter:
        reporter.stage("batch", total)
        reporter.step(total - len(todo))
        for record in Pool(task, workers, on_gpu).results(todo):
            append(file, record)
            reporter.advance()
            if record.error is not None:
                failed += 1
                print(f"rectiseg: {record.error}", file=sys.stderr)
    return 1 if failed else 0


def parsing(
    model: Path | None, scales: tuple[float, ...], flip: bool, device: str, wanted: "Wanted", batch_size: int
) -> "Task":
    """What `rectiseg predict` does."""
    from rectiseg.batch.worker import Task
    from rectiseg.inference import names_and_colors
    from rectiseg.models.checkpoint import load_parser

    parser = load_parser(model)
    known = names_and_colors(parser)
    load = partial(load_fused, model, scales, flip, device)
    return Task(load, source_of(parser, model), lambda _: known, wanted, batch_size, len(known[0]))


def refining(model: Path | None, device: str, wanted: "Wanted") -> "Task":
    """What `rectiseg refine` does."""
    from rectiseg.batch.worker import Task
    from rectiseg.refinement import numbered

    load = partial(load_file_refiner, model, wanted.probabilities)
    refiner = load("cpu")
    source = source_of(refiner.refiner, model)
    return Task(partial(load, device), source, numbered, wanted, batch_size=1, num_classes=refiner.num_classes or 0)


def load_fused(model: Path | None, scales: tuple[float, ...], flip: bool, device: str) -> "nn.Module":
    """The parser that a worker answers with."""
    from rectiseg.models.checkpoint import load_parser

    return fused(load_parser(model).to(device_named(device)), scales, flip)


def load_file_refiner(model: Path | None, confidences: bool, device: str) -> "FileRefiner":
    """What a worker answers with where it refines."""
    from rectiseg.models.checkpoint import load_refiner
    from rectiseg.refinement import FileRefiner, default_refiner

    place = device_named(device)
    network = default_refiner(place) if model is None else load_refiner(model).to(place)
    return FileRefiner(network, confidences=confidences)


def source_of(model: "nn.Module", path: Path | None) -> str:
    """Its title and fingerprint; of an exported model, whose weights cannot be looked at, the file's."""
    from rectiseg.data.files import digest_of
    from rectiseg.models.checkpoint import identity
    from rectiseg.models.exported import OPENERS

    if path is None or path.suffix not in OPENERS:
        return identity(model)
    return f"{path.name} {digest_of(path)}"
