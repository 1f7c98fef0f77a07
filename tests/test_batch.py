"""A batch on a cluster: what it writes, what it skips, and what happens when a worker is killed."""

import json
import os
import signal
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from rectiseg import cli
from rectiseg.batch.items import plan
from rectiseg.batch.manifest import Record
from rectiseg.batch.pool import Pool
from rectiseg.batch.worker import Task
from rectiseg.data.scenes import SCENE_CLASSES, SCENE_PALETTE, generate_scene
from rectiseg.inference import Wanted
from rectiseg.models.checkpoint import fingerprint, load, save
from rectiseg.models.combine import SceneParser
from rectiseg.models.efficientnet_lite import EfficientNetLite
from rectiseg.models.front import Front
from rectiseg.models.lrn import LRN

NAMES = ("0.png", "1.png", "may/2.jpg", "may/broken.png", "may/june/4.png")
WHITE, BLACK = (255, 255, 255), (0, 0, 0)


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    """Two workers' worth."""
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'rectiseg[ray]'")
    ray.init("local", num_cpus=2, include_dashboard=False, object_store_memory=80_000_000, log_to_driver=False)
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # the workers cannot import this file
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    front = Front(EfficientNetLite(0), len(SCENE_CLASSES))
    path = tmp_path_factory.mktemp("model") / "parser.safetensors"
    save(SceneParser(front, LRN.narrow(len(SCENE_CLASSES)), SCENE_CLASSES, SCENE_PALETTE), path)
    return path


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tree of images of two sizes, one of which is broken."""
    folder = tmp_path_factory.mktemp("scenes")
    (folder / "may" / "june").mkdir(parents=True)
    for seed, name in enumerate(NAMES):
        Image.fromarray(generate_scene(seed, 37, 50 + seed % 2)[0]).save(folder / name)
    (folder / "may" / "broken.png").write_bytes(b"not a picture")
    return folder


@pytest.fixture(scope="module")
def output(model: Path, scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of one run over all scenes."""
    folder = tmp_path_factory.mktemp("batch") / "out"
    assert status_of("batch", scenes, "-o", folder, "--model", model, "--workers", "1") == 1
    return folder


def status_of(*arguments: str | Path) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["rectiseg", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit:
            cli.main()
    return int(exit.value.code or 0)


def label_maps(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.png")}


def test_the_bytes_are_those_of_predict_in_the_same_tree(model: Path, scenes: Path, output: Path, tmp_path: Path):
    assert status_of("predict", scenes, "-o", tmp_path / "out", "--model", model) == 1
    expected = label_maps(tmp_path / "out")
    assert sorted(expected) == ["0.png", "1.png", "may/2.png", "may/june/4.png"]
    assert label_maps(output) == expected


def test_the_manifest_names_every_input_once(model: Path, scenes: Path, output: Path):
    records = [json.loads(line) for line in (output / "manifest.jsonl").read_text().splitlines()]
    assert sorted(record["input"] for record in records) == sorted(str(scenes / name) for name in NAMES)
    assert {record["model"] for record in records} == {fingerprint(load(model))}
    (broken,) = (record for record in records if record["error"])
    assert broken["error"].startswith(f"{scenes}/may/broken.png: empty, broken")
    for record in records:
        if record != broken:
            assert tuple(record["size"]) == Image.open(record["output"]).size
            assert record["seconds"] > 0


def test_the_same_command_goes_on_with_what_is_missing(model: Path, scenes: Path, output: Path, capsys):
    before = {path: path.stat().st_mtime_ns for path in output.rglob("*.png")}
    lost, *kept = sorted(before)
    lost.unlink()
    lines = output / "manifest.jsonl"
    lines.write_text(lines.read_text() + '{"input": "half a li')
    assert status_of("batch", scenes, "-o", output, "--model", model, "--workers", "1") == 1
    assert lost.exists()
    assert {path: path.stat().st_mtime_ns for path in kept} == {path: before[path] for path in kept}
    assert len([json.loads(line) for line in lines.read_text().splitlines()]) == len(NAMES)
    assert "broken.png" in capsys.readouterr().err


class Mortal(nn.Module):
    """A parser that dies of a white image each time, and of a black one the first time."""

    def __init__(self, memory: Path):
        super().__init__()
        self.memory = memory

    def forward(self, image: Tensor) -> Tensor:
        first = not self.memory.exists()
        if image.min() == 1 or (image.max() == 0 and first):
            if image.max() == 0:
                self.memory.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return 5 * image


@pytest.fixture(scope="module")
def survived(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Record]:
    """What became of 40 grey images, a white one and a black one, by their names."""
    folder = tmp_path_factory.mktemp("mortal")
    (folder / "in").mkdir()
    for number in range(42):
        color = {5: WHITE, 20: BLACK}.get(number, (99, 99, 98))
        Image.new("RGB", (5, 4), color).save(folder / "in" / f"{number:02}.png")
    load_parser = partial(Mortal, folder / "memory")
    task = Task(load_parser, "5e55", ("a", "b", "c"), np.zeros((3, 3), np.uint8), Wanted(), batch_size=1)
    items = plan(str(folder / "in"), str(folder / "out"))
    records = list(Pool(task, workers=2, on_gpu=False).results(items))
    assert len(records) == len(items)
    return {Path(record.input).stem: record for record in records}


def test_a_worker_that_is_killed_loses_nothing(survived: dict[str, Record]):
    assert len(survived) == 42
    for name, record in survived.items():
        assert Path(record.output).exists() == (name != "05"), name


def test_an_image_that_kills_its_workers_is_named_and_no_other(survived: dict[str, Record]):
    (named,) = (record for record in survived.values() if record.error)
    assert named.error == f"{named.input}: 2 workers died while they had nothing else to do; take it out or mend it"
    assert Path(named.input).stem == "05"
