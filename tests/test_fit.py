"""A refiner fitted to predictions, and the gate that it has to pass."""

import csv
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from rectiseg import cli
from rectiseg.data.predicted import Predicted, open_predicted
from rectiseg.data.scenes import SCENE_CLASSES, SCENE_PALETTE, generate_scene
from rectiseg.fit import fit, neighbors
from rectiseg.models.bilateral_lrn import BilateralLRN
from rectiseg.models.checkpoint import load
from rectiseg.models.combine import Cascade
from rectiseg.types import IGNORE_INDEX

CLASSES = len(SCENE_CLASSES)


def write_scenes(folder: Path, count: int, noise: float) -> None:
    """Generated scenes, and predictions that are right but for so much noise, each pixel by itself."""
    for kind in ("images", "labels", "predictions"):
        (folder / kind).mkdir(parents=True)
    for seed in range(count):
        image, labels = generate_scene(seed, 33, 45)
        Image.fromarray(image).save(folder / "images" / f"{seed:02}.png")
        Image.fromarray(labels).save(folder / "labels" / f"{seed:02}.png")
        own = 4 * np.eye(256, CLASSES)[labels].transpose(2, 0, 1)
        said = own + noise * np.random.default_rng(seed).normal(size=own.shape)
        np.save(folder / "predictions" / f"{seed:02}.npy", said.astype(np.float16))


def opened(folder: Path) -> Predicted:
    return open_predicted(folder / "images", folder / "labels", folder / "predictions")


@pytest.fixture(scope="module")
def noisy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("noisy")
    write_scenes(folder, 20, noise=2.0)
    return folder


