"""Table 2 on a training of seconds: every row is there, measured once, and the front gains nothing over itself."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from networks import random, random_logits, tiny_grn
from rectiseg.models.checkpoint import fingerprint, load
from rectiseg.models.combine import Cascade
from rectiseg.progress import Reporter
from rectiseg.table2 import (
    Measured,
    after,
    as_markdown,
    gain,
    measure_held_out_rows,
    measure_rows,
    measures,
    names_of,
)
from rectiseg.train import HeldOut
from tiny_training import needs_weights, smallest

BLOCKS = [[0], [1]]
TITLES = ["MS-Dilation", "LRN", "GRN, N = 1", "GRN, N = 2", "GRN, LRN", "LRN, GRN", "GRN and LRN in parallel"]


class Heard(Reporter):
    """Remembers the parts of the job."""

    def __init__(self) -> None:
        self.parts: list[str] = []

    def stage(self, title: str, total: int) -> None:
        self.parts.append(title)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("table2")


def rows_of(folder: Path, reporter: Reporter) -> dict[str, list[Measured]]:
    trainings = [smallest(folder), smallest(folder)]
    trainings[1].refiner_seed = 1
    return measure_rows(trainings, {"nothing": Cascade()}, reporter)


@needs_weights
def test_every_row_is_measured_for_every_seed_and_never_again(folder: Path):
    rows = rows_of(folder, Reporter())
    assert list(rows) == ["front", "nothing", *TITLES, "GRN, LRN, multi-scale"]
    assert [len(row) for row in rows.values()] == [1, 1, *[2] * 8]
    again = Heard()
    repeated = rows_of(folder, again)
    assert not [part for part in again.parts if not part.startswith("confidences")]
    for title, row in rows.items():
        for one, other in zip(row, repeated[title], strict=True):
            assert one.milliseconds == other.milliseconds
            assert all(torch.equal(counts, other.counts[name]) for name, counts in one.counts.items())


@needs_weights
def test_a_row_is_measured_again_when_its_network_has_changed(folder: Path):
    rows_of(folder, Reporter())
    heard = Heard()
    measure_rows([smallest(folder)], {"nothing": Cascade(Cascade())}, heard)
    assert [part for part in heard.parts if not part.startswith("confidences")] == ["nothing"]


@needs_weights
def test_held_out_folds_are_measured_with_what_never_saw_them(tmp_path: Path):
    made = smallest(tmp_path)
    made.recipe = replace(made.recipe, folds=2)
    rows, names = measure_held_out_rows([made], {}, Reporter())
    train = made.datasets["train"]
    assert sorted(names) == sorted(train[index].name for index in range(len(train)))
    assert {len(counts) for row in rows.values() for counts in row[0].counts.values()} == {len(names)}
    for fold, unseen in enumerate(made.folds):
        held_out = HeldOut(made, fold)
        inside = {train[index].name for index in unseen}
        learnt_from = {
            path.stem for path in (held_out.output / "confidences" / "front" / "train").glob("*.safetensors")
        }
        assert learnt_from == set(names) - inside
        assert set(names_of(held_out.datasets["val"])) == inside
        assert fingerprint(held_out.front()) == fingerprint(load(tmp_path / f"front_fold{fold}.safetensors"))
    assert not (tmp_path / "front.safetensors").exists()


def random_measurements(seed: int) -> Measured:
    """Of two images and two classes."""
    generator = torch.Generator().manual_seed(seed)
    maps = torch.randint(2, (2, 2, 9, 14), generator=generator)
    counts = {name: torch.stack([measure.counts(*pair) for pair in maps]) for name, measure in measures(2).items()}
    return Measured(counts, 7.0)


def test_what_equals_the_front_gains_nothing():
    front = random_measurements(0)
    interval = gain(front, [front, front], "mean IoU", measures(2)["mean IoU"], BLOCKS)
    assert (interval.value, interval.low, interval.high, interval.blocks) == (0, 0, 0, 2)


def test_the_table_has_a_line_a_row_and_the_spread_of_its_seeds():
    rows = {"front": [random_measurements(0)], "LRN": [random_measurements(1), random_measurements(2)]}
    header, _, front, lrn = as_markdown(rows, 2, BLOCKS).splitlines()
    assert header.startswith("| | seeds | mean IoU | gain | pixel accuracy | gain | boundary F at 3 px | gain |")
    assert len(header.split("|")) == len(front.split("|")) == len(lrn.split("|"))
    assert front.startswith("| front | 1 | ")
    assert lrn.startswith("| +LRN | 2 | ")
    assert " ± " in lrn
    assert lrn.endswith("] | 7 |")


def test_a_grn_read_after_one_iteration_shares_its_weights_and_changes_nothing_of_the_whole():
    grn, image, logits = tiny_grn(iterations=3), random(1, 3, 9, 14), random_logits(1, 5, 9, 14)
    once = after(grn, 1)
    assert grn.iterations == 3
    assert once(image, logits).equal(grn.supervised(image, logits)[1])
    assert all(one is other for one, other in zip(once.parameters(), grn.parameters(), strict=True))
