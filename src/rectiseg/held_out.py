"""A recipe's training without one of its drives, to be measured on that drive: how it does where it never was."""

from dataclasses import replace

from rectiseg.data.datasets import Dataset, Joined, Subset, drive_of, drives
from rectiseg.train import Training


class WithoutDrive(Training):
    """A whole training's recipe on the training images of all drives but one; its val is all images of that one.

    A GRN that the whole training starts from may know the drive: here GRN starts as the front's encoder. A training
    with fewer than two drives, with one image a drive, after stored confidences, or whose recipe does not say how such
    a front is trained, raises ValueError.
    """

    def __init__(self, whole: Training, drive: str):
        recipe = whole.recipe
        if whole.confidences is not None:
            raise ValueError("a parser whose confidences are stored cannot be trained without a drive: add --no-drives")
        if recipe.without_drive is None:
            raise ValueError(
                f"the recipe {recipe.name} does not say how a front is trained without a drive: add --no-drives"
            )
        super().__init__(
            replace(recipe, front=recipe.without_drive, without_drive=None),
            whole.data,
            whole.output / f"without_{drive}",
            whole.seed,
            whole.encoder_weights,
            whole.reporter,
            whole.save_memory,
            whole.refiner_seed,
        )
        train, val = whole.datasets["train"], whole.datasets["val"]
        unseen: list[Dataset] = [Subset(split, drives(split).get(drive, [])) for split in (train, val)]
        seen = [index for index, name in enumerate(train.names) if drive_of(name) != drive]
        if not seen:
            raise ValueError(
                f"all training images are of the drive {drive}: nothing is left to train on without it; add --no-drives"
            )
        if sum(map(len, unseen)) < 2:
            raise ValueError(f"the drive {drive}, a name up to its first underscore, has one image: add --no-drives")
        self.datasets = {"train": Subset(train, seen), "val": Joined(*unseen)}
