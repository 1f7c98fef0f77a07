"""The three stages end to end: a small training on generated scenes, killed once in its middle and taken up again."""

import csv
import shutil
import signal
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from networks import random
from rectiseg.data.confidences import Confidences, View
from rectiseg.data.datasets import left_out
from rectiseg.data.registry import open_dataset
from rectiseg.data.scenes import SCENE_CLASSES, SCENE_PALETTE
from rectiseg.models.checkpoint import load, load_parser, read_training
from rectiseg.models.grn import GRN
from rectiseg.train import StageName, Training
from rectiseg.types import IGNORE_INDEX
from test_fit import write_scenes
from tiny_training import launch, small, smallest, training


def contents(folder: Path) -> dict[Path, bytes]:
    return {
        path: path.read_bytes() for suffix in ("safetensors", "csv", "json") for path in folder.rglob(f"*.{suffix}")
    }


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    killed = launch(1, "small", folder, "grn", 4)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    before = contents(folder)
    assert folder / "lrn_alone.safetensors" in before
    assert folder / "grn.safetensors" not in before
    training(folder).run()
    for path, content in before.items():
        assert path.parent.name == "grn" or path.read_bytes() == content, f"{path} was made again"
    return folder


def test_every_stage_and_the_whole_parser_are_there(trained: Path):
    stages = {"front", "grn", "lrn", "lrn_alone"}
    assert {path.stem for path in trained.glob("*.safetensors")} == {*stages, "parser"}
    for stage in stages:
        about = read_training(trained / f"{stage}.safetensors")
        assert (about["recipe"], about["dataset"], about["seed"]) == ("scenes_tiny", "scenes", "0")
        assert float(about[f"{stage}_seconds"]) >= 0


def test_the_killed_stage_wrote_every_step_once(trained: Path):
    with (trained / "grn" / "curves.csv").open(newline="") as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["1", "2", "3", "4", "5", "6"]


def test_the_killed_stage_ends_as_one_that_was_not(trained: Path, tmp_path: Path):
    shutil.copy(trained / "front.safetensors", tmp_path)
    shutil.copytree(trained / "confidences" / "front", tmp_path / "confidences" / "front")
    training(tmp_path).run(("grn",))
    resumed, uninterrupted = (load(folder / "grn.safetensors").state_dict() for folder in (trained, tmp_path))
    assert resumed.keys() == uninterrupted.keys()
    for name, value in uninterrupted.items():
        assert torch.equal(resumed[name], value), name


def test_a_second_call_changes_nothing(trained: Path):
    before = contents(trained)
    training(trained).run()
    assert contents(trained) == before


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


def test_weights_are_not_made_of_a_state_that_followed_something_else(tmp_path: Path):
    smallest(tmp_path).run(("lrn_alone",))
    for name in ("front", "lrn_alone"):
        (tmp_path / f"{name}.safetensors").unlink()
    shutil.rmtree(tmp_path / "front")
    shutil.rmtree(tmp_path / "confidences")
    made = smallest(tmp_path)
    made.recipe = replace(made.recipe, front=replace(made.recipe.front, clip=2.0))
    with pytest.raises(ValueError, match=f"{tmp_path / 'lrn_alone' / 'state.safetensors'}: saved by a run with other"):
        made.run(("lrn_alone",))


def test_what_an_encoder_starts_from_is_part_of_a_stage(tmp_path: Path):
    made = smallest(tmp_path)
    keys = []
    for weights in (None, "random", tmp_path / "resnet50.pth"):
        made.encoder_weights = weights
        (tmp_path / "resnet50.pth").write_bytes(b"weights")
        keys += [made.key(stage, []) for stage in ("front", "lrn")]
    assert len({*keys}) == 6


def test_images_that_are_both_train_and_val_are_refused(tmp_path: Path):
    write_scenes(tmp_path, 2, noise=0.0)
    (tmp_path / "classes.json").write_text('[{"name": "sky", "color": [0, 0, 0]}]')
    with pytest.raises(ValueError, match=r"00\.png: train and val would be the same images"):
        Training(replace(small(), dataset="folder"), tmp_path, tmp_path / "run")


def test_cross_fitted_refiners_learn_from_fronts_that_never_saw_the_image(tmp_path: Path):
    made = smallest(tmp_path)
    made.recipe = replace(made.recipe, folds=2)
    made.run(("grn", "lrn"))
    train, val = (made.datasets[split] for split in ("train", "val"))
    grn = load(tmp_path / "grn.safetensors")
    for name, refiner in (("front", None), ("grn", grn)):
        with torch.inference_mode():
            for fold, unseen in enumerate(left_out(len(train), 2)):
                said(
                    Confidences(train, tmp_path / "confidences" / name / "train"), f"front_fold{fold}", refiner, unseen
                )
            said(Confidences(val, tmp_path / "confidences" / name / "val"), "front", refiner, range(len(val)))


