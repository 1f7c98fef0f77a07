"""`rectiseg train`: the stages of a recipe."""

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from rectiseg.commands.options import (
    EncoderWeights,
    OptionalDataset,
    OptionalEncoder,
    OptionalOutput,
    OptionalPath,
    RecipeName,
    StageChoice,
    recipe_of,
)


def train(
    recipe: Positional[RecipeName],
    dataset: OptionalDataset = None,
    data: OptionalPath = None,
    output: OptionalOutput = None,
    stages: Annotated[tuple[StageChoice, ...], arg(help_behavior_hint="")] = (),
    seed: int = 0,
    refiner_seed: Annotated[int | None, arg(help_behavior_hint="")] = None,
    encoder: OptionalEncoder = None,
    encoder_weights: EncoderWeights = None,
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
        output: Where weights, curves (.csv, and .png at the end) and stored confidences go; runs/RECIPE by default.
        stages: What to train, by default front, GRN and the recipe's LRN, the latter also after the front directly;
            stages before them are taken from the folder or trained too.
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
    from rectiseg.report.figures import plot_trainings
    from rectiseg.train import Training

    with ProgressReporter() as reporter:
        training = Training(
            recipe_of(recipe, dataset, encoder),
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
    if training.accelerator.is_main_process:
        plot_trainings(training.output)
    return 0
