"""What a worker does: read some images, parse those of equal size together or refine each, write their label maps."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from rectiseg.batch.items import Item
from rectiseg.batch.manifest import Record
from rectiseg.batch.places import fetch, is_remote, publish
from rectiseg.data.images import png_size, read_image, read_label_map
from rectiseg.data.large_images import stored_size
from rectiseg.inference import (
    Naming,
    Prediction,
    Wanted,
    Written,
    device_of,
    predict,
    refined,
    title_of,
    unrolled,
)
from rectiseg.jobs import Failure, Job, Work, out_of_memory, process
from rectiseg.metrics import confusion
from rectiseg.prediction import AnySize, too_large
from rectiseg.progress import Reporter
from rectiseg.refinement import FileRefiner, RefineJob

OneImage = Float[Tensor, "3 height width"]


@dataclass(frozen=True)
class Task:
    """What every worker has to know. ``load`` gives a parser, or what refines, of that title and fingerprint.

    A refiner's ``num_classes`` is 0 where it refines maps of any number.
    """

    load: Callable[[], nn.Module | FileRefiner]
    source: str
    naming: Naming
    wanted: Wanted
    batch_size: int
    num_classes: int

    @property
    def model(self) -> str:
        """The fingerprint."""
        return self.source.rpartition(" ")[2]


class Worker:
    """One model in a process of its own.

    Its threads take items each: while one computes, others read and write. Only one of them parses, for memory's sake.
    """

    def __init__(self, task: Task):
        self.task = task
        self.computing = Lock()

    def load(self) -> None:
        self.model = self.task.load()

    def do(self, items: Sequence[Item]) -> list[Record]:
        """Read, parse or refine, and write; what concerns all images (a full disk) raises ValueError."""
        with TemporaryDirectory() as folder:
            jobs = [staged(item, Path(folder, str(number))) for number, item in enumerate(items)]
            model = self.model
            work = self.refining(model) if isinstance(model, FileRefiner) else self.parsing(model, jobs)
            return [self.record(item, job, work) for item, job in zip(items, jobs, strict=True)]

    def refining(self, refiner: FileRefiner) -> Work[Any, Any]:
        return Written(refiner, self.task.naming, self.task.wanted)

    def parsing(self, parser: nn.Module, jobs: Sequence[Job | Failure]) -> Work[Any, Any]:
        """As `rectiseg predict` does, images that are too large in tiles."""
        task = self.task
        whole = Written(Together(parser, jobs, task, self.computing), task.naming, task.wanted)
        _, palette = task.naming(task.num_classes)
        return AnySize(whole, parser, palette, tile=None, reporter=Reporter(), computing=self.computing)

    def record(self, item: Item, job: Job | Failure, work: Work[Any, Any]) -> Record:
        started = time.perf_counter()
        for failure in process(work, [job]):
            return Record(item.image, item.labels, None, None, self.task.model, placed(failure.sentence, job, item))
        assert isinstance(job, Job)
        size = png_size(job.labels)
        if is_remote(item.labels):
            deliver(job, item.labels)
        try:
            counts = None if item.truth is None else counts_of(job.labels, item.truth, self.task.num_classes)
        except (MemoryError, RuntimeError, ValueError) as error:
            if not of_one_image(error):
                raise
            reason = f"{item.truth}: does not fit in memory" if out_of_memory(error) else error
            return Record(item.image, item.labels, None, None, self.task.model, f"{item.image}: {reason}")
        seconds = round(time.perf_counter() - started, 4)
        return Record(item.image, item.labels, size, seconds, self.task.model, counts=counts)


def counts_of(labels: Path, truth: str, num_classes: int) -> list[list[int]]:
    """A written label map's pixels against the true ones: [true class, predicted class, number], as far as there are
    any; ValueError where the true ones are of another size or other classes."""
    with TemporaryDirectory() as folder:
        true = read_label_map(fetch(truth, Path(folder, "truth")))
    said = read_label_map(labels)
    if said.shape != true.shape:
        raise ValueError(f"{truth}: {true.shape[1]}x{true.shape[0]}, for an image of {said.shape[1]}x{said.shape[0]}")
    predicted, annotated = (torch.from_numpy(values.astype(np.int64)) for values in (said, true))
    try:
        matrix = confusion(predicted, annotated, num_classes)
    except ValueError as error:
        raise ValueError(f"{truth}: {error}") from error
    return [[*place, int(matrix[*place])] for place in matrix.nonzero().tolist()]


def of_one_image(error: Exception) -> bool:
    """It is refused, or memory is short; the others may fare better."""
    return isinstance(error, ValueError) or out_of_memory(error)


def staged(item: Item, folder: Path) -> Job | Failure:
    """The item as a job on local files: what is remote is fetched."""
    labels = folder / "labels" / Path(item.labels).name if is_remote(item.labels) else Path(item.labels)
    try:
        image = fetch(item.image, folder / "image")
        if item.prediction is None:
            return Job(image, labels)
        return RefineJob(image, labels, fetch(item.prediction, folder / "prediction"))
    except ValueError as error:
        return Failure(Path(item.image), str(error))


def placed(sentence: str, job: Job | Failure, item: Item) -> str:
    """With the names of the item's places for those of their copies."""
    if isinstance(job, RefineJob):
        sentence = sentence.replace(str(job.prediction), str(item.prediction))
    return sentence.replace(str(job.image), item.image)


