"""Reading, answering and writing: at the same time, and to a user as if it were one after another."""

from collections.abc import Callable
from pathlib import Path
from threading import Event, current_thread, main_thread

import pytest

from rectiseg.data.files import atomic_path
from rectiseg.jobs import ConcernsAll, Failure, Job, process

PATIENCE = 20.0


class Recorded:
    """Work on numbers that are their images' names: reads, doubles and writes them."""

    def __init__(self, **instead: Callable[[int], object]):
        self.instead = instead
        self.read_so_far: list[int] = []

    def maybe(self, what: str, number: int) -> None:
        if what in self.instead:
            self.instead[what](number)

    def read(self, job: Job) -> int:
        number = int(job.image.name)
        self.read_so_far.append(number)
        self.maybe("read", number)
        return number

    def answer(self, job: Job, seen: int) -> int:
        assert current_thread() is main_thread()
        self.maybe("answer", seen)
        return 2 * seen

    def write(self, job: Job, answer: int) -> None:
        with atomic_path(job.labels) as path:
            path.write_text(str(answer)[:1])
            self.maybe("write", answer // 2)
            path.write_text(str(answer))


def numbered(folder: Path, count: int) -> list[Job | Failure]:
    return [Job(Path(str(number)), folder / f"{number}.png") for number in range(count)]


def written(folder: Path) -> dict[str, int]:
    return {path.name: int(path.read_text()) for path in sorted(folder.iterdir())}


def fails_at(number: int, error: BaseException) -> Callable[[int], None]:
    def fail(seen: int) -> None:
        if seen == number:
            raise error

    return fail


def test_everything_is_answered_in_order_and_written(tmp_path: Path):
    done = []
    assert process(Recorded(), numbered(tmp_path, 5), lambda: done.append(1)) == []
    assert written(tmp_path) == {f"{number}.png": 2 * number for number in range(5)}
    assert len(done) == 5


def test_one_is_read_and_one_is_written_while_another_is_answered(tmp_path: Path):
    """Each waits for the others: one after another they would wait in vain."""
    reads, writes, answers = ({number: Event() for number in range(4)} for _ in range(3))

    def answer(number: int) -> None:
        if number < 3:
            assert reads[number + 1].wait(PATIENCE)
        answers[number].set()

    def write(number: int) -> None:
        if number < 3:
            assert answers[number + 1].wait(PATIENCE)
        writes[number].set()

    work = Recorded(read=lambda number: reads[number].set(), answer=answer, write=write)
    assert process(work, numbered(tmp_path, 4)) == []
    assert all(event.is_set() for event in writes.values())


def test_no_more_than_the_next_is_read_ahead(tmp_path: Path):
    ahead = []

    def answer(number: int) -> None:
        ahead.append(max(work.read_so_far) - number)

    work = Recorded(answer=answer)
    process(work, numbered(tmp_path, 9))
    assert max(ahead) <= 1


def test_failures_come_back_in_the_order_of_the_jobs_and_stop_no_other(tmp_path: Path):
    jobs = numbered(tmp_path, 5)
    jobs.insert(2, Failure(Path("nowhere"), "nowhere: no such file"))
    work = Recorded(read=fails_at(3, ValueError("3: broken")), answer=fails_at(1, MemoryError()))
    assert [failure.sentence for failure in process(work, jobs)] == [
        "1: does not fit in memory; cut it into smaller images",
        "nowhere: no such file",
        "3: broken",
    ]
    assert list(written(tmp_path)) == ["0.png", "2.png", "4.png"]


@pytest.mark.parametrize("last", [False, True])
def test_what_cannot_be_written_ends_the_work_with_a_sentence(last: bool, tmp_path: Path):
    work = Recorded(write=fails_at(2, OSError(28, "No space left on device")))
    with pytest.raises(ConcernsAll, match=r"2\.png: cannot be written .*No space left"):
        process(work, numbered(tmp_path, 3 if last else 9))
    assert list(written(tmp_path))[:2] == ["0.png", "1.png"]
    assert not (tmp_path / "2.png").exists()
    assert len(work.read_so_far) <= 6


def test_what_concerns_all_images_is_no_failure_of_one(tmp_path: Path):
    with pytest.raises(ConcernsAll, match="3 classes"):
        process(Recorded(answer=fails_at(1, ConcernsAll("3 classes"))), numbered(tmp_path, 3))
    assert written(tmp_path) == {"0.png": 0}


def test_what_failed_before_the_work_ended_is_named_too(tmp_path: Path):
    work = Recorded(
        read=fails_at(1, ValueError("1: broken")), write=fails_at(2, OSError(28, "No space left on device"))
    )
    with pytest.raises(ConcernsAll, match=r"(?s)^1: broken\n.*2\.png: cannot be written"):
        process(work, numbered(tmp_path, 4))


def test_what_does_not_fit_in_memory_while_it_is_written_is_named(tmp_path: Path):
    (failure,) = process(Recorded(write=fails_at(1, MemoryError())), numbered(tmp_path, 3))
    assert failure.sentence == "1: does not fit in memory; cut it into smaller images"
    assert list(written(tmp_path)) == ["0.png", "2.png"]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("shapes")])
def test_files_are_whole_when_the_work_is_stopped(error: BaseException, tmp_path: Path):
    with pytest.raises(type(error)):
        process(Recorded(answer=fails_at(6, error)), numbered(tmp_path, 9))
    assert written(tmp_path) == {f"{number}.png": 2 * number for number in range(6)}
