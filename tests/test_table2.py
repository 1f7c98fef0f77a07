"""Table 2 on a training of seconds: every row is measured once, and drives by what never saw them."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from networks import random, random_logits, tiny_grn
from rectiseg import cli, table2, train
from rectiseg.held_out import WithoutDrive
from rectiseg.models.checkpoint import fingerprint, identity, load, load_refiner, save
from rectiseg.models.combine import Cascade, SceneParser
from rectiseg.progress import Reporter
from rectiseg.recipes import RECIPES
from rectiseg.table2 import Rows, after, measure_drives, measure_rows, page, tuned_crf
from rectiseg.train import Training
from tiny_stage import Drawn
from tiny_training import needs_weights, smallest

AFTER_FRONT = ["GRN, N = 1", "GRN, N = 2", "GRN, LRN", "GRN, BilateralLRN", "LRN, GRN", "GRN and LRN in parallel"]
VAL = Drawn(2, 1, 25, 33)
VAL.names = ["0002_1", "0003_1"]
TITLES = ["front", "MS-Dilation", "LRN", "BilateralLRN", *AFTER_FRONT, "all of it, multi-scale and flip"]


class Heard(Reporter):
    """Remembers the parts of the job."""

    def __init__(self) -> None:
        self.parts: list[str] = []

    def stage(self, title: str, total: int) -> None:
        if not title.startswith("confidences"):
            self.parts.append(title)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("table2")


def rows_of(folder: Path, reporter: Reporter | None = None, seeds: int = 2) -> Rows:
    trainings = [smallest(folder, reporter) for _ in range(seeds)]
    for seed, training in enumerate(trainings):
        training.refiner_seed = seed
    return Rows(trainings, trainings[:1], crf=False, iterated=False)


def renamed(data: Drawn, *names: str) -> Drawn:
    data.names = list(names)
    data.samples = [sample._replace(name=name) for sample, name in zip(data.samples, names, strict=True)]
    return data


def with_drives(folder: Path) -> Training:
    made = smallest(folder)
    made.recipe = replace(made.recipe, without_drive=made.recipe.front)
    made.datasets = {
        "train": renamed(Drawn(4, 0, 25, 33), "a_1", "a_2", "b_1", "b_2"),
        "val": renamed(Drawn(1, 1, 25, 33), "b_3"),
    }
    return made


@needs_weights
def test_every_row_is_measured_for_every_seed_and_never_again(folder: Path):
    rows = measure_rows(rows_of(folder))
    assert list(rows) == TITLES
    assert [len(row) for row in rows.values()] == [1, 2, 2, 2, *[1] * 7]
    heard = Heard()
    repeated = measure_rows(rows_of(folder, heard))
    assert not heard.parts
    for title, row in rows.items():
        for one, other in zip(row, repeated[title], strict=True):
            assert one.milliseconds == other.milliseconds
            assert all(torch.equal(counts, other.counts[name]) for name, counts in one.counts.items())


@needs_weights
def test_where_the_recipe_has_one_iteration_a_grn_of_three_is_read_after_each(tmp_path: Path):
    made = smallest(tmp_path)
    made.recipe = replace(made.recipe, iterations=1)
    assert made.grn_iterated().iterations == 3
    rows = Rows([made], [made], crf=False)
    titles = [title for title, _, _ in rows.networks()]
    iterated = [f"GRN trained for 3, N = {n}" for n in (1, 2, 3)]
    assert [title for title in titles if title.startswith("GRN trained")] == iterated
    fewer = [title for title, _, _ in replace(rows, iterated=False).networks()]
    assert fewer == [title for title in titles if title not in iterated]


@needs_weights
def test_a_row_is_measured_again_when_its_network_has_changed(folder: Path):
    measure_rows(rows_of(folder))
    trained = load(folder / "context.safetensors")
    heard = Heard()
    rows = rows_of(folder, heard)
    with torch.no_grad():
        next(trained.parameters()).add_(1)
    rows.first.context = lambda: trained
    measure_rows(rows)
    assert heard.parts == ["MS-Dilation"]


@needs_weights
def test_saved_parsers_join_the_ensemble(folder: Path):
    measure_rows(rows_of(folder))
    path = folder / "another.safetensors"
    save(SceneParser(load(folder / "front.safetensors"), Cascade()), path)
    rows = replace(rows_of(folder, seeds=1), ensemble=[path])
    assert list(measure_rows(rows)) == [*TITLES, "ensemble of 2"]


@needs_weights
def test_a_drive_is_measured_with_what_never_saw_it(tmp_path: Path):
    made = with_drives(tmp_path)
    rows, names = measure_drives(Rows([made], [made], crf=False, iterated=False))
    assert names == ["a_1", "a_2", "b_1", "b_2", "b_3"]
    assert {len(counts) for row in rows.values() for counts in row[0].counts.values()} == {5}
    seen = {"a": {"b_1", "b_2"}, "b": {"a_1", "a_2"}}
    for drive, learnt in seen.items():
        without = WithoutDrive(made, drive)
        stored = without.output / "confidences" / "front" / "train"
        assert {path.stem for path in stored.glob("*.safetensors")} == learnt
        assert without.after_front("train").confidences.about["source"] == identity(without.front())
        assert set(without.datasets["train"].names) == learnt
    assert not (tmp_path / "front.safetensors").exists()


def test_one_drive_only_and_a_recipe_without_such_fronts_are_refused(tmp_path: Path):
    made = with_drives(tmp_path)
    made.datasets["train"] = renamed(Drawn(2, 0, 25, 33), "a_1", "a_2")
    with pytest.raises(ValueError, match="all training images are of the drive a"):
        WithoutDrive(made, "a")
    with pytest.raises(ValueError, match="scenes_tiny does not say how a front is trained without a drive"):
        WithoutDrive(smallest(tmp_path), "a")


def test_drives_after_stored_confidences_are_refused_before_anything_is_trained(tmp_path: Path):
    made = with_drives(tmp_path / "out")
    made.confidences = tmp_path / "stored"
    with pytest.raises(ValueError, match="cannot be trained without a drive: add --no-drives"):
        page(Rows([made], [made]), "rectiseg table2 ...", with_drives=True)
    assert not (tmp_path / "out").exists()


@needs_weights
def test_the_crf_is_tuned_on_training_images_once(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(table2, "TRIALS", 3)
    crf = tuned_crf(smallest(folder))
    heard = Heard()
    assert fingerprint(tuned_crf(smallest(folder, heard))) == fingerprint(crf)
    assert not heard.parts
    assert fingerprint(load_refiner(folder / "crf.safetensors")) == fingerprint(crf)


@needs_weights
def test_the_page_has_both_tables_and_says_what_printed_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(table2, "blocks_of", lambda names: [[index] for index in range(len(names))])
    made = with_drives(tmp_path)
    made.datasets["val"] = renamed(Drawn(2, 1, 25, 33), "b_3", "b_4")
    lines = page(Rows([made], [made], crf=False, iterated=False), "rectiseg table2 ...", with_drives=True).splitlines()
    assert lines[2].startswith("Printed by `rectiseg table2 ...`, on ")
    headings = ["## Val", "## Drives that nothing was trained on", "## What it took"]
    assert [line for line in lines if line.startswith("##")] == headings
    assert sum(line.startswith("| +LRN | 1 |") for line in lines) == 2
    assert "2 images in 2 blocks." in lines
    assert "6 images in 6 blocks." in lines
    assert {"| context | 0 |", "| without_a/front | 0 |"} <= set(lines)
    assert lines[-1] == "0.0 hours of training in all."


@needs_weights
def test_the_command_prints_the_same_page_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    def split_of(dataset: str, data: Path | None, split: str) -> Drawn:
        return renamed(Drawn(4, 0, 25, 33), "0001_1", "0001_2", "0001_3", "0001_4") if split == "train" else VAL

    recipe = smallest(tmp_path).recipe
    monkeypatch.setattr(train, "open_dataset", split_of)
    monkeypatch.setitem(RECIPES, "scenes_tiny", lambda: recipe)
    options = ["scenes_tiny", "-o", str(tmp_path), "--seeds", "0", "1", "--no-drives", "--no-crf", "--no-iterated"]
    pages = []
    for _ in range(2):
        monkeypatch.setattr(sys, "argv", ["rectiseg", "table2", *options])
        with pytest.raises(SystemExit) as exit:
            cli.main()
        assert not exit.value.code
        pages.append(capsys.readouterr().out)
    assert pages[0] == pages[1]
    assert f"Printed by `rectiseg table2 {' '.join(options)}`" in pages[0]
    rows = [line.split(" | ")[:2] for line in pages[0].splitlines() if line.startswith(("| front | 1", "| +"))]
    assert rows == [["| front", "1"], *([f"| +{title}", "2" if title in TITLES[1:4] else "1"] for title in TITLES[1:])]


def test_a_grn_read_after_one_iteration_shares_its_weights_and_changes_nothing_of_the_whole():
    grn, image, logits = tiny_grn(iterations=3), random(1, 3, 9, 14), random_logits(1, 5, 9, 14)
    once = after(grn, 1)
    assert grn.iterations == 3
    assert once(image, logits).equal(grn.supervised(image, logits)[1])
    assert all(one is other for one, other in zip(once.parameters(), grn.parameters(), strict=True))