def said(stored: Confidences, front_name: str, refiner: nn.Module | None, indices: Iterable[int]) -> None:
    """These confidences are what that front said, and the refiner made of it."""
    front = load(stored.folder.parents[2] / f"{front_name}.safetensors")
    for index in indices:
        image, _, logits, _ = stored.read(index, View())
        expected = front(image[None])
        expected = expected if refiner is None else refiner(image[None], expected)
        torch.testing.assert_close(logits[None], expected, rtol=0, atol=2**-9 * float(expected.abs().max()))


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


def test_class_weights_that_a_stage_names_itself_are_used_without_balance(tmp_path: Path):
    made = smallest(tmp_path)
    made.recipe = replace(made.recipe, front=replace(made.recipe.front, class_weights=(0.0,) * len(SCENE_CLASSES)))
    made.run(("front",))
    with (tmp_path / "front" / "curves.csv").open(newline="") as file:
        assert [float(row["loss"]) for row in csv.DictReader(file)] == [0.0, 0.0]


def test_the_parser_is_its_stages_one_after_another_at_any_size(trained: Path):
    front, grn, lrn = (load(trained / f"{name}.safetensors") for name in ("front", "grn", "lrn"))
    parser = load_parser(trained / "parser.safetensors")
    assert (parser.classes, parser.palette) == (SCENE_CLASSES, SCENE_PALETTE)
    image = random(1, 3, 67, 91)
    with torch.inference_mode():
        logits = parser(image)
        assert logits.shape == (1, len(SCENE_CLASSES), 67, 91)
        assert torch.equal(logits, lrn(image, grn(image, front(image))))


def test_a_stage_trains_what_it_stands_on_and_becomes_the_same(tmp_path: Path):
    orders: dict[str, tuple[StageName, ...]] = {"alone": ("grn",), "in turn": ("front", "grn")}
    for name, stages in orders.items():
        smallest(tmp_path / name).run(stages)
    alone, in_turn = (load(tmp_path / name / "grn.safetensors").state_dict() for name in orders)
    for name, value in in_turn.items():
        assert torch.equal(alone[name], value), name


def test_refiners_of_another_seed_follow_the_same_front_and_lie_beside_the_first(tmp_path: Path):
    smallest(tmp_path).run(("lrn", "context"))
    before = contents(tmp_path)
    other = smallest(tmp_path)
    other.refiner_seed = 1
    other.run(("lrn", "context"))
    assert {path: content for path, content in contents(tmp_path).items() if path in before} == before
    files = {path.stem for path in tmp_path.glob("*.safetensors")}
    assert files == {
        "front",
        *(f"{name}{seed}" for name in ("grn", "lrn", "context", "parser") for seed in ("", "_seed1")),
    }
    for name in ("grn", "lrn", "context"):
        first, second = (load(tmp_path / f"{name}{seed}.safetensors").state_dict() for seed in ("", "_seed1"))
        assert any(not torch.equal(first[key], second[key]) for key in first), name


def test_a_grn_that_comes_last_learns_from_what_front_and_lrn_say(tmp_path: Path):
    made = smallest(tmp_path)
    made.run(("grn_last",))
    assert isinstance(load(tmp_path / "grn_last.safetensors"), GRN)
    front, lrn = load(tmp_path / "front.safetensors"), load(tmp_path / "lrn_alone.safetensors")
    image, _, logits, _ = Confidences(made.datasets["val"], tmp_path / "confidences" / "lrn_alone" / "val").read(
        0, View()
    )
    with torch.inference_mode():
        torch.testing.assert_close(logits[None], lrn(image[None], front(image[None])), rtol=1e-3, atol=1e-3)


def test_a_resnet_wants_weights_or_to_be_told_that_there_are_none(tmp_path: Path):
    recipe = replace(small(), encoder="resnet18")
    with pytest.raises(
        ValueError, match="resnet18 starts from ImageNet weights: name their file with --encoder-weights"
    ):
        Training(recipe, None, tmp_path).encoder()
    encoder = Training(recipe, None, tmp_path, encoder_weights="random").encoder()
    save_file({f"{name}": value for name, value in encoder.state_dict().items()}, tmp_path / "weights.safetensors")
    loaded = Training(recipe, None, tmp_path, encoder_weights=tmp_path / "weights.safetensors").encoder()
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in encoder.state_dict().items())


def test_a_lites_weights_can_come_from_a_file_too(tmp_path: Path):
    encoder = Training(small(), None, tmp_path, encoder_weights="random").encoder()
    save_file(encoder.state_dict(), tmp_path / "weights.safetensors")
    loaded = Training(small(), None, tmp_path, encoder_weights=tmp_path / "weights.safetensors").encoder()
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in encoder.state_dict().items())


def test_scenes_need_no_folder_and_others_say_that_they_do(tmp_path: Path):
    train, val = (open_dataset("scenes", None, split) for split in ("train", "val"))
    assert not torch.equal(train[0].image, val[0].image)
    with pytest.raises(ValueError, match="the data set camvid lies in a folder: name it with --data"):
        open_dataset("camvid", None, "train")
    with pytest.raises(ValueError, match="ade20k's list of classes is not here"):
        open_dataset("ade20k", tmp_path, "train")
