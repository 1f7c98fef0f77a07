"""`rectiseg table2`: what each refiner is worth."""

import shlex
import sys
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from rectiseg.commands.options import (
    EncoderWeights,
    JsonFile,
    OptionalDataset,
    OptionalEncoder,
    OptionalOutput,
    OptionalPath,
    RecipeName,
    recipe_of,
    write_json,
)


def table2(
    recipe: Positional[RecipeName] = "camvid_lite",
    /,
    dataset: OptionalDataset = None,
    data: OptionalPath = None,
    output: OptionalOutput = None,
    encoder: OptionalEncoder = None,
    encoder_weights: EncoderWeights = None,
    confidences: OptionalPath = None,
    grn_weights: OptionalPath = None,
    seeds: tuple[int, ...] = (0,),
    grn_seeds: tuple[int, ...] = (0,),
    measured: OptionalPath = None,
    train: bool = True,
    drives: bool = True,
    crf: bool = True,
    iterated: bool = True,
    save_memory: bool = False,
    ensemble: Annotated[tuple[Path, ...], arg(help_behavior_hint="")] = (),
    json_file: JsonFile = None,
) -> int:
    """Print the paper's Table 2: what each refiner is worth after the recipe's front, with 95 % intervals.

    What is not trained yet is trained, and nothing is measured twice: the same command goes on where it was stopped,
    and prints the table from its records alone where the weights are gone.

    Example: rectiseg table2 camvid_lite --data CamVid --seeds 0 1 2 --grn-seeds 0 1

    Args:
        recipe: The experiment whose front and refiners are compared on its val images.
        dataset: The reader of the data set; the recipe's by default.
        data: The data set's folder (generated scenes need none).
        output: The training's folder; runs/RECIPE by default.
        encoder: Another encoder than the recipe's.
        encoder_weights: Its pretrained weights, .pth or .safetensors, which a ResNet needs; "random": none.
        confidences: Compare refiners after another parser, which `rectiseg confidences` stored in train/ and val/ here.
        grn_weights: A saved GRN, or a parser with one, that GRN's training goes on from.
        seeds: Of LRN and MS-Dilation; the front's is the first.
        grn_seeds: Of GRN and what goes with it.
        measured: The folder of the records of what was measured; OUTPUT/table2 by default.
        train: Train what is missing; without, rows that are neither measured nor trained are named.
        drives: Print a second table, measured on each drive of the data set after training on the others.
        crf: Compare with a fully connected CRF, too, tuned on training images.
        iterated: Read a GRN that is trained for three iterations after each of them, too.
        save_memory: Take a batch image by image and compute activations twice instead of keeping them.
        ensemble: Saved parsers that speak together with the first cascade in the last row.
        json_file: Where to write the tables' figures as JSON, too.
    """
    from rectiseg.progress import ProgressReporter
    from rectiseg.table2 import as_json, as_page, measure_all
    from rectiseg.table2_rows import Rows
    from rectiseg.train import Training

    if not seeds or not grn_seeds:
        raise ValueError("a table takes one seed or more: name them after --seeds and --grn-seeds")
    folder = output or Path("runs", recipe)
    with ProgressReporter() as reporter:

        def trainings(refiner_seeds: tuple[int, ...]) -> list[Training]:
            return [
                Training(
                    recipe_of(recipe, dataset, encoder),
                    data,
                    folder,
                    seeds[0],
                    encoder_weights,
                    reporter,
                    save_memory,
                    refiner_seed=seed,
                    confidences=confidences,
                    grn_weights=grn_weights,
                )
                for seed in refiner_seeds
            ]

        rows = Rows(trainings(seeds), trainings(grn_seeds), crf, iterated, ensemble)
        found = measure_all(rows, drives, measured or folder / "table2", train)
    print(as_page(found, shlex.join(["rectiseg", *sys.argv[1:]])))
    if json_file is not None:
        write_json(json_file, as_json(found))
    return 0
