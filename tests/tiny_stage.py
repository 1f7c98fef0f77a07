"""Stages that train in a second, and a command that trains two of them where a test can kill it:

    python tests/tiny_stage.py FOLDER [STAGE RANK STEP [writing]]

kills the process of that rank after that step of the stage, or in the middle of writing the state after it; not again
where torchrun has started it anew.
"""

import json
import os
import signal
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
from accelerate import Accelerator
from safetensors.torch import save
from torch import Tensor, nn

from rectiseg.data.confidences import Confidences, View, store_confidences
from rectiseg.data.datasets import Sample
from rectiseg.data.scenes import GeneratedScenes
from rectiseg.metrics import Scores
from rectiseg.models import checkpoint
from rectiseg.models.lrn import LRN
from rectiseg.processes import accelerator
from rectiseg.settings import Settings
from rectiseg.stage import confusion, train_stage
from rectiseg.views import ConfidenceViews, ImageViews, TrainingData


@cache
def drawn(count: int, seed: int, height: int, width: int) -> tuple[Sample, ...]:
    scenes = GeneratedScenes(count, seed, height, width)
    return tuple(scenes[index] for index in range(count))


class Drawn:
    """Generated scenes that are drawn once, by whoever asks first."""

    classes, palette = GeneratedScenes.classes, GeneratedScenes.palette

    def __init__(self, count: int, seed: int = 3, height: int = 21, width: int = 30):
        self.samples = list(drawn(count, seed, height, width))
        self.names = [sample.name for sample in self.samples]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        return self.samples[index]


SCENES = Drawn(9)
K = len(SCENES.classes)
SETTINGS = Settings(
    phases=((3, 2e-2), (2, 5e-3)),  # of two steps each
    crop=(19, 23),  # at scale 0.75 an image has 16 rows: the rest is padding
    scales=(0.75, 1.0),
    warmup=2,
    validate_every=2,
    save_every=3,
)


class OneConvolution(nn.Module):
    """The smallest front: no batch norm, so that dividing a batch changes nothing."""

    loss_weights = (1.0,)

    def __init__(self):
        super().__init__()
        self.head = nn.Conv2d(3, K, 3, padding=1)

    def supervised(self, image: Tensor) -> list[Tensor]:
        return [self.head(image)]

    def forward(self, image: Tensor) -> Tensor:
        return self.supervised(image)[-1]


checkpoint.KINDS["OneConvolution"] = OneConvolution


class Doubtful(nn.Module):
    """A front that says little: noise, and a linear function of the image."""

    def forward(self, image: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(5)
        direction = torch.randn(K, 3, 1, 1, generator=generator)
        noise = torch.randn(1, K, *image.shape[-2:], generator=generator)
        return nn.functional.conv2d(image, direction) + 2 * noise


def stored(folder: Path) -> ConfidenceViews:
    store_confidences(Doubtful(), SCENES, folder, [View(), View(0.75, True)], "doubtful")
    return ConfidenceViews(Confidences(SCENES, folder))


def tiny_lrn() -> LRN:
    torch.manual_seed(1)
    return LRN(K, 3, (4,) * 6)


def one_convolution() -> OneConvolution:
    torch.manual_seed(0)
    return OneConvolution()


def validation(data: TrainingData, accelerator: Accelerator) -> Callable[[nn.Module], Scores]:
    def validate(stage: nn.Module) -> Scores:
        def predict(index: int) -> tuple[Tensor, Tensor]:
            inputs, labels = data.whole(index)
            return stage(*inputs), labels

        return confusion(predict, len(data), K, accelerator)

    return validate


def killer(stage: str, rank: str, step: str, writing: str = "") -> Callable[..., None]:
    """For `train_stage`'s on_step, and only for one stage and process."""

    def kill(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def write_half_and_die(tensors: dict[str, Tensor], path: Path, *_: object) -> None:
        content = save(tensors)
        path.write_bytes(content[: len(content) // 2])
        kill()

    def on_step(name: str, process: int, done: int) -> None:
        started_anew = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"
        if (name, process) == (stage, int(rank)) and not started_anew:
            if writing and done == int(step) - 1:
                checkpoint.save_sealed = write_half_and_die
            if not writing and done == int(step):
                kill()

    return on_step


def main(folder: Path, on_step: Callable[[str, int, int], None]) -> None:
    torch.set_num_threads(1)
    shared = accelerator()
    rank = shared.process_index
    stages = {"front": (one_convolution(), ImageViews(SCENES)), "lrn": (tiny_lrn(), stored(folder / f"store{rank}"))}
    for name, (stage, data) in stages.items():
        train_stage(
            stage,
            data,
            SETTINGS,
            folder / name,
            seed=7,
            validate=validation(data, shared),
            accelerator=shared,
            on_step=lambda step, *_, name=name: on_step(name, rank, step),
        )
        weights = {key: value.tolist() for key, value in stage.state_dict().items()}
        (folder / f"{name}-of-process-{rank}.json").write_text(json.dumps(weights))


if __name__ == "__main__":
    main(Path(sys.argv[1]), killer(*sys.argv[2:]) if sys.argv[2:] else lambda *_: None)
