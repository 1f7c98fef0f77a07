"""Whole trainings of seconds, and a command that runs one where a test can kill it or give it company:

    python tests/tiny_training.py small|smallest FOLDER [STAGE STEP]

kills itself after that step of the stage. Every process writes down what it was and what it stored.
"""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import torch

from networks import TinyEncoder
from rectiseg.data import confidences
from rectiseg.data.files import atomic_path
from rectiseg.metrics import Scores
from rectiseg.models.checkpoint import KINDS
from rectiseg.progress import Reporter
from rectiseg.recipes import Recipe, scenes_tiny
from rectiseg.settings import Settings
from rectiseg.train import Training
from tiny_stage import Drawn


def small() -> Recipe:
    """scenes_tiny on 24 scenes, half as large, and less often over them."""

    def less(settings: Settings, epochs: int) -> Settings:
        phases = ((epochs, settings.phases[0][1]),)
        return replace(settings, phases=phases, crop=(64, 96), validate_every=epochs, save_every=3)

    recipe = scenes_tiny()
    return replace(recipe, front=less(recipe.front, 3), grn=less(recipe.grn, 1), lrn=less(recipe.lrn, 2))


class TinyTraining(Training):
    """Fronts and GRNs of one convolution: what is tested of it is how stages follow each other."""

    def encoder(self) -> TinyEncoder:
        torch.manual_seed(0)
        return TinyEncoder()


KINDS["TinyEncoder"] = TinyEncoder


def training(folder: Path, reporter: Reporter | None = None) -> Training:
    made = TinyTraining(small(), None, folder, reporter=reporter)
    made.datasets = {"train": Drawn(24, 0, 65, 97), "val": Drawn(8, 1, 65, 97)}
    return made


def smallest(folder: Path, reporter: Reporter | None = None) -> Training:
    """Two steps a stage."""
    once = Settings(phases=((1, 1e-3),), crop=(24, 32), batch=2)
    recipe = replace(scenes_tiny(), front=once, grn=once, lrn=once, light=once, bilateral=once, context=once)
    made = TinyTraining(recipe, None, folder, reporter=reporter)
    made.datasets = {"train": Drawn(4, 0, 25, 33), "val": Drawn(1, 1, 25, 33)}
    return made


TRAININGS = {"small": training, "smallest": smallest}


class Kills(Reporter):
    """Ends this process at once after some steps of a stage."""

    def __init__(self, stage: str, step: str):
        self.stage_to_kill, self.step_to_kill, self.title = stage, int(step), ""

    def stage(self, title: str, total: int) -> None:
        self.title = title

    def step(self, done: int, loss: float | None = None, scores: Scores | None = None) -> None:
        if (self.title, done) == (self.stage_to_kill, self.step_to_kill):
            os.kill(os.getpid(), signal.SIGKILL)


def launch(processes: int, *arguments: str | Path | int) -> subprocess.CompletedProcess[str]:
    """The command below; alone it gets as many threads as there are here, so that it adds in the same order."""
    launcher = []
    if processes > 1:
        rendezvous = ["--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0"]
        launcher = ["-m", "torch.distributed.run", "--nproc-per-node", str(processes), *rendezvous]
    threads = torch.get_num_threads() if processes == 1 else 1
    loopback = {"GLOO_SOCKET_IFNAME": "lo"} if sys.platform == "linux" else {}
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)} | loopback
    command = [sys.executable, *launcher, __file__, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment)


def main(name: str, folder: Path, *killed: str) -> None:
    stored: list[str] = []

    def remembering(path: Path):
        stored.append(str(path.relative_to(folder)))
        return atomic_path(path)

    confidences.atomic_path = remembering
    made = TRAININGS[name](folder, Kills(*killed) if killed else None)
    made.run()
    about = {"processes": made.accelerator.num_processes, "stored": stored}
    (folder / f"process-{made.accelerator.process_index}.json").write_text(json.dumps(about))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])
