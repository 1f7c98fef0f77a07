"""A training that is killed at any moment and started again ends as one that was not: SIGKILL, in real processes."""

import csv
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from faults import Reports
from rectiseg.data.files import Damaged, read_sealed

SCRIPT = Path(__file__).parent / "tiny_stage.py"
# Stage, rank, step. States are saved at the steps 3, 4, 6, 8, 9 and 10, the stage is validated at 4, 8 and 10.
KILLED_ALONE = (("front", 0, 5), ("lrn", 0, 8, "writing"), ("lrn", 0, 7))
KILLED_OF_TWO = (("front", 1, 2), ("lrn", 0, 7))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(folder: Path, processes: int, *killed: str | int, restarts: int = 0) -> subprocess.CompletedProcess[str]:
    launcher = []
    if processes > 1:
        meeting = ("--master-addr", "127.0.0.1", "--master-port", free_port())
        launcher = torchrun(processes, "--max-restarts", restarts, *meeting)
    command = [sys.executable, *launcher, str(SCRIPT), str(folder), *map(str, killed)]
    return subprocess.run(command, capture_output=True, text=True, env=environment())


def torchrun(processes: int, *options: str | int) -> list[str]:
    return ["-m", "torch.distributed.run", "--nproc-per-node", str(processes), *map(str, options)]


def environment() -> dict[str, str]:
    loopback = {"GLOO_SOCKET_IFNAME": "lo"} if sys.platform == "linux" else {}
    return os.environ | {"OMP_NUM_THREADS": "1"} | loopback


def finished(folder: Path, processes: int) -> Path:
    folder.mkdir()
    done = start(folder, processes)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished(tmp_path_factory.mktemp("alone") / "run", 1)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finished(tmp_path_factory.mktemp("two") / "run", 2)


def content_of(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """A state without its time."""
    tensors, words = read_sealed(path)
    return {key: value for key, value in words.items() if key != "seconds"}, tensors


def curve(folder: Path, stage: str) -> list[list[str]]:
    with (folder / stage / "curves.csv").open(newline="") as file:
        return list(csv.reader(file))


def assert_same(resumed: Path, uninterrupted: Path) -> None:
    """Bit for bit: weights, the optimizer's moments, best weights, and every step's loss."""
    for stage in ("front", "lrn"):
        for name in ("state", "best"):
            there, here = (content_of(folder / stage / f"{name}.safetensors") for folder in (resumed, uninterrupted))
            assert there[0] == here[0]
            assert there[1].keys() == here[1].keys()
            for key, value in here[1].items():
                assert torch.equal(there[1][key], value), f"{stage}'s {name}: {key}"
        assert curve(resumed, stage) == curve(uninterrupted, stage)


def test_every_step_is_written_down_once(alone: Path, two: Path):
    for folder in (alone, two):
        for stage in ("front", "lrn"):
            header, *rows = curve(folder, stage)
            assert header == ["step", "loss", "learning_rate", "mean_iou", "pixel_accuracy"]
            assert [row[0] for row in rows] == [str(step) for step in range(1, 11)]
            assert [row[0] for row in rows if row[3] and row[4]] == ["4", "8", "10"]


@pytest.mark.fault("kill -9 in the middle of writing", "train")
def test_a_killed_training_ends_as_one_that_was_not(alone: Path, tmp_path: Path, reports: Reports):
    for killed in KILLED_ALONE:
        done = start(tmp_path, 1, *killed)
        assert done.returncode == -9, killed
        if "writing" in killed:
            (half,) = (path for path in (tmp_path / "lrn").glob(".*.safetensors"))
            with pytest.raises(Damaged):
                read_sealed(half)
            assert read_sealed(tmp_path / "lrn" / "state.safetensors")[1]["step"] == "6"
            said = done.stderr
    assert start(tmp_path, 1).returncode == 0
    assert_same(tmp_path, alone)
    assert not list(tmp_path.rglob(".*"))
    remains = (
        "the state before, whole, and half of a hidden file; the same command removes that and ends as if never stopped"
    )
    reports(said, remains, "-9, then 0")


@pytest.mark.fault("kill -9 of a worker", "torchrun rectiseg train")
def test_a_training_of_two_processes_survives_the_death_of_either(two: Path, tmp_path: Path, reports: Reports):
    for killed in KILLED_OF_TWO:
        done = start(tmp_path, 2, *killed)
        assert done.returncode == 1, killed
        assert "Signal 9 (SIGKILL) received by PID" in done.stderr, done.stderr
    done = start(tmp_path, 2)
    assert done.returncode == 0, done.stderr
    assert_same(tmp_path, two)
    remains = "the last state, whole; the same command ends as if never stopped"
    reports("torchrun: Signal 9 (SIGKILL) received by PID", remains, "1, then 0")


@pytest.mark.fault("kill -9 of a worker", "torchrun --max-restarts 1 rectiseg train")
def test_torchrun_starts_a_training_again_that_lost_a_process(two: Path, tmp_path: Path, reports: Reports):
    done = start(tmp_path, 2, "lrn", 1, 5, restarts=1)
    assert done.returncode == 0, done.stderr
    assert "failed (exitcode: -9)" in done.stderr, done.stderr
    assert_same(tmp_path, two)
    reports("torchrun: failed (exitcode: -9)", "the training goes on by itself and ends as if never stopped", "0")


@pytest.mark.soak
def test_two_nodes_end_as_two_processes_of_one(two: Path, tmp_path: Path):
    """Two torchruns that meet on this machine."""
    meeting = ("--nnodes", 2, "--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{free_port()}")
    command = [sys.executable, *torchrun(1, *meeting, "--local-addr", "127.0.0.1"), str(SCRIPT), str(tmp_path)]
    nodes = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment()) for _ in range(2)]
    for node in nodes:
        _, said = node.communicate(timeout=300)
        assert node.returncode == 0, said
    assert_same(tmp_path, two)


def test_two_processes_take_the_steps_that_one_takes(alone: Path, two: Path):
    """Ten of them: weights, the optimizer's sums of gradients, and what the validations found, but for rounding."""
    here, there = (content_of(folder / "front" / "state.safetensors")[1] for folder in (alone, two))
    assert any(name.endswith("momentum_buffer") or "exp_avg" in name for name in here)
    for name, value in here.items():
        torch.testing.assert_close(there[name], value, rtol=1e-4, atol=1e-6, msg=lambda m, name=name: f"{name}: {m}")
    scores = [[row[3:] for row in curve(folder, "front")[1:] if row[3]] for folder in (alone, two)]
    assert len(scores[0]) == 3
    for here, there in zip(*scores, strict=True):
        assert list(map(float, there)) == pytest.approx(list(map(float, here)), abs=1e-3)


def test_two_processes_see_the_loss_that_one_sees(alone: Path, two: Path):
    """Half of the batch each, with other numbers of valid pixels: a mean of their means would be another."""
    for (_, here, *_), (_, there, *_) in zip(curve(alone, "front")[1:], curve(two, "front")[1:], strict=True):
        assert float(there) == pytest.approx(float(here), rel=1e-6)


def test_all_processes_end_with_the_weights_that_are_saved(two: Path):
    for stage in ("front", "lrn"):  # LRN with batch norm, whose statistics each process gathers for itself
        ends = [(two / f"{stage}-of-process-{rank}.json").read_text() for rank in (0, 1)]
        assert ends[0] == ends[1]
