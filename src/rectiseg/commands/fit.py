"""`rectiseg fit`: a refiner for the user's own model."""

import json
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import arg

from rectiseg.commands.options import JsonFile, OptionalPath, Output, write_json


def fit(
    images: Path,
    labels: Path,
    predictions: Path,
    output: Output,
    kind: Literal["lrn", "grn", "both"] = "lrn",
    steps: int = 1000,
    seed: int = 0,
    classes: OptionalPath = None,
    values: Annotated[Literal["logits", "probabilities", "labels"] | None, arg(help_behavior_hint="")] = None,
    json_file: JsonFile = None,
) -> int:
    """Fit a refiner to what your model predicted, and keep it only if it does better on images that were held back.

    Have the model predict images that it was not trained on: of those it is surer than it will ever be again. A quarter
    of them is held back. Unless the refiner's gain in mean IoU there is above zero with its whole 90 % interval, the
    file that is saved returns what it is given. The same command goes on where it was stopped; what it needs for that
    lies in a folder beside the file, OUTPUT_training.

    Example: rectiseg fit --images images --labels labels --predictions predictions -o refiner.safetensors

    Args:
        images: A folder of images.
        labels: A folder of label maps with the images' names: PNGs of class indices, 255 where nobody annotated.
        predictions: A folder of what the model predicted: files as `rectiseg refine` reads them.
        output: The refiner's file; `rectiseg refine --refiner` takes it.
        kind: Which refiner; both, a GRN and an LRN after it, takes about five times as long.
        steps: How long each trains.
        seed: Decides weights, order and crops.
        classes: A classes.json with the classes' names and colours, in the order of the labels.
        values: What the predictions hold; by default it is told from the numbers.
        json_file: Where to write the scores before and after, the gain and its interval as JSON.
    """
    from rich.console import Console

    from rectiseg.data.predicted import open_predicted
    from rectiseg.evaluate import as_json, as_table
    from rectiseg.fit import fit as fit_refiner
    from rectiseg.machine import machine
    from rectiseg.models.checkpoint import save
    from rectiseg.progress import ProgressReporter

    if output.suffix != ".safetensors":
        raise ValueError(f"{output}: a refiner is a .safetensors file; end the name so")
    predicted = open_predicted(images, labels, predictions, classes, values)
    output.parent.mkdir(parents=True, exist_ok=True)
    with ProgressReporter() as reporter:
        fitted = fit_refiner(predicted, output.with_name(f"{output.stem}_training"), kind, steps, seed, reporter)
    before, after = fitted.scores
    names = predicted.dataset.classes
    console = Console()
    console.print(as_table({"before": before, "after": after}, names))
    about = {"kind": kind, "steps": str(steps), "seed": str(seed), "classes": json.dumps(names), "machine": machine()}
    save(fitted.kept, output, about | {"gain": fitted.sentence})
    if json_file is not None:
        gain = {"mean_iou": fitted.gain.value, "low": fitted.gain.low, "high": fitted.gain.high}
        rows = as_json({"before": before, "after": after}, names)
        write_json(json_file, {**rows, "gain": gain, "kept": fitted.passed})
    for sentence in fitted.worse(names):
        print(sentence)
    print(fitted.sentence)
    print(f"{output}: {'the fitted refiner' if fitted.passed else 'returns what it is given'}")
    return 0
