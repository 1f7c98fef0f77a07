"""Which image is done to which files, and how one is read and another written while a third is computed."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from errno import ENAMETOOLONG
from pathlib import Path
from typing import Generic, Protocol, TypeVar, runtime_checkable

import torch

from rectiseg.data.files import real
from rectiseg.data.images import find_images

Seen = TypeVar("Seen")
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Job:
    """An image and the label map to write for it; what else is asked for lies beside the label map.

    The label map is written last: where it exists, the job is done.
    """

    image: Path
    labels: Path

    @property
    def overlay(self) -> Path:
        return self.labels.with_name(f"{self.labels.stem}_overlay.png")

    @property
    def panel(self) -> Path:
        return self.labels.with_name(f"{self.labels.stem}_panel.png")

    @property
    def probabilities(self) -> Path:
        """One tensor "probabilities", (classes, height, width) float16, with the classes' names in the header."""
        return self.labels.with_name(f"{self.labels.stem}_probabilities.safetensors")

    @property
    def targets(self) -> tuple[Path, ...]:
        """All that may be written for the image, whether it is asked for or not."""
        return self.labels, self.overlay, self.panel, self.probabilities


@dataclass(frozen=True)
class Failure:
    """An image without a result, or a path without images; the sentence names the file and says why."""

    image: Path
    sentence: str


class ConcernsAll(ValueError):
    """What ends the work, for the next image would fare no better: a full disk, classes that do not match."""


def plan(paths: Sequence[Path], output: Path) -> list[Job | Failure]:
    """Where the results of which image go; refuses a plan that would overwrite an image or a result of its own.

    The tree below a folder is kept: `plan([photos], out)` sends photos/may/a.jpg to out/may/a.png. A path without
    images is a failure, which stands before the jobs; a plan without any job is refused.
    """
    if not paths:
        raise ValueError("no image was given: name image files, or folders that hold some")
    if output.exists() and not output.is_dir():
        raise ValueError(f"{output}: is a file; name a folder for the results")
    jobs: dict[Path, Job] = {}
    failures: dict[Path, Failure] = {}
    for path in paths:
        try:
            images, is_folder = find_images([path]), path.is_dir()
        except (ValueError, OSError) as error:
            failures[path] = Failure(path, str(error))
            continue
        if is_folder and real(output) != real(path) and real(output).is_relative_to(real(path)):
            raise ValueError(f"{output}: lies in {path}, where images are searched for; choose a folder outside it")
        for image in images:
            relative = image.relative_to(path) if is_folder else Path(image.name)
            jobs.setdefault(image.absolute(), Job(image, output / relative.with_name(f"{image.stem}.png")))
    if not jobs:
        raise ValueError("; ".join(failure.sentence for failure in failures.values()))
    refuse_collisions(list(jobs.values()))
    return [*failures.values(), *jobs.values()]


def refuse_collisions(jobs: Sequence[Job]) -> None:
    """Of all targets of every job: options then never decide whether a plan is good."""
    images = {real(job.image) for job in jobs}
    owners: dict[Path, Path] = {}
    for job in jobs:
        for target in job.targets:
            if target.exists() and real(target) in images:
                raise ValueError(f"{target}: an input, which {job.image}'s result would replace; choose another output")
            first = owners.setdefault(target, job.image)
            if first != job.image:
                raise ValueError(
                    f"{first} and {job.image}: both would be written to {target}; rename one, "
                    "or give the folder above both, whose tree is kept"
                )


@runtime_checkable
class Work(Protocol, Generic[Seen, Answer]):
    """What is done with each image. What concerns it alone raises ValueError, or what says that memory is short."""

    def read(self, job: Job, /) -> Seen: ...

    def answer(self, job: Job, seen: Seen, /) -> Answer: ...

    def write(self, job: Job, answer: Answer, /) -> None: ...


