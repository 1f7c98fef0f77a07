"""The README's commands do what it says: all of them but the two make targets, which run the tests themselves."""

import csv
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^    (\.venv/bin/.+)$", README, re.MULTILINE)
PROGRAMS = re.findall(r"^```python\n(.+?)^```$", README, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone as far as the commands see it: the examples, and a .venv that is this one."""
    clone = tmp_path_factory.mktemp("clone")
    shutil.copytree(ROOT / "examples", clone / "examples")
    (clone / ".venv").mkdir()
    (clone / ".venv" / "bin").symlink_to(Path(sys.executable).parent)
    return clone


def run(arguments: list[str] | str, folder: Path) -> None:
    environment = os.environ | {"COLUMNS": "200"}
    done = subprocess.run(
        arguments, shell=isinstance(arguments, str), cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_readme_has_commands_and_a_program():
    assert len(COMMANDS) >= 3
    assert len(PROGRAMS) == 1


def test_its_commands_run_one_after_another(folder: Path):
    for command in COMMANDS:
        run(command, folder)
    assert (folder / "labels" / "street.png").exists()
    assert (folder / "labels" / "street_panel.png").exists()
    assert (folder / "runs" / "scenes_tiny" / "parser.safetensors").exists()
    accuracy = {stage: last_accuracy(folder, stage) for stage in ("front", "grn", "lrn", "lrn_alone")}
    for stage, before in (("grn", "front"), ("lrn", "grn"), ("lrn_alone", "front")):  # none falls behind its input
        assert accuracy[stage] > accuracy[before] - 0.002, accuracy
    assert accuracy["lrn"] > accuracy["front"], accuracy


def last_accuracy(folder: Path, stage: str) -> float:
    with (folder / "runs" / "scenes_tiny" / stage / "curves.csv").open(newline="") as file:
        return float([row["pixel_accuracy"] for row in csv.DictReader(file)][-1])


def test_its_program_runs(folder: Path):
    run([sys.executable, "-c", PROGRAMS[0]], folder)


def test_its_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), target


def results(page: str) -> dict[str, tuple[str, str]]:
    """By name: the mean IoU and pixel accuracy in a page's first table that has both."""
    tables = [
        [[cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines()]
        for block in re.findall(r"(?:^\|.*\|\n)+", page, re.MULTILINE)
    ]
    header, _, *rows = next(rows for rows in tables if {"mean IoU", "pixel accuracy"} <= {*rows[0]})
    iou, accuracy = header.index("mean IoU"), header.index("pixel accuracy")
    return {re.sub(r" \(.*\)$", "", row[0]): (row[iou], row[accuracy]) for row in rows}


def test_its_results_are_those_of_the_model_card():
    """But for what it says in brackets about the front."""
    measured = results((ROOT / "docs" / "model_card.md").read_text(encoding="utf-8"))
    assert len(measured) >= 4
    assert results(README) == measured
