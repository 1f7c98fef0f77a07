"""How a stage is trained: numbers, the optimizer they make, and seeds."""

from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Literal

import torch
from torch import nn


@dataclass(frozen=True)
class Settings:
    """How one stage is trained."""

    phases: tuple[tuple[int, float], ...]  # (epochs, learning rate), one after the other
    crop: tuple[int, int]  # height, width
    batch: int = 4
    scales: tuple[float, ...] = (1.0,)
    jitter: float = 0.0  # brightness, contrast and saturation of the image change by up to this part
    displacement: float = 0.0  # pixels: how far, in the mean, half of a refiner's confidences are moved at most
    optimizer: Literal["sgd", "adamw"] = "adamw"
    weight_decay: float = 1e-4
    schedule: Literal["constant", "polynomial"] = "polynomial"  # over all phases
    head_rate: float = 1.0  # the classifier's learning rate over the encoder's
    warmup: int = 0  # steps in which the learning rate grows to its full size
    frozen_batch_norm: bool = False
    clip: float | None = 1.0  # the gradient's norm
    class_weights: tuple[float, ...] | None = None
    cross_entropy: float = 1.0  # of the loss: where confidences are too sure, it asks for doubt before all else
    lovasz: float = 0.0  # of the Lovász-Softmax loss, beside it
    anneal_auxiliary: bool = False  # GRN's auxiliary weight falls to 0 on the way to the last step
    precision: Literal["no", "bf16"] = "no"
    validate_every: int = 1  # epochs
    save_every: int = 100  # steps

    @property
    def epochs(self) -> int:
        return sum(epochs for epochs, _ in self.phases)

    def learning_rate(self, epoch: float) -> float:
        """At a fractional epoch; polynomial decay (power 0.9) runs over all phases."""
        decay = (1 - min(epoch / self.epochs, 1)) ** 0.9 if self.schedule == "polynomial" else 1.0
        end = 0
        for epochs, rate in self.phases:
            end += epochs
            if epoch < end:
                return rate * decay
        return self.phases[-1][1] * decay


def changed(settings: Any) -> dict[str, Any]:
    """What a recipe or settings say beyond the defaults.

    A stage is known by that: an option that is added later, off by default, leaves what was trained before valid.
    """
    values = {field.name: getattr(settings, field.name) for field in fields(settings)}
    defaults = {field.name: field.default for field in fields(settings)}
    return {
        name: changed(value) if is_dataclass(value) else value
        for name, value in values.items()
        if value != defaults[name]
    }


def make_optimizer(stage: nn.Module, settings: Settings) -> torch.optim.Optimizer:
    """SGD with momentum 0.9 (section 4.1) or AdamW; classifiers of fronts may learn faster than encoders."""
    heads = {id(parameter) for module in stage.modules() if hasattr(module, "encoder") for parameter in head_of(module)}
    named = [parameter for parameter in stage.parameters() if parameter.requires_grad]
    groups = [
        {"params": [parameter for parameter in named if id(parameter) not in heads], "rate_factor": 1.0},
        {"params": [parameter for parameter in named if id(parameter) in heads], "rate_factor": settings.head_rate},
    ]
    groups = [group for group in groups if group["params"]]
    if settings.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=0.0, momentum=0.9, weight_decay=settings.weight_decay)
    return torch.optim.AdamW(groups, lr=0.0, weight_decay=settings.weight_decay)


def head_of(module: nn.Module) -> Iterator[nn.Parameter]:
    head = getattr(module, "head", None)
    return head.parameters() if isinstance(head, nn.Module) else iter(())


def generator_of(*keys: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed_of(*keys))


def seed_of(*keys: int) -> int:
    """One 63-bit seed of several numbers, by splitmix64."""
    mixed = len(keys)
    for key in keys:
        mixed = (mixed ^ key) + 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF
        mixed = (mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9 & 0xFFFFFFFFFFFFFFFF
        mixed = (mixed ^ mixed >> 27) * 0x94D049BB133111EB & 0xFFFFFFFFFFFFFFFF
        mixed ^= mixed >> 31
    return mixed >> 1
