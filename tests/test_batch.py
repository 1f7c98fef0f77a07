"""A batch on a cluster: what it writes, what it skips, and what happens when a worker or the command is killed."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from faults import Reports, mounted, remaining, scene
from rectiseg import cli
from rectiseg.batch.items import Item
from rectiseg.batch.pool import LOCAL, STARTS, Pool
from rectiseg.batch.worker import Task
from rectiseg.data.files import alone_at
from rectiseg.data.images import read_label_map, write_label_map
from rectiseg.data.scenes import SCENE_CLASSES, SCENE_PALETTE, generate_scene
from rectiseg.inference import Wanted
from rectiseg.models.checkpoint import fingerprint, load, save
from rectiseg.models.combine import SceneParser
from rectiseg.models.efficientnet_lite import EfficientNetLite
from rectiseg.models.front import Front
from rectiseg.models.lrn import LRN
from rectiseg.refinement import numbered
from test_docs import that_run
from test_load import SECONDS, assert_flat, report, resident

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'rectiseg[ray]'")

Command = Callable[..., tuple[int, str]]
NAMES = ("0.png", "1.png", "may/2.jpg", "may/broken.png", "may/june/4.png")
WHITE, BLACK, GREY = (255, 255, 255), (0, 0, 0), (99, 99, 98)


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    """Two workers' worth, which the commands join."""
    ray.init("local", num_cpus=2, log_to_driver=False, **LOCAL)
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


