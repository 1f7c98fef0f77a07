"""The command line: what it writes, what it says, and its exit status."""

import json
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Collection
from dataclasses import replace
from importlib import metadata
from itertools import product
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from rectiseg import __version__, cli
from rectiseg.commands import options
from rectiseg.commands.evaluate import evaluate
from rectiseg.commands.info import missing_libraries
from rectiseg.data.images import read_image
from rectiseg.data.registry import DatasetName
from rectiseg.data.scenes import SCENE_CLASSES, SCENE_PALETTE, generate_scene
from rectiseg.data.submissions import official_ids
from rectiseg.models.checkpoint import SHIPPED, identity, load_parser, save
from rectiseg.models.combine import Cascade, SceneParser
from rectiseg.models.efficientnet_lite import EfficientNetLite
from rectiseg.models.front import Front
from rectiseg.models.fusion import MultiScale
from rectiseg.models.grn import GRN
from rectiseg.models.lrn import LRN
from rectiseg.models.pretrained import EncoderName
from rectiseg.recipes import RECIPES
from rectiseg.train import StageName, Training

ROOT = Path(__file__).parent.parent
STREET = ROOT / "examples" / "street.jpg"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole cascade with random weights."""
    torch.manual_seed(0)
    classes = len(SCENE_CLASSES)
    front = Front(EfficientNetLite(0), classes)
    cascade = Cascade(GRN(EfficientNetLite(0), classes, iterations=1), LRN.narrow(classes))
    path = tmp_path_factory.mktemp("model") / "parser.safetensors"
    save(SceneParser(front, cascade, SCENE_CLASSES, SCENE_PALETTE), path)
    return path


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    """Three scenes as a data set of the folder layout."""
    for kind in ("images", "labels"):
        (tmp_path / "scenes" / kind).mkdir(parents=True)
    for seed in range(3):
        image, labels = generate_scene(seed, 37, 50)
        Image.fromarray(image).save(tmp_path / "scenes" / "images" / f"{seed}.png")
        Image.fromarray(labels).save(tmp_path / "scenes" / "labels" / f"{seed}.png")
    entries = [{"name": name, "color": color} for name, color in zip(SCENE_CLASSES, SCENE_PALETTE, strict=True)]
    (tmp_path / "scenes" / "classes.json").write_text(json.dumps(entries))
    return tmp_path / "scenes"


def status_of(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> int:
    monkeypatch.setattr(sys, "argv", ["rectiseg", *map(str, arguments)])
    with pytest.raises(SystemExit) as exit:
        cli.main()
    return int(exit.value.code or 0)


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_command_has_help_with_an_example(command: str, monkeypatch, capsys):
    assert status_of(monkeypatch, command, "--help") == 0
    assert f"Example: rectiseg {command} " in " ".join(capsys.readouterr().out.split())


def test_the_page_of_commands_has_the_help_that_they_give():
    page = runpy.run_path(str(ROOT / "docs" / "commands.py"))["page"]()
    assert page == (ROOT / "docs" / "commands.md").read_text(encoding="utf-8"), "python docs/commands.py writes it"


def test_info_says_what_is_here(monkeypatch, capsys):
    assert status_of(monkeypatch, "info") == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith(f"rectiseg {__version__}, on ")
    assert any(line.startswith("device cpu: LRN's sums by the cpu kernel; float32, ") for line in said)
    assert f"model {SHIPPED.name}: {identity(load_parser())}" in said
    assert "extra lite: installed" in said


def test_a_missing_extra_is_named_with_what_it_lacks(monkeypatch):
    monkeypatch.setattr(metadata, "requires", lambda _: ["torch>=2", "no-such-library>=1; extra == 'web'"])
    assert missing_libraries() == {"web": ["no-such-library"]}


def test_the_version_is_said(monkeypatch, capsys):
    assert status_of(monkeypatch, "--version") == 0
    assert capsys.readouterr().out == f"rectiseg {__version__}\n"


@pytest.mark.parametrize(("command", "says"), [("predict", "begins again"), ("train", "goes on from there")])
def test_ctrl_c_ends_in_a_sentence(command: str, says: str, tmp_path: Path, monkeypatch, capsys):
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("rectiseg.jobs.plan", stop)
    monkeypatch.setattr("rectiseg.train.Training.run", stop)
    first = STREET if command == "predict" else "scenes_tiny"
    assert status_of(monkeypatch, command, first, "-o", tmp_path / "out") == 130
    assert capsys.readouterr().err.endswith(f"The files that were written are whole; the same command {says}\n")


@pytest.mark.parametrize("quiet", [True, False])
def test_progress_is_shown_but_on_request(quiet: bool, model: Path, scenes: Path, tmp_path: Path, monkeypatch, capsys):
    first = ["--quiet"] if quiet else []
    arguments = ("predict", scenes / "images", "-o", tmp_path / "out", "--model", model)
    assert status_of(monkeypatch, *first, *arguments) == 0
    said = capsys.readouterr().err
    assert said == "" if quiet else re.search(r"predict .* 3/3 [\d.]+/s 0:00:00", said)


def test_predict_writes_label_maps_of_the_images_sizes(model: Path, scenes: Path, tmp_path: Path, monkeypatch):
    assert status_of(monkeypatch, "predict", scenes / "images", "-o", tmp_path / "out", "--model", model) == 0
    written = sorted(path.name for path in (tmp_path / "out").rglob("*"))
    assert written == ["0.png", "1.png", "2.png"]
    labels = Image.open(tmp_path / "out" / "0.png")
    assert labels.size == (50, 37)
    assert np.asarray(labels).max() < len(SCENE_CLASSES)


def test_images_larger_than_a_tile_are_parsed_in_tiles_and_that_is_said(
    model: Path, scenes: Path, tmp_path: Path, monkeypatch, capsys
):
    image = scenes / "images" / "0.png"
    arguments = ("predict", image, "-o", tmp_path / "out", "--model", model, "--tile", "32")
    assert status_of(monkeypatch, *arguments) == 0
    assert f"{image}: 50x37 pixels, parsed in 4 tiles of at most 32x32" in capsys.readouterr().err
    assert Image.open(tmp_path / "out" / "0.png").size == (50, 37)
    assert status_of(monkeypatch, *arguments, "--panel") == 0
    assert (tmp_path / "out" / "0_panel.png").exists()
    assert status_of(monkeypatch, *arguments, "--probabilities") == 1
    assert "which give no probabilities" in capsys.readouterr().err
    assert status_of(monkeypatch, *arguments[:-1], "0") == 2


def test_probabilities_are_written_on_request(model: Path, scenes: Path, tmp_path: Path, monkeypatch):
    arguments = ("-o", tmp_path / "out", "--model", model, "--probabilities")
    assert status_of(monkeypatch, "predict", scenes / "images" / "0.png", *arguments) == 0
    probabilities = load_file(tmp_path / "out" / "0_probabilities.safetensors")["probabilities"].float()
    assert probabilities.shape == (len(SCENE_CLASSES), 37, 50)
    torch.testing.assert_close(probabilities.sum(dim=0), torch.ones(37, 50), rtol=0, atol=5e-3)


def test_a_broken_image_is_named_and_the_others_are_done(
    model: Path, scenes: Path, tmp_path: Path, monkeypatch, capsys
):
    (scenes / "images" / "1.png").write_bytes(b"not a picture")
    arguments = ("-o", tmp_path / "out", "--model", model, "--json", tmp_path / "new" / "images.json")
    assert status_of(monkeypatch, "predict", scenes / "images", *arguments) == 1
    first, broken, last = json.loads((tmp_path / "new" / "images.json").read_text())
    assert first == {"image": f"{scenes}/images/0.png", "labels": f"{tmp_path}/out/0.png", "error": None}
    assert broken["labels"] is None
    assert broken["error"].startswith(f"{scenes}/images/1.png: ")
    assert last["error"] is None
    assert sorted(path.name for path in (tmp_path / "out").rglob("*.png")) == ["0.png", "2.png"]
    said = capsys.readouterr().err
    assert "1.png" in said
    assert "Traceback" not in said


def test_several_views_are_fused_into_one_answer(model: Path, scenes: Path, tmp_path: Path, monkeypatch):
    """As in the README."""
    (command,) = re.findall(r"`(--scales [^`]+ --flip)`", (ROOT / "README.md").read_text(encoding="utf-8"))
    views = command.split()
    arguments = ("predict", scenes / "images" / "0.png", "-o", tmp_path / "out", "--model", model, "--panel", *views)
    assert status_of(monkeypatch, *arguments) == 0
    labels = np.asarray(Image.open(tmp_path / "out" / "0.png"))
    image = read_image(scenes / "images" / "0.png")[None]
    with torch.inference_mode():
        expected = MultiScale(load_parser(model), (0.75, 1.0, 1.25), flip=True)(image).argmax(dim=1)[0]
    assert np.array_equal(labels, expected)
    scores = tmp_path / "scores.json"
    arguments = ("evaluate", model, "--dataset", "folder", "--data", scenes, "--json", scores, *views)
    assert status_of(monkeypatch, *arguments) == 0
    assert list(json.loads(scores.read_text())) == ["fused"]


def test_scores_that_their_own_picture_would_overwrite_are_refused(scenes: Path, tmp_path: Path):
    with pytest.raises(ValueError, match=r"end it in \.json"):
        evaluate(dataset="folder", data=scenes, json_file=tmp_path / "scores.png")


def test_label_maps_hold_official_ids_on_request(scenes: Path, tmp_path: Path, monkeypatch):
    torch.manual_seed(0)
    front = Front(EfficientNetLite(0), 19)
    save(SceneParser(front, Cascade()), tmp_path / "front.safetensors")
    maps = []
    for ids in ((), ("--ids", "cityscapes")):
        output = tmp_path / f"out{len(ids)}"
        model = ("--model", tmp_path / "front.safetensors")
        assert status_of(monkeypatch, "predict", scenes / "images" / "0.png", "-o", output, *model, *ids) == 0
        maps.append(np.asarray(Image.open(output / "0.png")))
    assert np.array_equal(maps[1], np.array(official_ids("cityscapes"))[maps[0]])


@pytest.mark.parametrize(
    ("offered", "known"),
    [
        (options.DatasetChoice, get_args(DatasetName)),
        (options.EncoderChoice, get_args(EncoderName)),
        (options.RecipeName, RECIPES),
        (options.StageChoice, get_args(StageName)),
    ],
    ids=["data sets", "encoders", "recipes", "stages"],
)
def test_the_command_line_offers_all_that_there_is(offered: object, known: Collection[str]):
    assert set(get_args(offered)) == set(known)


def test_evaluate_measures_every_stage_and_writes_json(model: Path, scenes: Path, tmp_path: Path, monkeypatch, capsys):
    scores = tmp_path / "scores.json"
    arguments = ("--dataset", "folder", "--data", scenes, "--split", "val", "--json", scores, "--refiner", model)
    assert status_of(monkeypatch, "evaluate", model, *arguments) == 0
    rows = json.loads(scores.read_text())
    assert list(rows) == ["front", "front +GRN", "front +GRN +LRN", "front +parser"]
    assert rows["front"] == rows["front +GRN"]  # untrained: the identity
    assert set(rows["front"]["iou"]) == set(SCENE_CLASSES)
    assert Image.open(scores.with_suffix(".png")).format == "PNG"
    assert "mean IoU" in capsys.readouterr().out


def test_confidences_are_stored_once(model: Path, scenes: Path, tmp_path: Path, monkeypatch):
    arguments = ("confidences", "-o", tmp_path / "store", "--model", model, "--dataset", "folder", "--data", scenes)
    assert status_of(monkeypatch, *arguments) == 0
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "store").iterdir()}
    assert len(stamps) == 4  # three images and store.json
    assert status_of(monkeypatch, *arguments) == 0
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "store").iterdir()} == stamps


def test_confidences_of_the_named_views_are_stored_and_no_others(
    model: Path, scenes: Path, tmp_path: Path, monkeypatch
):
    arguments = ("--model", model, "--dataset", "folder", "--data", scenes, "--scales", "0.5", "1", "--no-flip")
    assert status_of(monkeypatch, "confidences", "-o", tmp_path, *arguments) == 0
    assert json.loads((tmp_path / "store.json").read_text())["views"] == ["0.5", "1"]
    assert load_file(tmp_path / "0.safetensors").keys() == {"0.5", "1"}


def test_confidences_belong_to_one_front(model: Path, scenes: Path, tmp_path: Path, monkeypatch, capsys):
    store, other = tmp_path / "store", tmp_path / "other.safetensors"
    arguments = ("confidences", "-o", store, "--dataset", "folder", "--data", scenes, "--no-flip", "--model")
    assert status_of(monkeypatch, *arguments, model) == 0
    parser = load_parser(model)
    assert json.loads((store / "store.json").read_text())["source"] == identity(parser.front)
    parser.front.head.weight.data[0, 0, 0, 0] += 1  # pyright: ignore
    save(parser, other)
    assert status_of(monkeypatch, *arguments, other) == 2
    assert f"{store}: holds confidences of another model" in capsys.readouterr().err


@pytest.mark.usefixtures("accelerator")
def test_a_recipe_can_be_trained_on_a_data_set_of_ones_own(scenes: Path, tmp_path: Path, monkeypatch):
    trained: list[Training] = []
    monkeypatch.setattr(Training, "run", lambda training, stages: trained.append(training))
    mine = tmp_path / "mine"
    for split, kind in product(("train", "val"), ("images", "labels")):
        shutil.copytree(scenes / kind, mine / split / kind)
    shutil.copy(scenes / "classes.json", mine)
    arguments = ("--dataset", "folder", "--data", mine, "-o", tmp_path / "out")
    assert status_of(monkeypatch, "train", "camvid_lite", *arguments) == 0
    (training,) = trained
    assert training.recipe == replace(RECIPES["camvid_lite"](), dataset="folder")
    assert (training.data, training.output) == (mine, tmp_path / "out")
    assert len(training.datasets["train"]) == 3


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("predict", "missing.jpg", "-o", "out"), "missing.jpg"),
        (("predict", "-o", "out"), "no image was given"),
        (
            ("predict", "street.jpg", "-o", "out", "--ids", "cityscapes", "--panel"),
            "--ids cityscapes: the official tool",
        ),
        (("predict", STREET, "-o", "out", "--ids", "ade20k"), "the model knows 11 classes, ade20k has 150"),
        (("predict", STREET, "-o", "out", "--ids", "cityscapes"), "the model knows 11 classes, cityscapes has 19"),
        (("evaluate", "missing.safetensors", "--dataset", "scenes"), "missing.safetensors"),
        (("evaluate", "--data", "missing"), "missing"),
        (("evaluate",), "--data"),
        (("evaluate", "--dataset", "scenes"), "the model's 11 classes (sky, building"),
        (("evaluate", "--dataset", "scenes", "--device", "abacus"), "--device abacus cannot be used here"),
        (("confidences", "--dataset", "scenes", "-o", "out"), "are not the data set's 12"),
        (("train", "camvid_paper", "--dataset", "folder", "--data", "mine"), "mine"),
        (("train", "ade20k_paper", "--data", "missing"), "ade20k"),
    ],
)
def test_wrong_use_is_one_sentence_and_status_2(arguments, sentence, monkeypatch, capsys, tmp_path: Path):
    monkeypatch.chdir(tmp_path)
    assert status_of(monkeypatch, *arguments) == 2
    said = capsys.readouterr().err
    assert sentence in said
    assert len(said.strip().splitlines()) == 1


def test_the_installed_command_answers():
    command = Path(sys.executable).with_name("rectiseg")
    done = subprocess.run([command, "--help"], capture_output=True, text=True)
    assert done.returncode == 0
    assert all(name in done.stdout for name in cli.COMMANDS)