def deliver(job: Job, labels: str) -> None:
    """Every result of the job to where its label map belongs, that one last."""
    for target in reversed(job.targets):
        if target.exists():
            publish(target, f"{labels.rpartition('/')[0]}/{target.name}")


class Together:
    """Answers jobs one by one; images of equal size pass through the front together, and only these are held."""

    def __init__(self, parser: nn.Module, jobs: Sequence[Job | Failure], task: Task, computing: Lock):
        self.parser = parser
        self.waiting = [job for job in jobs if isinstance(job, Job)]
        self.task = task
        self.computing = computing
        self.answers: dict[Job, Prediction] = {}

    def read(self, job: Job) -> OneImage | None:
        """None where it was parsed together with an earlier one."""
        return None if job in self.answers else read_image(job.image)

    def answer(self, job: Job, image: OneImage | None) -> Prediction:
        if image is not None:
            self.waiting = self.waiting[self.waiting.index(job) + 1 :]
            self.parse({job: image} | self.alike(job, image))
        return self.answers.pop(job)

    def alike(self, job: Job, image: OneImage) -> dict[Job, OneImage]:
        """The next images of its size, as many as pass with it."""
        found: dict[Job, OneImage] = {}
        size = stored_size(job.image) if self.task.batch_size > 1 else None
        for other in self.waiting:
            if len(found) == self.task.batch_size - 1:
                break
            if other in self.answers or too_large(other.image) or stored_size(other.image) != size:
                continue
            try:
                beside = read_image(other.image)
            except (MemoryError, RuntimeError, ValueError) as error:
                if not of_one_image(error):
                    raise
                continue  # it is raised again when its turn comes
            if beside.shape == image.shape:  # a camera may have turned it
                found[other] = beside
        return found

    def parse(self, images: Mapping[Job, OneImage]) -> None:
        """Where they fail together, be it for lack of memory, the first is parsed alone."""
        with self.computing:
            try:
                predictions = predict_together(self.parser, list(images.values()), self.task.wanted.probabilities)
            except (MemoryError, RuntimeError, ValueError) as error:
                if len(images) == 1 or not of_one_image(error):
                    raise
                first = next(iter(images.values()))
                predictions = predict_together(self.parser, [first], self.task.wanted.probabilities)
        self.answers.update(zip(images, predictions, strict=False))


@torch.inference_mode()
def predict_together(parser: nn.Module, images: Sequence[OneImage], confidences: bool) -> list[Prediction]:
    """`predict` of images of one size, whose front sees them as a batch; a single one is predicted as ever."""
    if len(images) == 1:
        return [predict(parser, images[0], confidences)]
    front, refiners = unrolled(parser)
    batch = torch.stack(list(images)).to(device_of(parser))
    return [
        refined(title_of(front), image[None], logits[None], refiners, confidences)
        for image, logits in zip(batch, front(batch), strict=True)
    ]
