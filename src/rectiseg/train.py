"""The three stages of section 3.3, one after another: front, GRN, LRN, each with the ones before it frozen."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from accelerate import Accelerator
from torch import nn

from rectiseg.data.datasets import CamVid, Dataset, Folder, Split
from rectiseg.data.scenes import GeneratedScenes
from rectiseg.metrics import Scores
from rectiseg.models.checkpoint import load, save
from rectiseg.models.efficientnet_lite import EfficientNetLite, load_imagenet
from rectiseg.models.front import Front
from rectiseg.stage import ImageViews, Settings, confusion, train_stage

StageName = Literal["front", "grn", "lrn"]


@dataclass(frozen=True)
class Recipe:
    """An experiment: data, networks, and how each stage is trained."""

    name: str
    dataset: Literal["camvid", "scenes", "folder"]
    encoder: Literal["lite0", "lite1", "lite2", "resnet18", "resnet101"]
    front: Settings


def open_dataset(recipe: Recipe, root: Path, split: Split) -> Dataset:
    match recipe.dataset:
        case "camvid":
            return CamVid(root, split)
        case "folder":
            return Folder(root, split)
        case "scenes":
            return GeneratedScenes(64 if split == "train" else 16, seed=0 if split == "train" else 1)


def train_front(recipe: Recipe, root: Path, output: Path, seed: int, on_step=lambda *_: None) -> Front:
    if (output / "front.safetensors").exists():
        return load(output / "front.safetensors")  # pyright: ignore
    accelerator = Accelerator(mixed_precision=recipe.front.precision)
    train, val = open_dataset(recipe, root, "train"), open_dataset(recipe, root, "val")
    torch.manual_seed(seed)
    front = Front(load_imagenet(EfficientNetLite(0)), len(train.classes)).to(accelerator.device)

    def validate(stage: nn.Module) -> Scores:
        def predict(index: int):
            sample = val[index]
            return stage(sample.image[None].to(accelerator.device)), sample.labels[None]

        return confusion(predict, len(val), len(val.classes), accelerator)

    train_stage(front, ImageViews(train), recipe.front, output / "front", seed, validate, accelerator, on_step)
    save(front, output / "front.safetensors")
    return front
