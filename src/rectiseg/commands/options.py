"""What several commands take, and how it is read."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import arg

if TYPE_CHECKING:
    from rectiseg.models.combine import SceneParser
    from rectiseg.models.fusion import MultiScale
    from rectiseg.recipes import Recipe

DatasetChoice = Literal["camvid", "folder", "scenes", "cityscapes", "ade20k"]
EncoderChoice = Literal[
    "lite0", "lite1", "lite2", "resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnet200"
]
Output = Annotated[Path, arg(aliases=["-o"])]
OptionalOutput = Annotated[Path | None, arg(aliases=["-o"], metavar="PATH", help_behavior_hint="")]
EncoderWeights = Annotated[Literal["random"] | Path | None, arg(metavar="PATH", help_behavior_hint="")]
OptionalPath = Annotated[Path | None, arg(metavar="PATH", help_behavior_hint="")]
OptionalDataset = Annotated[DatasetChoice | None, arg(help_behavior_hint="")]
OptionalEncoder = Annotated[EncoderChoice | None, arg(help_behavior_hint="")]
StageChoice = Literal[
    "front", "grn", "lrn", "lrn_alone", "bilateral", "bilateral_alone", "context", "grn_last", "grn_iterated"
]
RecipeName = Literal["camvid_lite", "camvid_best", "camvid_paper", "scenes_tiny", "ade20k_paper", "cityscapes_paper"]


def recipe_of(name: RecipeName, dataset: DatasetChoice | None, encoder: EncoderChoice | None) -> "Recipe":
    """The experiment, where wanted with another data set or encoder."""
    from rectiseg.recipes import RECIPES

    recipe = RECIPES[name]()
    return replace(recipe, dataset=dataset or recipe.dataset, encoder=encoder or recipe.encoder)


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
