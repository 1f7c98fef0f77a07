"""Workers on a Ray cluster, and who does what: nothing is lost when one of them dies.

These are Ray's actors, not Ray Data, which cannot name what it loses: it repeats a batch whose image kills its worker
for ever, or, told not to, drops it together with the batches that waited for the same worker.
"""

import logging
import os
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from rectiseg.batch.items import Item
from rectiseg.batch.manifest import Record
from rectiseg.batch.worker import Task, Worker
from rectiseg.models.external.installed import library

TOGETHER = 8
"""Items that a worker is given at once; a larger batch takes as many as it holds."""

IN_FLIGHT = 3
"""How often: while it computes for one, it reads for another and writes a third's."""

STARTS = 3
"""So many workers that die in a row before they have their model end the run."""

LIVES = 2
"""So many workers that die of one item alone are enough: one of them may have been killed by chance."""

LOCAL = {
    "include_dashboard": False,
    "object_store_memory": 100_000_000,  # bytes; images do not pass through it
    "_system_config": {"worker_niceness": 0},  # as nice as the command; Ray's 15 starves them beside anything else
}

Items = tuple[Item, ...]


@contextmanager
def cluster(address: str | None) -> Iterator[None]:
    """The cluster at the address, a new one on this machine, or the one that this process has already joined."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray: Any = library("ray", "ray")
    if ray.is_initialized():
        yield
        return
    here = LOCAL if address is None else {}
    try:
        ray.init(address or "local", log_to_driver=False, logging_level=logging.ERROR, **here)
    except (ConnectionError, RuntimeError) as error:
        place = address or "this machine"
        raise ValueError(f"{place}: no Ray cluster answers there ({error}); check --ray-address") from error
    try:
        yield
    finally:
        ray.shutdown()


@dataclass(eq=False)
class Seat:
    """A worker's place: its actor, how many orders it has not answered, and whether one of them is a suspect."""

    actor: Any
    ready: bool = False
    held: int = 0
    suspect: bool = False


class Pool:
    """Does items on so many workers, by default as many as there are GPUs or CPUs; each takes one of them."""

    def __init__(self, task: Task, workers: int | None, on_gpu: bool):
        self.ray: Any = library("ray", "ray")
        resource = "GPU" if on_gpu else "CPU"
        there = int(self.ray.cluster_resources().get(resource, 0))
        if there < 1:
            raise ValueError(f"the cluster has no {resource}: choose another --device or --ray-address")
        self.size = workers or there
        options = {"num_cpus": 1, "num_gpus": int(on_gpu), "max_concurrency": IN_FLIGHT}
        self.worker = self.ray.remote(**options)(Worker)
        self.task = task
        self.seats: list[Seat] = []
        self.orders: dict[Any, tuple[Seat, Items]] = {}  # without items: to load the model
        self.deaths: Counter[Item] = Counter()  # of workers that had nothing else to do
        self.starts_failed = 0

    def results(self, items: Sequence[Item]) -> Iterator[Record]:
        """As they come. What was lost with a worker is done again, last and alone; what is lost so twice is named."""
        together = max(TOGETHER, self.task.batch_size)
        waiting = deque(tuple(items[start : start + together]) for start in range(0, len(items), together))
        suspects: deque[Items] = deque()
        for _ in range(min(self.size, len(waiting))):
            self.hire()
        while waiting or suspects or any(given for _, given in self.orders.values()):
            for seat in self.seats:
                self.give(seat, waiting, suspects)
            (reference, *_), _ = self.ray.wait(list(self.orders))
            seat, done = self.orders.pop(reference)
            try:
                records = self.ray.get(reference)
            except self.ray.exceptions.RayTaskError as error:
                raise error.cause from error
            except (self.ray.exceptions.RayActorError, self.ray.exceptions.OutOfMemoryError) as error:
                self.replace(seat, str(error))
                self.deaths.update(done if seat.suspect else ())
                suspects.extend((item,) for item in done if self.deaths[item] < LIVES)
                yield from (lost(item, self.task.model) for item in done if self.deaths[item] == LIVES)
                continue
            if not seat.ready:
                seat.ready, self.starts_failed = True, 0
                continue
            seat.held -= 1
            seat.suspect = False
            yield from records

    def hire(self) -> None:
        """A new worker, which is given nothing before it has its model."""
        seat = Seat(self.worker.remote(self.task))
        self.seats.append(seat)
        self.orders[seat.actor.load.remote()] = seat, ()

    def give(self, seat: Seat, waiting: deque[Items], suspects: deque[Items]) -> None:
        """As many orders as it can hold; a suspect to one that holds no other."""
        while seat.ready and waiting and seat.held < IN_FLIGHT and not seat.suspect:
            self.order(seat, waiting.popleft())
        if seat.ready and suspects and not seat.held:
            seat.suspect = True
            self.order(seat, suspects.popleft())

    def order(self, seat: Seat, items: Items) -> None:
        seat.held += 1
        self.orders[seat.actor.do.remote(items)] = seat, items

    def replace(self, seat: Seat, reason: str) -> None:
        """Once, however much was lost with it."""
        if seat not in self.seats:
            return
        self.seats.remove(seat)
        self.ray.kill(seat.actor)  # it may only have been out of reach
        if not seat.ready:
            self.starts_failed += 1
        if self.starts_failed == STARTS:
            raise ValueError(f"{STARTS} workers in a row died before they had their model; the last: {reason}")
        self.hire()


def lost(item: Item, model: str) -> Record:
    sentence = f"{item.image}: {LIVES} workers died while they had nothing else to do; take it out or mend it"
    return Record(item.image, item.labels, None, None, model, sentence)
