"""Generated street and room scenes with exact labels: training and demos without any data.

Made to show the paper's two diseases. Inconsistency: classes share their colours and textures (a striped wall, a
folded curtain; a grey road, a grey pavement), so that only the context tells them apart. Boundary errors: poles,
table legs, leaves, wheels and people, a few pixels wide.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch

from rectiseg.data.datasets import Sample
from rectiseg.data.scene_canvas import SCENE_CLASSES, SCENE_PALETTE, Canvas, light_up
from rectiseg.data.scene_views import draw_room, draw_street

__all__ = ["SCENE_CLASSES", "SCENE_PALETTE", "GeneratedScenes", "SceneKind", "generate_scene"]

SceneKind = Literal["street", "room"]


def choose_kind(random: np.random.Generator) -> SceneKind:
    return "street" if random.random() < 0.5 else "room"


def generate_scene(
    seed: int, height: int = 96, width: int = 128, kind: SceneKind | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Draw an image (height, width, 3) uint8 RGB and its labels (height, width) uint8.

    The seed chooses the kind where `kind` is None.
    """
    if height < 1 or width < 1:
        raise ValueError(f"a scene of {height} x {width} pixels is empty")
    random = np.random.Generator(np.random.PCG64(seed))
    chosen = choose_kind(random)
    canvas = Canvas(height, width)
    draw = {"street": draw_street, "room": draw_room}[kind or chosen]
    draw(canvas, random)
    return light_up(canvas.image, random), np.array(canvas.labels)


class GeneratedScenes:
    """A data set of `count` generated scenes; different seeds share none."""

    classes = SCENE_CLASSES
    palette = SCENE_PALETTE

    def __init__(self, count: int, seed: int = 0, height: int = 96, width: int = 128) -> None:
        if count < 0 or seed < 0:
            raise ValueError(f"count and seed are at least 0, not {count} and {seed}")
        self.count, self.seed, self.height, self.width = count, seed, height, width
        self.names: Sequence[str] = [f"{self.kind(index)}_{index:06d}" for index in range(count)]

    def scene_seed(self, index: int) -> int:
        return (self.seed << 32) + index

    def kind(self, index: int) -> SceneKind:
        return choose_kind(np.random.Generator(np.random.PCG64(self.scene_seed(index))))

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < self.count:
            raise IndexError(f"scene {index} of {self.count}")
        pixels, labels = generate_scene(self.scene_seed(index), self.height, self.width, self.kind(index))
        image = torch.from_numpy(pixels).permute(2, 0, 1).contiguous().float() / 255
        return Sample(image, torch.from_numpy(labels).long(), self.names[index])
