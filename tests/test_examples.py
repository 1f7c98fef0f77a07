"""Every program of examples/ runs, on small pictures."""

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from networks import TinyEncoder
from rectiseg.data.scenes import generate_scene
from rectiseg.models.checkpoint import load
from test_docs import tiny_parser
from test_fit import write_scenes

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture
def street(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder, in which the program runs, with one picture in a folder of its own."""
    (tmp_path / "photographs").mkdir()
    Image.fromarray(generate_scene(0, 33, 45, "street")[0]).save(tmp_path / "photographs" / "street.jpg")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "photographs" / "street.jpg"


def run(name: str, monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> None:
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")


def size_of(path: str) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


def test_there_are_five_of_less_than_40_lines():
    lengths = {path.name: len(path.read_text(encoding="utf-8").splitlines()) for path in EXAMPLES.glob("*.py")}
    assert len(lengths) == 5
    assert max(lengths.values()) < 40, lengths


def test_logits_are_refined(street: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    run("refine_logits.py", monkeypatch, street, "refined.png")
    assert size_of("refined.png") == (45, 33)
    assert "% of the pixels have another label" in capsys.readouterr().out


def test_a_folder_is_parsed(street: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    run("parse_folder.py", monkeypatch, street.parent, "labels")
    assert size_of("labels/street.png") == (45, 33)
    assert capsys.readouterr().out.startswith("labels/street.png: ")


def test_a_refiner_is_fitted(street: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    write_scenes(Path("mine"), 20, noise=2.0)
    folders = ("mine/images", "mine/labels", "mine/predictions")
    run("fit_refiner.py", monkeypatch, *folders, "refiner.safetensors", "--steps", "4")
    assert "kept" in capsys.readouterr().out
    load("refiner.safetensors")


def test_a_refiner_of_one_s_own_follows_others(
    street: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    run("own_refiner.py", monkeypatch, street, "--share", "0.3")
    shipped, own = (line.partition(": ")[2].split(", ") for line in capsys.readouterr().out.splitlines())
    assert {*own} < {*shipped}


def test_an_exported_network_parses_without_torch(street: Path, monkeypatch: pytest.MonkeyPatch):
    """A small parser stands for the shipped one, whose export takes most of a minute."""
    monkeypatch.setattr("rectiseg.models.checkpoint.load_parser", lambda: tiny_parser(TinyEncoder()))
    run("export_onnx.py", monkeypatch, street, "parser.onnx", "labels.png")
    assert size_of("labels.png") == (45, 33)
    assert np.asarray(Image.open("labels.png")).max() < 11
