"""What several commands take, and how it is read."""

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import arg

from rectiseg.stage_names import StageName

if TYPE_CHECKING:
    from rectiseg.jobs import Failure, Job
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
JsonFile = Annotated[Path | None, arg(name="json", metavar="PATH", help_behavior_hint="")]
OptionalDataset = Annotated[DatasetChoice | None, arg(help_behavior_hint="")]
OptionalEncoder = Annotated[EncoderChoice | None, arg(help_behavior_hint="")]
StageChoice = StageName
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


def choices_on(device: str) -> str:
    """What our networks take there, as docs/benchmarks.md measures it."""
    import torch

    from rectiseg.ops.propagate import kernel_for

    kernel = kernel_for(torch.empty(1, 1, 1, 1, device=device))
    layout = "channels_last" if device == "cpu" else "the images' layout"
    return f"device {device}: LRN's sums by the {kernel} kernel; float32, convolutions in {layout}"


def write_json(path: Path, content: Any) -> None:
    from rectiseg.data.files import atomic_path

    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def ended(jobs: "Sequence[Job | Failure]", failures: "Sequence[Failure]", json_file: Path | None) -> int:
    """Say what has no result, and where wanted write down what became of every image; returns the exit status."""
    from rectiseg.jobs import Failure, Job

    failed = {failure.image for failure in failures}
    done = [job for job in jobs if isinstance(job, Job) and job.image not in failed]
    gone = [
        Failure(job.image, f"{job.labels}: was written, and then removed") for job in done if not job.labels.exists()
    ]
    failures = [*failures, *gone]
    for failure in failures:
        print(f"rectiseg: {failure.sentence}", file=sys.stderr)
    if json_file is not None:
        errors = {failure.image: failure.sentence for failure in failures}
        results = {job.image: str(job.labels) for job in jobs if isinstance(job, Job) and job.image not in errors}
        images = [
            {"image": str(job.image), "labels": results.get(job.image), "error": errors.get(job.image)} for job in jobs
        ]
        write_json(json_file, images)
    return 1 if failures else 0