@pytest.fixture(scope="module")
def perfect(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("perfect")
    write_scenes(folder, 20, noise=0.0)
    return folder


def test_a_refiner_that_helps_is_kept(noisy: Path, tmp_path: Path):
    fitted = fit(opened(noisy), tmp_path, steps=40)
    before, after = fitted.scores
    assert fitted.passed
    assert isinstance(fitted.kept, BilateralLRN)
    assert after.mean_iou > before.mean_iou + 0.05
    assert fitted.gain.value == pytest.approx(after.mean_iou - before.mean_iou)
    assert fitted.gain.low < fitted.gain.value < fitted.gain.high


def test_one_that_cannot_help_is_not_kept(perfect: Path, tmp_path: Path):
    fitted = fit(opened(perfect), tmp_path, steps=4)
    logits = torch.randn(1, CLASSES, 6, 7)
    assert fitted.gain.low <= 0
    assert fitted.kept(torch.rand(1, 3, 6, 7), logits) is logits
    assert not any("nan" in sentence for sentence in fitted.worse(SCENE_CLASSES))


def test_nothing_of_what_is_held_back_is_learned_from(noisy: Path, tmp_path: Path):
    """With other predictions for the held-back images the same refiner is fitted."""
    data = opened(noisy)
    first = fit(data, tmp_path / "first", steps=2)
    assert len(first.held_back) == 5
    files = {name: data.files["00"] if name in first.held_back else path for name, path in data.files.items()}
    second = fit(Predicted(data.dataset, files, "other"), tmp_path / "second", steps=2)
    weights = zip(first.refiner.state_dict().values(), second.refiner.state_dict().values(), strict=True)
    assert all(torch.equal(*pair) for pair in weights)
    assert first.gain != second.gain


def test_a_fitting_that_was_done_is_not_done_again(noisy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    first = fit(opened(noisy), tmp_path, steps=2)
    monkeypatch.setattr("rectiseg.stage.Run.train_step", None)
    assert fit(opened(noisy), tmp_path, steps=2).gain == first.gain


def test_grn_and_lrn_are_fitted_together(perfect: Path, tmp_path: Path):
    fitted = fit(opened(perfect), tmp_path, "both", steps=2)
    assert [type(refiner).__name__ for refiner in fitted.refiner.refiners] == ["GRN", "BilateralLRN"]  # pyright: ignore
    (curves,) = tmp_path.rglob("lrn_after_grn/curves.csv")
    with curves.open(newline="") as file:
        *_, last = csv.DictReader(file)
    assert float(last["mean_iou"]) == pytest.approx(
        fitted.scores[1].mean_iou, abs=2e-3
    )  # what both do: GRN comes first


def test_runs_of_neighbours_stay_together():
    assert neighbors([0, 1, 4, 5, 6, 9]) == [[0, 1], [2, 3, 4], [5]]


def test_too_few_images_are_refused(noisy: Path, tmp_path: Path):
    with pytest.raises(ValueError, match="too few"):
        fit(opened(noisy).subset(range(19)), tmp_path)


def test_predictions_may_be_fewer_pixels_than_their_image(noisy: Path, tmp_path: Path):
    coarse = tmp_path / "predictions"
    coarse.mkdir()
    for path in (noisy / "predictions").iterdir():
        np.save(coarse / path.name, np.load(path)[:, ::2, ::2])
    data = open_predicted(noisy / "images", noisy / "labels", coarse)
    image, labels, logits, _ = data.read(0, data.views[0])
    assert image.shape[1:] == labels.shape == logits.shape[1:]
    mirrored = data.read(0, data.views[1])
    assert torch.equal(mirrored.logits, logits.flip(-1))
    assert torch.equal(mirrored.image, image.flip(-1))


def test_an_image_without_prediction_is_named(noisy: Path, tmp_path: Path):
    (tmp_path / "predictions").mkdir()
    (tmp_path / "predictions" / "00.npy").symlink_to(noisy / "predictions" / "00.npy")
    with pytest.raises(ValueError, match=r"19 images .* have no prediction here, the first is 01"):
        open_predicted(noisy / "images", noisy / "labels", tmp_path / "predictions")


def test_two_predictions_of_one_name_are_refused(noisy: Path, tmp_path: Path):
    shutil.copytree(noisy / "predictions", tmp_path / "predictions" / "one")
    shutil.copytree(noisy / "predictions", tmp_path / "predictions" / "other")
    with pytest.raises(ValueError, match=r"other/00\.npy: .*one/00\.npy has the same name; keep one"):
        open_predicted(noisy / "images", noisy / "labels", tmp_path / "predictions")


def test_label_maps_as_predictions_need_the_classes_names(perfect: Path, tmp_path: Path):
    with pytest.raises(ValueError, match=r"name a classes\.json"):
        open_predicted(perfect / "images", perfect / "labels", perfect / "labels")
    entries = [{"name": name, "color": color} for name, color in zip(SCENE_CLASSES, SCENE_PALETTE, strict=True)]
    (tmp_path / "classes.json").write_text(json.dumps(entries))
    data = open_predicted(perfect / "images", perfect / "labels", perfect / "labels", tmp_path / "classes.json")
    sample = data.read(0, data.views[0])
    known = sample.labels != IGNORE_INDEX
    assert torch.equal(sample.logits.argmax(dim=0)[known], sample.labels[known])


def test_the_command_saves_what_passed_and_says_what_it_is_worth(noisy: Path, tmp_path: Path, monkeypatch, capsys):
    folders = [
        argument for kind in ("images", "labels", "predictions") for argument in (f"--{kind}", str(noisy / kind))
    ]
    output = tmp_path / "new" / "refiner.safetensors"
    scores = ["--json", str(tmp_path / "scores.json")]
    monkeypatch.setattr(sys, "argv", ["rectiseg", "fit", *folders, "-o", str(output), "--steps", "40", *scores])
    with pytest.raises(SystemExit) as exit:
        cli.main()
    said = capsys.readouterr().out
    assert not exit.value.code
    assert isinstance(load(output), BilateralLRN)
    assert "mean IoU +" in said
    assert "on 5 images held back in 5 runs" in said
    assert f"{output}: the fitted refiner" in said
    measured = json.loads((tmp_path / "scores.json").read_text())
    difference = measured["after"]["mean_iou"] - measured["before"]["mean_iou"]
    assert measured["gain"]["mean_iou"] == pytest.approx(difference)
    assert measured["kept"]


def test_the_command_saves_the_identity_otherwise(perfect: Path, tmp_path: Path, monkeypatch, capsys):
    folders = [
        argument for kind in ("images", "labels", "predictions") for argument in (f"--{kind}", str(perfect / kind))
    ]
    output = tmp_path / "refiner.safetensors"
    monkeypatch.setattr(sys, "argv", ["rectiseg", "fit", *folders, "-o", str(output), "--steps", "4"])
    with pytest.raises(SystemExit):
        cli.main()
    assert isinstance(load(output), Cascade)
    assert f"{output}: returns what it is given" in capsys.readouterr().out
