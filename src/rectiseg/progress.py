"""What a long command shows while it runs."""

from contextlib import AbstractContextManager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from rectiseg.metrics import Scores


class Reporter:
    """What a long job tells whoever watches; by itself it is silent."""

    def stage(self, title: str, total: int) -> None:
        """A new part of the job begins."""

    def step(self, done: int, loss: float | None = None, scores: Scores | None = None) -> None:
        """So much of it is done."""

    def advance(self) -> None:
        """One more of it is done."""

    def note(self, text: str) -> None:
        """How far the one that is being done is."""

    def say(self, sentence: str) -> None:
        """What is chosen for one of them."""


class Rate(ProgressColumn):
    """Images or steps a second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.2g}/s" if speed < 10 else f"{speed:.0f}/s")


class ProgressReporter(Reporter, AbstractContextManager["ProgressReporter"]):
    """A bar for each stage, and a line for each validation that stays; nothing under `rectiseg --quiet`."""

    quiet = False

    def __init__(self) -> None:
        self.console = Console(stderr=True, quiet=self.quiet)
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            Rate(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[loss]}"),
            console=self.console,
        )
        self.task = None

    def __enter__(self) -> "ProgressReporter":
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def stage(self, title: str, total: int) -> None:
        if self.task is not None:
            self.progress.remove_task(self.task)
        self.title = title
        self.task = self.progress.add_task(title, total=total, loss="")

    def advance(self) -> None:
        assert self.task is not None
        self.progress.update(self.task, advance=1, loss="")

    def note(self, text: str) -> None:
        assert self.task is not None
        self.progress.update(self.task, loss=text)

    def say(self, sentence: str) -> None:
        self.console.print(sentence, markup=False, highlight=False, soft_wrap=True)

    def step(self, done: int, loss: float | None = None, scores: Scores | None = None) -> None:
        assert self.task is not None
        self.progress.update(self.task, completed=done)
        if loss is not None:
            self.progress.update(self.task, loss=f"loss {loss:.3f}")
        if scores is not None:
            self.console.print(
                f"{self.title}, step {done}: mean IoU {100 * scores.mean_iou:.2f} %, "
                f"pixel accuracy {100 * scores.pixel_accuracy:.2f} %"
            )
