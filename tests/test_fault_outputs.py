"""Faults of disks, folders and names, planted for a command: what is said, what remains, and the exit status."""

import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from faults import Reports, mounted, remaining, scene, tiny_parser
from rectiseg import inference, prediction
from rectiseg.commands.predict import predict
from rectiseg.data.files import alone_at
from rectiseg.data.images import read_label_map
from rectiseg.progress import ProgressReporter
from rectiseg.recipes import Recipe, scenes_tiny
from rectiseg.settings import Settings
from rectiseg.stage import Run
from tiny_stage import Drawn

Command = Callable[..., tuple[int, str]]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny_parser(tmp_path / "parser.safetensors")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for name in "abcd":
        scene(tmp_path / "in" / f"{name}.png")
    return tmp_path / "in"


@pytest.fixture
def full(tmp_path: Path) -> Iterator[Path]:
    """An output folder with room for one label map and one picture's probabilities."""
    yield from mounted(tmp_path / "out", "size=64k")


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    yield from mounted(tmp_path / "out", "ro")


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """`rectiseg train scenes_tiny` of two steps a stage."""
    once = Settings(phases=((1, 1e-3),), crop=(24, 32), batch=2)

    def recipe() -> Recipe:
        return replace(scenes_tiny(), front=once, grn=once, lrn=once, light=once, bilateral=once, context=once)

    monkeypatch.setattr("rectiseg.recipes.RECIPES", {"scenes_tiny": recipe})
    monkeypatch.setattr("rectiseg.data.registry.GeneratedScenes", lambda _, seed: Drawn(4, seed, 25, 33))


TRAIN = ("train", "scenes_tiny", "--encoder-weights", "random", "-o")


@pytest.mark.fault("a full disk", "predict --probabilities")
def test_a_full_disk_ends_predict(full: Path, images: Path, model: Path, rectiseg: Command, reports: Reports):
    code, said = rectiseg("predict", images, "-o", full, "--model", model, "--probabilities")
    assert code == 2
    reports(said, remaining(full), code)


@pytest.mark.fault("a full disk", "train")
@pytest.mark.usefixtures("accelerator", "short")
def test_a_full_disk_ends_a_training(full: Path, rectiseg: Command, reports: Reports):
    code, said = rectiseg(*TRAIN, full)
    assert code == 2
    reports(said, remaining(full), code)


@pytest.mark.fault("a read-only output", "predict")
def test_predict_does_not_write_where_it_may_not(
    read_only: Path, images: Path, model: Path, rectiseg: Command, reports: Reports
):
    code, said = rectiseg("predict", images, "-o", read_only, "--model", model)
    assert code == 2
    reports(said, remaining(read_only), code)


@pytest.mark.fault("a read-only output", "train")
@pytest.mark.usefixtures("accelerator", "short")
def test_a_training_does_not_write_where_it_may_not(read_only: Path, rectiseg: Command, reports: Reports):
    code, said = rectiseg(*TRAIN, read_only)
    assert code == 2
    reports(said, remaining(read_only), code)


@pytest.mark.fault("an output folder removed in the run", "predict")
def test_results_that_were_removed_are_missed(
    images: Path, model: Path, rectiseg: Command, tmp_path: Path, reports: Reports, monkeypatch: pytest.MonkeyPatch
):
    """After the third of four is there, before the fourth is."""
    output, done = tmp_path / "out", inference.predict

    def remove_and_predict(*arguments: object) -> inference.Prediction:
        if len(seen) == 3:
            while not (output / "c.png").exists():
                time.sleep(0.01)
            shutil.rmtree(output)
        seen.append(arguments)
        return done(*arguments)  # pyright: ignore

    seen: list[object] = []
    monkeypatch.setattr(prediction, "predict", remove_and_predict)
    code, said = rectiseg("predict", images, "-o", output, "--model", model)
    assert code == 1
    reports(said, remaining(output), code)


@pytest.mark.fault("an output folder removed in the run", "train")
@pytest.mark.usefixtures("accelerator", "short")
def test_a_training_whose_folder_was_removed_ends(
    rectiseg: Command, tmp_path: Path, reports: Reports, monkeypatch: pytest.MonkeyPatch
):
    step = Run.train_step

    def step_and_remove(run: Run) -> float:
        loss = step(run)
        shutil.rmtree(tmp_path / "out")
        return loss

    monkeypatch.setattr(Run, "train_step", step_and_remove)
    code, said = rectiseg(*TRAIN, tmp_path / "out")
    assert code == 2
    reports(said, remaining(tmp_path / "out"), code)


