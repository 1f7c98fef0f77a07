"""Curves of a training: what a kill, a second start and a missing TensorBoard leave of them."""

import csv
import sys
import time
from pathlib import Path

import pytest

from rectiseg.curves import Curves
from rectiseg.metrics import Scores


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "curves.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_rows_beyond_the_saved_step_are_forgotten_and_the_others_never_lost(tmp_path: Path):
    path = tmp_path / "curves.csv"
    path.write_bytes(
        b"step,loss,learning_rate,mean_iou,pixel_accuracy\r\n9,0.5,0.1,,\r\n10,0.4,0.1,0.2,0.3\r\n11,0.3,0.1,,\r\n1"
    )
    with Curves(tmp_path, 10):
        kept = path.read_bytes().split(b"\r\n")[1:]  # as a kill would leave them, before anything is closed
    assert kept == [b"9,0.5,0.1,,", b"10,0.4,0.1,0.2,0.3", b""]


def test_a_row_can_be_read_as_soon_as_it_is_written(tmp_path: Path):
    with Curves(tmp_path, 0) as curves:
        curves.add(1, 0.5, 0.1, None)
        assert (tmp_path / "curves.csv").read_text(encoding="utf-8").splitlines()[1:] == ["1,0.5,0.1,,"]


def write(folder: Path, saved: int, steps: range, shift: float) -> None:
    """Every other step is validated."""
    with Curves(folder, saved) as curves:
        for step in steps:
            scores = Scores(step / 16 + shift, step / 8, ()) if step % 2 == 0 else None
            curves.add(step, 1 / step + shift, 1e-3 / step, scores)


def test_tensorboard_reads_every_step_once_with_the_values_of_the_csv(tmp_path: Path):
    pytest.importorskip("tensorboard", reason="the extra [tensorboard] is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    write(tmp_path, saved=0, steps=range(1, 6), shift=0.0)
    time.sleep(1.0)  # TensorBoard sorts its files by the second in their names
    write(tmp_path, saved=3, steps=range(4, 7), shift=0.25)
    assert [row["step"] for row in rows(tmp_path)] == ["1", "2", "3", "4", "5", "6"]
    board = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert set(board.Tags()["scalars"]) == set(Curves.COLUMNS[1:])
    for name in Curves.COLUMNS[1:]:
        written = [(int(row["step"]), float(row[name])) for row in rows(tmp_path) if row[name]]
        shown = [(event.step, event.value) for event in board.Scalars(name)]
        assert [step for step, _ in shown] == [step for step, _ in written], name
        assert [value for _, value in shown] == pytest.approx([value for _, value in written], rel=1e-6), name


def test_without_tensorboard_the_csv_is_written_and_a_warning_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in [name for name in sys.modules if name.startswith("torch.utils.tensorboard")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorboard", None)  # as if it were not installed
    with pytest.warns(UserWarning, match=r"CSV only .* pip install 'rectiseg\[tensorboard\]'") as said:
        curves = Curves(tmp_path, 0)
    assert len(said) == 1
    with curves:
        assert curves.board is None
        curves.add(1, 0.5, 0.1, Scores(0.75, 0.25, ()))
    assert [list(row.values()) for row in rows(tmp_path)] == [["1", "0.5", "0.1", "0.25", "0.75"]]
    assert not (tmp_path / "tensorboard").exists()
