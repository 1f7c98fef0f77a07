"""Curves of a training."""

import csv
import warnings
from contextlib import AbstractContextManager
from pathlib import Path

from rectiseg.data.files import atomic_path
from rectiseg.metrics import Scores


class Curves(AbstractContextManager["Curves"]):
    """Loss, learning rate and validation as CSV, and for TensorBoard where the extra is installed."""

    COLUMNS = ("step", "loss", "learning_rate", "mean_iou", "pixel_accuracy")

    def __init__(self, folder: Path, step: int):
        self.path = path = folder / "curves.csv"
        kept = self.rows_until(step, path) if path.exists() else []
        with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([self.COLUMNS, *kept])
        self.file = path.open("a", buffering=1, newline="", encoding="utf-8")  # a row can be read once it is written
        self.writer = csv.writer(self.file)
        self.board = open_tensorboard(folder, step)

    def rows_until(self, step: int, path: Path) -> list[list[str]]:
        """A killed run may have written rows beyond its last saved step, the last of them in part."""
        with path.open(newline="", encoding="utf-8") as file:
            rows = [row for row in csv.reader(file) if len(row) == len(self.COLUMNS)]
        return [row for row in rows if row[0].isdecimal() and int(row[0]) <= step]

    def add(self, step: int, loss: float, rate: float, scores: Scores | None) -> None:
        """A row; OSError where the file was removed, of which the system says nothing."""
        self.path.stat()
        measured = ("", "") if scores is None else (scores.mean_iou, scores.pixel_accuracy)
        row = (step, loss, rate, *measured)
        self.writer.writerow(row)
        if self.board is not None:
            for name, value in zip(self.COLUMNS[1:], row[1:], strict=True):
                if value != "":
                    self.board.add_scalar(name, value, step)

    def __exit__(self, *_: object) -> None:
        self.file.close()
        if self.board is not None and self.path.exists():  # TensorBoard's thread would print a traceback
            self.board.close()


def open_tensorboard(folder: Path, step: int):
    """A writer, or a warning and None without the extra: the CSV holds the same numbers."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ModuleNotFoundError as error:
        warnings.warn(
            f"curves are written as CSV only ({error}); pip install 'rectiseg[tensorboard]' to see them in TensorBoard",
            stacklevel=2,
        )
        return None
    return SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)
