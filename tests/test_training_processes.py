"""A whole training by two processes: they share the work, and what they leave is what one would leave."""

import csv
import json
from collections import Counter
from pathlib import Path

import pytest

from rectiseg.models.checkpoint import load, load_parser
from rectiseg.train import STAGES
from tiny_training import launch


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shared")
    done = launch(2, "smallest", folder)
    assert done.returncode == 0, done.stderr
    return folder


def processes(folder: Path) -> list[dict]:
    """What each wrote down: they all believe to be of two."""
    return [json.loads(path.read_text()) for path in sorted(folder.glob("process-*.json"))]


def test_two_processes_know_of_each_other(shared: Path):
    assert [process["processes"] for process in processes(shared)] == [2, 2]


def test_two_processes_store_each_image_once_and_each_of_them_half(shared: Path):
    images = [[name for name in process["stored"] if name.endswith(".safetensors")] for process in processes(shared)]
    for stage in ("front", "grn"):
        for split, counts in (("train", [2, 2]), ("val", [1, 0])):
            parent = f"confidences/{stage}/{split}/"
            assert [sum(name.startswith(parent) for name in names) for names in images] == counts, parent
    there = {str(path.relative_to(shared)) for path in shared.glob("confidences/*/*/*.safetensors")}
    assert Counter(name for names in images for name in names) == Counter(there)


def test_two_processes_write_every_step_once(shared: Path):
    for stage in STAGES["lrn"]:
        with (shared / stage / "curves.csv").open(newline="") as file:
            assert [row["step"] for row in csv.DictReader(file)] == ["1", "2"], stage


def test_two_processes_leave_every_stage_and_the_parser_and_nothing_half_written(shared: Path):
    assert {path.name for path in shared.glob("*.safetensors")} == {
        f"{name}.safetensors" for name in (*STAGES["lrn"], "parser")
    }
    for stage in STAGES["lrn"]:
        assert {path.name for path in shared.glob(f"{stage}/*.safetensors")} == {
            "best.safetensors",
            "state.safetensors",
        }
        load(shared / f"{stage}.safetensors")
    load_parser(shared / "parser.safetensors")
    assert not [path for path in shared.rglob(".*") if path.is_file()]
