"""Models in folders and on the hub, in whose place there is a folder here."""

import shutil
from pathlib import Path

import huggingface_hub
import pytest
import torch
from huggingface_hub import constants
from huggingface_hub.errors import HTTPError, LocalEntryNotFoundError

import rectiseg
from networks import random, random_logits
from rectiseg.commands.publish import publish
from rectiseg.models.checkpoint import save
from rectiseg.models.hub import is_on_the_hub
from rectiseg.models.lrn import LRN


@pytest.fixture
def refiner(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    path = tmp_path / "lrn.safetensors"
    save(LRN(3, 3, (4,)), path, {"classes": '["sky", "road", "car"]', "seed": "7"})
    return path


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that answers as the hub does."""
    root = tmp_path / "hub"

    class Api:
        def create_repo(self, name: str, private: bool, exist_ok: bool) -> str:
            (root / name).mkdir(parents=True)
            return f"https://hub/{name}{' (private)' if private else ''}"

        def upload_folder(self, *, repo_id: str, folder_path: str, commit_message: str) -> None:
            shutil.copytree(folder_path, root / repo_id, dirs_exist_ok=True)

    def download(name: str, file: str) -> str:
        if not (root / name).exists():
            raise LocalEntryNotFoundError("It is not in the cache.\nAnd there is no way out.")
        return str(root / name / file)

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    return root


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    inputs = random(1, 3, 6, 7), random_logits(1, 3, 6, 7)
    return torch.equal(one(*inputs), other(*inputs))


def test_a_model_is_published_to_a_folder_and_loaded_from_there(refiner: Path, tmp_path: Path, capsys):
    assert publish(refiner, f"{tmp_path}/shared/model") == 0
    assert same(rectiseg.load(tmp_path / "shared" / "model"), rectiseg.load(refiner))
    assert sorted(path.name for path in (tmp_path / "shared" / "model").iterdir()) == ["README.md", "model.safetensors"]
    assert "rectiseg.load(" in capsys.readouterr().out


def test_the_card_says_what_the_file_says_of_its_training(refiner: Path, tmp_path: Path):
    publish(refiner, f"{tmp_path}/model")
    card = (tmp_path / "model" / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: rectiseg\n")
    assert "Classes: sky, road, car." in card
    assert "| seed | 7 |" in card
    (tmp_path / "own.md").write_text("# Mine\n")
    publish(refiner, f"{tmp_path}/model", tmp_path / "own.md")
    assert (tmp_path / "model" / "README.md").read_text() == "# Mine\n"


def test_a_model_is_published_to_the_hub_and_loaded_by_its_name(hub: Path, refiner: Path, capsys):
    publish(refiner, "somebody/street-lrn", private=True)
    assert "https://hub/somebody/street-lrn (private)" in capsys.readouterr().out
    assert same(rectiseg.load("somebody/street-lrn"), rectiseg.load(refiner))


def test_a_name_there_may_have_a_dot(hub: Path, refiner: Path):
    publish(refiner, "somebody/street-1.5")
    assert same(rectiseg.load("somebody/street-1.5"), rectiseg.load(refiner))


def test_what_the_hub_does_not_have_is_said_in_a_sentence(hub: Path):
    with pytest.raises(ValueError, match=r"nobody/nothing: no such file here, and .* \(It is not in the cache\)"):
        rectiseg.load("nobody/nothing")


def test_what_the_hub_does_not_take_is_said_with_the_way_to_log_in(refiner: Path, hub: Path, monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise OSError("401 Client Error\nmore")

    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", refuse)
    with pytest.raises(ValueError, match=r"somebody/x: .*\(401 Client Error\); see `hf auth login`"):
        publish(refiner, "somebody/x")


def test_a_hub_that_cannot_be_reached_is_said_in_a_sentence(refiner: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ValueError, match=r"somebody/x: the hub does not take it \(.*refused.*\)"):
        publish(refiner, "somebody/x")


def test_a_download_that_takes_too_long_is_said_in_a_sentence(monkeypatch: pytest.MonkeyPatch):
    """The library lets its client's own errors through, which are no OSErrors."""

    def download(name: str, file: str) -> str:
        raise HTTPError("timed out")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    with pytest.raises(ValueError, match=r"somebody/x: .* \(timed out\)"):
        rectiseg.load("somebody/x")


def test_a_place_that_is_neither_a_folder_nor_a_name_is_refused(refiner: Path):
    with pytest.raises(ValueError, match=r"neither a folder, like \./model, nor a name"):
        publish(refiner, "model")
    with pytest.raises(ValueError, match="nor a name on the hub"):
        publish(refiner, "somebody/model.onnx")


def test_files_and_folders_are_not_looked_for_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "first").mkdir(parents=True)
    assert is_on_the_hub("runs/second")
    files = (f"runs/second{suffix}" for suffix in (".safetensors", ".onnx", ".pt2", ".tflite", ".pth"))
    for name in ("runs/first", "a/b/c", "../b", "/a", "a", "a/..", *files):
        assert not is_on_the_hub(name), name


def test_what_is_no_model_is_not_published(tmp_path: Path):
    (tmp_path / "broken.safetensors").write_bytes(b"no model")
    with pytest.raises(ValueError, match="not a whole"):
        publish(tmp_path / "broken.safetensors", f"{tmp_path}/model")
    assert not (tmp_path / "model").exists()
