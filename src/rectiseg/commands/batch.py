"""`rectiseg batch`: parse images by the million, on one machine or many."""

import hashlib
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from rectiseg.commands.options import OptionalPath, device_named, fused

if TYPE_CHECKING:
    from torch import nn

    from rectiseg.models.combine import SceneParser


def batch(
    images: Positional[str],
    output: Annotated[str, arg(aliases=["-o"], metavar="PLACE")],
    model: OptionalPath = None,
    overlay: bool = False,
    panel: bool = False,
    probabilities: bool = False,
    scales: tuple[float, ...] = (1.0,),
    flip: bool = False,
    device: str = "cpu",
    workers: Annotated[int | None, arg(metavar="N", help_behavior_hint="")] = None,
    batch_size: int = 1,
    ray_address: Annotated[str | None, arg(metavar="ADDRESS", help_behavior_hint="")] = None,
    manifest: OptionalPath = None,
) -> int:
    """Parse very many images on all processors of a machine or of a Ray cluster. The same command goes on after a stop.

    What `rectiseg predict` writes is written; a manifest has a line of JSON for every image, with its result or what is
    wrong with it. Exit status: 0 all done, 1 some failed, 2 refused.

    Example: rectiseg batch photos -o labels

    Args:
        images: A folder, a glob in quotes, a list (.txt) with a path a line, or an address, s3://bucket/photos.
        output: The folder, or address, for the results; the images' tree is kept.
        model: A saved parser, at the same path on every node; the shipped one by default.
        overlay: Write the labels' colours over the image, too.
        panel: Write the image, the labels after each stage and the changed pixels side by side, too.
        probabilities: Write the probability of every class, too.
        scales: Take the mean of what the model says of the image at each of these scales.
        flip: And of its mirror image.
        device: What each worker computes on: cpu, or cuda.
        workers: How many; by default one for each GPU or processor.
        batch_size: So many images of equal size pass through the front together; 1 gives the bytes that predict gives.
        ray_address: A running cluster's, such as auto or ray://head:10001; by default one is started here.
        manifest: The manifest's file; OUTPUT/manifest.jsonl by default.
    """
    from rectiseg.batch.items import claim, plan
    from rectiseg.batch.manifest import remaining
    from rectiseg.batch.places import is_remote
    from rectiseg.batch.pool import Pool, cluster
    from rectiseg.batch.worker import Task
    from rectiseg.inference import Wanted, names_and_colors
    from rectiseg.models.checkpoint import load_parser
    from rectiseg.progress import ProgressReporter

    if batch_size < 1 or (workers is not None and workers < 1):
        raise ValueError("--batch-size and --workers count from 1")
    if manifest is None and is_remote(output):
        raise ValueError(f"{output}: lines cannot be appended there; name a file on this machine with --manifest")
    lines = manifest or Path(output, "manifest.jsonl")
    items = plan(images, output)
    parser = load_parser(model)
    source = model_identity(parser, model)
    wanted = Wanted(overlay, panel, probabilities)
    settings = {"model": source, "scales": scales, "flip": flip, "batch_size": batch_size, **asdict(wanted)}
    digest = source.rpartition(" ")[2]
    todo = remaining(lines, items, claim(output, settings), digest)
    path = None if model is None else model.absolute()
    task = Task(partial(load_fused, path, scales, flip, device), digest, *names_and_colors(parser), wanted, batch_size)
    failed = 0
    if not todo:
        return 0
    with cluster(ray_address), lines.open("a", encoding="utf-8", buffering=1) as file, ProgressReporter() as reporter:
        reporter.stage("batch", len(items))
        reporter.step(len(items) - len(todo))
        for record in Pool(task, workers, on_gpu=device != "cpu").results(todo):
            file.write(record.to_json())
            reporter.advance()
            if record.error is not None:
                failed += 1
                print(f"rectiseg: {record.error}", file=sys.stderr)
    return 1 if failed else 0


def load_fused(model: Path | None, scales: tuple[float, ...], flip: bool, device: str) -> "nn.Module":
    """The parser that a worker answers with."""
    from rectiseg.models.checkpoint import load_parser

    return fused(load_parser(model).to(device_named(device)), scales, flip)


def model_identity(parser: "SceneParser", path: Path | None) -> str:
    """Its title and fingerprint; of an exported model, whose weights cannot be looked at, the file's."""
    from rectiseg.models.checkpoint import identity
    from rectiseg.models.exported import OPENERS

    if path is None or path.suffix not in OPENERS:
        return identity(parser)
    with path.open("rb") as file:
        return f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()[:12]}"