@pytest.mark.fault("an empty folder", "predict")
def test_an_empty_folder_is_refused(model: Path, rectiseg: Command, tmp_path: Path, reports: Reports):
    (tmp_path / "in").mkdir()
    code, said = rectiseg("predict", tmp_path / "in", "-o", tmp_path / "out", "--model", model)
    assert code == 2
    reports(said, remaining(tmp_path / "out"), code)


@pytest.mark.fault("unicode and very long names", "predict --overlay")
def test_names_of_every_kind_are_kept_and_only_what_is_too_long_is_named(
    model: Path, rectiseg: Command, tmp_path: Path, reports: Reports
):
    """As many bytes as a name may have leave no room for the overlay's."""
    for name in ("Ärger 🚲.png", "自行车.png", os.fsdecode(b"\xff.png"), "a" * 251 + ".png"):
        scene(tmp_path / "in" / name)
    code, said = rectiseg("predict", tmp_path / "in", "-o", tmp_path / "out", "--model", model, "--overlay")
    assert code == 1
    kept = sorted(os.fsencode(path.name) for path in (tmp_path / "out").iterdir() if "_overlay" not in path.name)
    assert kept == [*sorted(map(str.encode, ("Ärger 🚲.png", "自行车.png"))), b"\xff.png"]
    reports(said.replace("a" * 251, "aaa..."), remaining(tmp_path / "out"), code)


@pytest.mark.fault("symbolic link loops", "predict")
def test_links_that_lead_in_circles_are_left_and_one_to_itself_is_no_file(
    images: Path, model: Path, rectiseg: Command, tmp_path: Path, reports: Reports
):
    (images / "deeper").mkdir()
    (images / "deeper" / "up").symlink_to(images)
    (images / "self.png").symlink_to(images / "self.png")
    code, said = rectiseg("predict", images, "-o", tmp_path / "out", "--model", model)
    assert code == 1
    reports(said, remaining(tmp_path / "out"), code)


@pytest.mark.fault("symbolic link loops", "predict -o LOOP")
def test_an_output_that_leads_to_itself_is_refused(
    images: Path, model: Path, rectiseg: Command, tmp_path: Path, reports: Reports
):
    (tmp_path / "out").symlink_to(tmp_path / "out")
    code, said = rectiseg("predict", images, "-o", tmp_path / "out", "--model", model)
    assert code == 2
    reports(said, "nothing", code)


@pytest.mark.fault("two runs into the same output at once", "predict")
def test_two_runs_at_once_end_with_whole_files(
    images: Path, model: Path, rectiseg: Command, tmp_path: Path, reports: Reports, monkeypatch: pytest.MonkeyPatch
):
    """Each writes every file, under a name of its own until it is whole."""
    monkeypatch.setattr(ProgressReporter, "quiet", True)
    statuses: list[int] = []
    runs = [
        threading.Thread(target=lambda: statuses.append(predict((images,), tmp_path / "out", model))) for _ in range(2)
    ]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    assert rectiseg("predict", images, "-o", tmp_path / "alone", "--model", model) == (0, "")
    for name in "abcd":
        maps = [read_label_map(tmp_path / folder / f"{name}.png") for folder in ("out", "alone")]
        assert np.array_equal(*maps)
    reports("", remaining(tmp_path / "out"), " and ".join(map(str, statuses)))


@pytest.mark.fault("two runs into the same output at once", "train")
@pytest.mark.usefixtures("accelerator", "short")
def test_a_second_training_into_the_same_folder_is_refused(rectiseg: Command, tmp_path: Path, reports: Reports):
    (tmp_path / "out" / "front").mkdir(parents=True)
    with alone_at(tmp_path / "out" / "front" / "state.safetensors", "as the first does"):
        code, said = rectiseg(*TRAIN, tmp_path / "out")
    assert code == 2
    assert not list((tmp_path / "out" / "front").iterdir())
    reports(said, "what the first writes", f"{code} of the second")
