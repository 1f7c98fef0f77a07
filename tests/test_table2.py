"""Table 2 on a training of seconds: every row is measured once, and drives by what never saw them."""

import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from networks import TinyEncoder, random, random_logits, tiny_grn
from rectiseg import cli, table2, table2_rows, train
from rectiseg.data.confidences import View, store_confidences
from rectiseg.held_out import WithoutDrive
from rectiseg.measured import Measured
from rectiseg.models.checkpoint import fingerprint, identity, load, load_refiner, read_training, save
from rectiseg.models.combine import Cascade, SceneParser
from rectiseg.models.front import Front
from rectiseg.progress import Reporter
from rectiseg.recipes import RECIPES
from rectiseg.table2 import as_json, as_page, measure_all, measure_drives, measure_rows, milliseconds, over_drives
from rectiseg.table2_rows import Rows, after, tuned_crf
from rectiseg.train import Training
from tiny_stage import Drawn
from tiny_training import smallest

LIGHT = ["light GRN", "light GRN, BilateralLRN"]
WITH_LRN_ALONE = ["LRN, GRN", "GRN and LRN in parallel"]
AFTER_FRONT = ["GRN, N = 1", "GRN, N = 2", "GRN, LRN", "GRN, BilateralLRN", *LIGHT, *WITH_LRN_ALONE]
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


def measured_in(folder: Path, rows: Rows, train: bool = True) -> dict[str, list[Measured]]:
    return measure_rows(rows, folder / "table2", train)


def changed_weights(module: nn.Module) -> nn.Module:
    with torch.no_grad():
        next(module.parameters()).add_(1)
    return module