def process(
    work: Work[Seen, Answer], jobs: Iterable[Job | Failure], on_image: Callable[[], None] = lambda: None
) -> list[Failure]:
    """Do the jobs in order; one that fails does not stop the others, and what failed comes back.

    While one is answered, the next is read and the one before is written, each in a thread of its own. A file that
    cannot be written ends the work with ConcernsAll, at the latest when the next job is answered; it names what failed
    before, too.
    """
    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as pool:
        writer = Writer(pool, on_image)
        with naming(writer.failures):
            for job, reading in read_ahead(work.read, jobs, reader):
                if isinstance(job, Failure):
                    writer.fail(job)
                else:
                    answer(work, job, reading, writer)
            writer.wait()
    return writer.failures


@contextmanager
def naming(failures: Sequence[Failure]) -> Iterator[None]:
    """What ends the work ends their list, which nobody else would show, with a line each."""
    try:
        yield
    except ConcernsAll as error:
        sentences = [failure.sentence for failure in failures]
        raise ConcernsAll("\n".join([*sentences, str(error)])) from error


def answer(work: Work[Seen, Answer], job: Job, reading: "Future[Seen]", writer: "Writer") -> None:
    try:
        answered = work.answer(job, reading.result())
    except ConcernsAll:
        raise
    except (MemoryError, RuntimeError) as error:
        writer.fail(does_not_fit(job, error))
    except ValueError as error:
        sentence = str(error) if str(error).startswith(f"{job.image}:") else f"{job.image}: {error}"
        writer.fail(Failure(job.image, sentence))
    else:
        writer.write(work.write, job, answered)


def does_not_fit(job: Job, error: Exception) -> Failure:
    """Into memory, if that is what the error says; any other error is raised again."""
    if not out_of_memory(error):
        raise error
    return Failure(job.image, f"{job.image}: does not fit in memory; cut it into smaller images")


def read_ahead(
    read: Callable[[Job], Seen], jobs: Iterable[Job | Failure], reader: ThreadPoolExecutor
) -> Iterator[tuple[Job | Failure, "Future[Seen]"]]:
    """Every job with its reading, which began when the one before was handed out."""
    waiting: deque[tuple[Job | Failure, Future[Seen]]] = deque()
    for job in jobs:
        waiting.append((job, Future() if isinstance(job, Failure) else reader.submit(read, job)))
        if len(waiting) > 1:
            yield waiting.popleft()
    yield from waiting


class Writer:
    """Writes one answer at a time beside whoever calls; a second one has to wait for the first."""

    def __init__(self, pool: ThreadPoolExecutor, on_image: Callable[[], None]):
        self.pool = pool
        self.on_image = on_image
        self.failures: list[Failure] = []
        self.last: tuple[Job, Future[None]] | None = None

    def write(self, write: Callable[[Job, Answer], None], job: Job, answer: Answer) -> None:
        self.wait()
        self.last = job, self.pool.submit(written, write, job, answer)

    def fail(self, failure: Failure) -> None:
        self.wait()
        self.failures.append(failure)
        self.on_image()

    def wait(self) -> None:
        if self.last is None:
            return
        (job, last), self.last = self.last, None
        try:
            last.result()
        except ConcernsAll:
            raise
        except (MemoryError, RuntimeError) as error:
            self.failures.append(does_not_fit(job, error))
        except ValueError as error:
            self.failures.append(Failure(job.image, str(error)))
        self.on_image()


def written(write: Callable[[Job, Answer], None], job: Job, answer: Answer) -> None:
    with writing(job):
        write(job, answer)


@contextmanager
def writing(job: Job) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno == ENAMETOOLONG:
            raise ValueError(f"{job.image}: a result's name would be too long; give it a shorter one") from error
        raise ConcernsAll(f"{job.labels}: cannot be written ({error.strerror}); make room or choose another") from error


def out_of_memory(error: Exception) -> bool:
    """Torch has an exception of its own for a GPU's memory, but not for the main memory."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)