def status_of(*arguments: str | Path) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["rectiseg", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit:
            cli.main()
    return int(exit.value.code or 0)


def pictures(folder: Path) -> dict[str, bytes]:
    """Every whole result."""
    found = (path for path in folder.rglob("*.png") if not path.name.startswith("."))
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def lines_of(output: Path) -> list[dict]:
    return [json.loads(line) for line in (output / "manifest.jsonl").read_text().splitlines()]


def test_the_bytes_of_two_workers_are_those_of_predict_and_the_manifest_names_every_input(
    model: Path, scenes: Path, tmp_path: Path
):
    assert status_of("predict", scenes, "-o", tmp_path / "predicted", "--model", model) == 1
    assert status_of("batch", scenes, "-o", tmp_path / "out", "--model", model, "--workers", "2") == 1
    expected = pictures(tmp_path / "predicted")
    assert sorted(expected) == ["0.png", "1.png", "may/2.png", "may/june/4.png"]
    assert pictures(tmp_path / "out") == expected
    records = lines_of(tmp_path / "out")
    assert sorted(record["input"] for record in records) == sorted(str(scenes / name) for name in NAMES)
    assert {record["model"] for record in records} == {fingerprint(load(model))}
    (broken,) = (record for record in records if record["error"])
    assert broken["error"].startswith(f"{scenes}/may/broken.png: empty, broken")
    for record in records:
        if record != broken:
            assert tuple(record["size"]) == Image.open(record["output"]).size
            assert record["seconds"] > 0


def test_with_predictions_the_bytes_are_those_of_refine(scenes: Path, tmp_path: Path):
    """Confidence maps, a label map, and two images without a prediction or a picture."""
    predictions = tmp_path / "predictions"
    (predictions / "may" / "june").mkdir(parents=True)
    _, labels = generate_scene(4, 37, 50)
    logits = torch.randn(5, 37, 51, generator=torch.Generator().manual_seed(0)).numpy()
    np.save(predictions / "1_probabilities.npy", logits)
    np.save(predictions / "may" / "2.npy", logits[:, ::2, 1::2])
    write_label_map(predictions / "may" / "june" / "4.png", labels)
    np.save(predictions / "may" / "broken.npy", logits)
    assert status_of("refine", scenes, predictions, "-o", tmp_path / "refined", "--overlay") == 1
    given = ("--predictions", predictions, "--workers", "1", "--overlay")
    assert status_of("batch", scenes, "-o", tmp_path / "out", *given) == 1
    expected = pictures(tmp_path / "refined")
    assert len(expected) == 6
    assert pictures(tmp_path / "out") == expected
    errors = {record["input"]: record["error"] for record in lines_of(tmp_path / "out") if record["error"]}
    assert errors.keys() == {f"{scenes}/0.png", f"{scenes}/may/broken.png"}
    assert errors[f"{scenes}/0.png"] == f"{scenes}/0.png: {predictions}/0.*: no such file"


@pytest.mark.fault("kill -9 of the command", "batch")
def test_a_killed_command_goes_on_and_ends_as_predict_does(model: Path, tmp_path: Path, reports: Reports):
    images, output = tmp_path / "in", tmp_path / "out"
    images.mkdir()
    for number in range(40):
        Image.fromarray(generate_scene(number, 37, 50)[0]).save(images / f"{number:02}.png")
    assert status_of("predict", images, "-o", tmp_path / "expected", "--model", model) == 0
    expected = pictures(tmp_path / "expected")
    arguments = ("batch", images, "-o", output, "--model", model, "--workers", "1")
    command = subprocess.Popen([sys.executable, "-m", "rectiseg", *map(str, arguments)], stderr=subprocess.PIPE)
    while not pictures(output) and command.poll() is None:
        time.sleep(0.01)
    command.kill()
    _, said = command.communicate()
    assert command.returncode == -signal.SIGKILL, said
    survivors = pictures(output)
    assert len(survivors) < len(expected)
    for name in survivors:
        read_label_map(output / name)
    assert survivors.items() <= expected.items()
    stamps = {name: (output / name).stat().st_mtime_ns for name in survivors}
    assert status_of(*arguments) == 0
    assert pictures(output) == expected
    assert {name: (output / name).stat().st_mtime_ns for name in survivors} == stamps
    assert sorted(record["input"] for record in lines_of(output)) == sorted(str(images / name) for name in expected)
    assert status_of(*arguments) == 0
    reports(said.decode(), "whole label maps; the same command does the rest", f"{command.returncode}, then 0")


class Mortal(nn.Module):
    """A parser that dies of a white image each time, and of a black one twice."""

    def __init__(self, memory: Path):
        super().__init__()
        self.memory = memory

    def forward(self, image: Tensor) -> Tensor:
        deaths = len(self.memory.read_bytes())
        if image.max() == 0 and deaths < 2:
            self.memory.write_bytes(bytes(deaths + 1))
            os.kill(os.getpid(), signal.SIGKILL)
        if image.min() == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return 5 * image


def task_of(load_parser: partial[nn.Module]) -> Task:
    return Task(load_parser, "5e55", numbered, Wanted(), batch_size=1, num_classes=3)


def parsing_with(load_parser: partial[nn.Module], monkeypatch: pytest.MonkeyPatch) -> None:
    """The command has this parser in each worker."""
    monkeypatch.setattr("rectiseg.commands.batch.parsing", lambda *_: task_of(load_parser))


def colored(folder: Path, *colors: tuple[int, int, int]) -> Path:
    folder.mkdir()
    for number, color in enumerate(colors):
        Image.new("RGB", (5, 4), color).save(folder / f"{number:02}.png")
    return folder


@pytest.mark.fault("kill -9 of a worker", "batch")
def test_a_worker_that_is_killed_loses_nothing_and_only_what_kills_again_and_again_is_named(
    rectiseg: Command, tmp_path: Path, reports: Reports, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "memory").touch()
    images = colored(tmp_path / "in", GREY, GREY, BLACK, GREY, GREY, WHITE, *[GREY] * 36)
    parsing_with(partial(Mortal, tmp_path / "memory"), monkeypatch)
    code, said = rectiseg("batch", images, "-o", tmp_path / "out", "--workers", "1")
    assert code == 1
    records = lines_of(tmp_path / "out")
    assert sorted(record["input"] for record in records) == sorted(map(str, images.iterdir()))
    (named,) = (record for record in records if record["error"])
    assert (
        named["error"] == f"{images}/05.png: 2 workers died while they had nothing else to do; take it out or mend it"
    )
    for record in records:
        assert Path(record["output"]).exists() == (record is not named), record["input"]
    ours = [line for line in said.splitlines() if line.startswith("rectiseg: ")]  # Ray has its say, too
    reports("\n".join(ours), remaining(tmp_path / "out"), code)


class Parser(nn.Module):
    """Removes a folder when it sees a white image."""

    def __init__(self, folder: Path | None = None):
        super().__init__()
        self.folder = folder

    def forward(self, image: Tensor) -> Tensor:
        if image.min() == 1 and self.folder is not None:
            shutil.rmtree(self.folder)
        return 5 * image


@pytest.mark.fault("an output folder removed in the run", "batch")
def test_a_batch_whose_output_was_removed_ends(
    rectiseg: Command, tmp_path: Path, reports: Reports, monkeypatch: pytest.MonkeyPatch
):
    images, output = colored(tmp_path / "in", GREY, WHITE, GREY), tmp_path / "out"
    parsing_with(partial(Parser, output), monkeypatch)
    code, said = rectiseg("batch", images, "-o", output, "--workers", "1")
    assert code == 2
    reports(said, remaining(output), code)


@pytest.fixture
def full(tmp_path: Path) -> Iterator[Path]:
    """An output folder with room for four small files."""
    yield from mounted(tmp_path / "out", "size=16k")


@pytest.mark.fault("a full disk", "batch")
def test_a_full_disk_ends_a_batch(
    full: Path, rectiseg: Command, tmp_path: Path, reports: Reports, monkeypatch: pytest.MonkeyPatch
):
    parsing_with(partial(Parser), monkeypatch)
    code, said = rectiseg("batch", colored(tmp_path / "in", *[GREY] * 8), "-o", full, "--workers", "1")
    assert code == 2
    reports(said, remaining(full), code)


@pytest.mark.fault("two runs into the same output at once", "batch")
def test_a_second_batch_into_the_same_output_is_refused(
    model: Path, scenes: Path, rectiseg: Command, tmp_path: Path, reports: Reports
):
    (tmp_path / "out").mkdir()
    with alone_at(tmp_path / "out" / "manifest.jsonl", "as the first does"):
        code, said = rectiseg("batch", scenes, "-o", tmp_path / "out", "--model", model)
    assert code == 2
    assert not list((tmp_path / "out").iterdir())
    reports(said, "what the first writes", f"{code} of the second")


class Stillborn:
    """A worker that dies of its model."""

    def __init__(self, task: object):
        pass

    def load(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


class Full:
    """A worker that has no room for its results."""

    def __init__(self, task: object):
        pass

    def load(self) -> None:
        pass

    def do(self, items: object) -> None:
        raise ValueError("no room is left")


@pytest.mark.parametrize(
    ("worker", "sentence"),
    [(Stillborn, f"{STARTS} workers in a row died before they had their model"), (Full, "^no room is left$")],
)
def test_what_concerns_all_images_ends_the_run_with_a_sentence(worker: type, sentence: str):
    pool = Pool(task_of(partial(Mortal, Path("never loaded"))), workers=1, on_gpu=False)
    pool.worker = ray.remote(worker)
    pool.task = SimpleNamespace(batch_size=1)  # which is sent without torch
    with pytest.raises(ValueError, match=sentence):
        list(pool.results([Item("a.png", "b.png")]))


def test_the_commands_of_its_page_run_but_for_that_of_a_bucket(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    for folder in ("photos", "drives/first/left", "predictions"):
        Path(folder).mkdir(parents=True)
        shutil.copy(scenes / "0.png", folder)
    for folder in ("predictions", "annotations"):
        Path(folder).mkdir(exist_ok=True)
        Image.fromarray(np.zeros((37, 50), np.uint8)).save(f"{folder}/0.png")
    for arguments in that_run("batch.md"):
        here = ["2" if argument == "4" else argument for argument in arguments]  # workers
        assert status_of(*here) == 0, arguments
    for label_map in ("labels/0.png", "labels/first/left/0.png", "refined/0.png"):
        assert Image.open(label_map).size == (50, 37), label_map


@pytest.mark.soak
def test_batches_hold_no_more_memory_the_more_of_them_run(model: Path, tmp_path: Path):
    """One after another, each of a hundred images, with two workers."""
    first = scene(tmp_path / "first.png")
    (tmp_path / "in").mkdir()
    for number in range(100):
        (tmp_path / "in" / f"{number:03}.png").hardlink_to(first)
    seconds, memory = list[float](), list[int]()
    until = time.monotonic() + SECONDS
    while time.monotonic() < until:
        output = tmp_path / f"out{len(memory)}"
        assert status_of("batch", tmp_path / "in", "-o", output, "--model", model, "--workers", "2") == 0
        lines = (output / "manifest.jsonl").read_text().splitlines()
        assert len(lines) == 100
        seconds += [json.loads(line)["seconds"] for line in lines]
        memory.append(resident("ray::"))
    report("batch, images", seconds, memory)
    assert_flat(memory)