@pytest.fixture(autouse=True)
def tiny_encoders(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(train, "pretrained_encoder", lambda *_: TinyEncoder())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("table2")


def rows_of(folder: Path, reporter: Reporter | None = None, seeds: int = 2) -> Rows:
    trainings = [smallest(folder, reporter) for _ in range(seeds)]
    for seed, training in enumerate(trainings):
        training.refiner_seed = seed
        training.datasets = training.datasets | {"val": VAL}
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


def test_every_row_is_measured_for_every_seed_and_never_again(folder: Path):
    rows = measured_in(folder, rows_of(folder))
    assert list(rows) == TITLES
    assert [len(row) for row in rows.values()] == [1, 2, 2, 2, *[1] * 9]
    heard = Heard()
    repeated = measured_in(folder, rows_of(folder, heard))
    assert not heard.parts
    for title, row in rows.items():
        for one, other in zip(row, repeated[title], strict=True):
            assert all(torch.equal(counts, other.counts[name]) for name, counts in one.counts.items())


def test_where_the_recipe_has_one_iteration_a_grn_of_three_is_read_after_each(tmp_path: Path):
    made = smallest(tmp_path)
    made.recipe = replace(made.recipe, iterations=1)
    assert made.grn_iterated().iterations == 3
    rows = Rows([made], [made], crf=False)
    titles = [row.title for row in rows]
    iterated = [f"GRN trained for 3, N = {n}" for n in (1, 2, 3)]
    assert [title for title in titles if title.startswith("GRN trained")] == iterated
    fewer = [row.title for row in replace(rows, iterated=False)]
    assert fewer == [title for title in titles if title not in iterated]


def test_a_row_is_measured_again_when_its_network_has_changed(folder: Path):
    rows = rows_of(folder, heard := Heard())
    measured_in(folder, rows)
    heard.parts.clear()
    path = folder / "context.safetensors"
    known, changed = path.read_bytes(), changed_weights(load(path))
    save(changed, path, read_training(path))
    measured_in(folder, rows)
    assert heard.parts == ["measure MS-Dilation"]
    path.write_bytes(known)


def test_records_outlive_the_weights(folder: Path, tmp_path: Path):
    records = folder / "table2"
    before = measured_in(folder, rows_of(folder))
    heard = Heard()
    again = measure_rows(rows_of(tmp_path / "empty", heard), records, train=False)
    assert not heard.parts
    assert list(again) == TITLES
    for title, row in before.items():
        for one, other in zip(row, again[title], strict=True):
            assert all(torch.equal(counts, other.counts[name]) for name, counts in one.counts.items())


def test_a_record_is_of_the_settings_and_images_that_it_was_made_with(folder: Path, tmp_path: Path):
    records = folder / "table2"
    measured_in(folder, rows_of(folder))
    (made,) = rows_of(tmp_path, seeds=1).local
    made.recipe = replace(made.recipe, lrn=replace(made.recipe.lrn, phases=((1, 7e-3),)))
    found = measure_rows(Rows([made], [made], crf=False), records, train=False)
    with_lrn = {"LRN", "LRN, GRN", "GRN, LRN", "GRN and LRN in parallel", "all of it, multi-scale and flip"}
    assert {*TITLES} - {*found} == with_lrn
    made.datasets = made.datasets | {"val": renamed(Drawn(2, 1, 25, 33), "0002_1", "0003_2")}
    assert not measure_rows(Rows([made], [made], crf=False), records, train=False)


def test_without_training_what_is_missing_is_named(folder: Path, tmp_path: Path):
    measured_in(folder, rows_of(folder))
    records = tmp_path / "records"
    records.mkdir()
    for title in ("front", "LRN", "GRN, LRN"):
        shutil.copy(folder / "table2" / f"{title}.safetensors", records)
    rows = rows_of(tmp_path / "empty", seeds=1)
    lines = as_page(
        measure_all(rows, with_drives=False, folder=records, train=False), "rectiseg table2 ..."
    ).splitlines()
    table, _, took = "\n".join(lines).partition("## What it took")
    assert re.findall(r"^\| (\S.*?) \| \d \|", table, re.MULTILINE) == ["front", "+LRN", "+GRN, LRN"]
    assert re.findall(r"^\| (\w+) \| 0 \|", took, re.MULTILINE) == ["front", "grn", "lrn", "lrn_alone"]
    (named,) = (line for line in lines if line.startswith("Not measured: "))
    absent = [f"+{title}" for title in TITLES if title not in ("front", "LRN", "GRN, LRN")]
    assert named == f"Not measured: {'; '.join(absent)}."
    with pytest.raises(ValueError, match="no record of this recipe's front on these images"):
        measure_all(rows, with_drives=False, folder=tmp_path / "none", train=False)


def test_a_time_is_taken_once_a_machine_and_holds_the_front_s(folder: Path, monkeypatch: pytest.MonkeyPatch):
    measured_in(folder, rows_of(folder))
    monkeypatch.setattr(table2, "timed", lambda networks, *_: dict.fromkeys(networks, 5.0))
    times = milliseconds(rows_of(folder), folder / "times")
    assert times == dict.fromkeys(TITLES, 10.0) | {"front": 5.0, TITLES[-1]: 5.0}
    monkeypatch.setattr(table2, "timed", lambda networks, *_: dict.fromkeys(networks, 6.0))
    assert milliseconds(rows_of(folder), folder / "times") == times
    monkeypatch.setattr(table2, "machine", lambda: "another machine")
    assert milliseconds(rows_of(folder), folder / "times")["LRN"] == 12.0


def test_saved_parsers_join_the_ensemble(folder: Path):
    measured_in(folder, rows_of(folder))
    path = folder / "another.safetensors"
    save(SceneParser(load(folder / "front.safetensors"), Cascade()), path)
    rows = replace(rows_of(folder, seeds=1), ensemble=[path])
    first = measured_in(folder, rows)
    assert list(first) == [*TITLES, "ensemble of 2"]
    save(changed_weights(SceneParser(load(folder / "front.safetensors"), Cascade())), path)
    heard = Heard()
    changed = measured_in(folder, replace(rows_of(folder, heard, seeds=1), ensemble=[path]))
    assert heard.parts == ["measure ensemble of 2"]
    path.unlink()
    kept = measured_in(folder, rows, train=False)  # its record outlives it
    counts = [found["ensemble of 2"][0].counts["mean IoU"] for found in (first, changed, kept)]
    assert not counts[0].equal(counts[1])
    assert counts[1].equal(counts[2])


def test_a_drive_is_measured_with_what_never_saw_it(tmp_path: Path):
    made = with_drives(tmp_path)
    parts = measure_drives(Rows([made], [made], crf=False, iterated=False), tmp_path / "table2")
    assert {drive: len(part["front"][0].counts["mean IoU"]) for drive, part in parts.items()} == {"a": 2, "b": 3}
    rows = over_drives(parts)
    assert list(rows) == TITLES
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
    made.datasets |= {"train": renamed(Drawn(2, 0, 25, 33), "1", "2"), "val": renamed(Drawn(1, 0, 25, 33), "3")}
    with pytest.raises(ValueError, match="the drive 1, a name up to its first underscore, has one image"):
        WithoutDrive(made, "1")


def test_drives_after_stored_confidences_are_refused_before_anything_is_trained(tmp_path: Path):
    made = with_drives(tmp_path / "out")
    made.confidences = tmp_path / "stored"
    with pytest.raises(ValueError, match="cannot be trained without a drive: add --no-drives"):
        measure_all(Rows([made], [made]), with_drives=True, folder=tmp_path / "out" / "table2")
    assert not (tmp_path / "out").exists()


def test_the_crf_is_tuned_on_training_images_once(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(table2_rows, "TRIALS", 3)
    crf = tuned_crf(smallest(folder))
    heard = Heard()
    assert fingerprint(tuned_crf(smallest(folder, heard))) == fingerprint(crf)
    assert not heard.parts
    assert fingerprint(load_refiner(folder / "crf.safetensors")) == fingerprint(crf)


def test_the_page_has_both_tables_and_says_what_printed_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(table2, "blocks_of", lambda names: [[index] for index in range(len(names))])
    made = with_drives(tmp_path)
    made.datasets["val"] = renamed(Drawn(2, 1, 25, 33), "b_3", "b_4")
    rows = Rows([made], [made], crf=False, iterated=False)
    found = measure_all(rows, with_drives=True, folder=tmp_path / "table2")
    lines = as_page(found, "rectiseg table2 ...").splitlines()
    assert lines[2] == "Printed by `rectiseg table2 ...`."
    headings = ["## Val", "## Drives that nothing was trained on", "## What it took"]
    assert [line for line in lines if line.startswith("##")] == headings
    assert sum(line.startswith("| +LRN | 1 |") for line in lines) == 2
    assert "2 images in 2 blocks." in lines
    assert "6 images in 6 blocks." in lines
    assert {"| context | 0 |", "| without a, front | 0 |"} <= set(lines)
    assert lines[-1] == "0.0 hours of training in all."
    told = as_json(found)
    assert {name: list(rows) for name, rows in told.items()} == dict.fromkeys(("val", "drives"), TITLES)
    (line,) = (line for line in lines[: lines.index(headings[1])] if line.startswith("| +LRN | 1 |"))
    figure = told["val"]["LRN"]["mean IoU"]
    low, high = figure["interval"]
    said = f"{100 * figure['seeds'][0]:.2f} | {100 * figure['gain']:+.2f} [{100 * low:+.2f}, {100 * high:+.2f}]"
    assert line.startswith(f"| +LRN | 1 | {said} |")


def test_after_another_parser_the_page_names_it_and_needs_no_front(tmp_path: Path):
    made = rows_of(tmp_path / "out", seeds=1).first
    for split, views in (("train", [View(), View(flip=True)]), ("val", [View()])):
        front = Front(TinyEncoder(), made.num_classes).eval()
        store_confidences(front, made.datasets[split], tmp_path / "stored" / split, views, "another parser 0123")
    made.confidences = tmp_path / "stored"
    rows = Rows([made], [made], crf=False, iterated=False)
    found = measure_all(rows, with_drives=False, folder=tmp_path / "table2", train=False)
    lines = as_page(found, "rectiseg table2 ...").splitlines()
    assert lines[0] == "# Table 2: scenes_tiny, after another parser 0123"
    (front,) = (line for line in lines if line.startswith("| front | 1 |"))
    figures = as_json(found)["val"]["front"]["mean IoU"]["seeds"]
    assert f"| {100 * figures[0]:.2f} |" in front
    assert f"Not measured: {'; '.join(f'+{title}' for title in TITLES[1:-1])}." in lines


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
