"""Generated scenes: the same everywhere, of any size, and not to be told by colour alone."""

import hashlib
import subprocess
import sys

import numpy as np
import pytest
import torch

from rectiseg.data.scenes import SCENE_CLASSES, SCENE_PALETTE, GeneratedScenes, SceneKind, generate_scene
from rectiseg.types import IGNORE_INDEX

KINDS: tuple[SceneKind, ...] = ("street", "room")
SIZES = ((1, 1), (2, 3), (7, 500), (500, 7), (1, 64), (64, 1), (33, 47))


@pytest.fixture(scope="module")
def scenes() -> list[tuple[np.ndarray, np.ndarray]]:
    return [generate_scene(seed) for seed in range(50)]


def digest(seed: int) -> str:
    image, labels = generate_scene(seed, height=31, width=45)
    return hashlib.sha256(image.tobytes() + labels.tobytes()).hexdigest()


def test_a_seed_gives_the_same_scene_in_another_process() -> None:
    script = (
        "import hashlib; from rectiseg.data.scenes import generate_scene; image, labels = generate_scene(5, 31, 45);"
        "print(hashlib.sha256(image.tobytes() + labels.tobytes()).hexdigest())"
    )
    elsewhere = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert elsewhere.stdout.strip() == digest(5) == digest(5)
    assert digest(6) != digest(5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_any_size_can_be_drawn(height: int, width: int, kind: SceneKind) -> None:
    for seed in range(10):
        image, labels = generate_scene(seed, height, width, kind)
        assert image.shape == (height, width, 3)
        assert labels.shape == (height, width)
        assert image.dtype == labels.dtype == np.uint8


def test_an_empty_size_is_refused() -> None:
    with pytest.raises(ValueError, match="0 x 5"):
        generate_scene(0, 0, 5)


def test_every_class_appears_and_few_pixels_are_ignored(scenes: list[tuple[np.ndarray, np.ndarray]]) -> None:
    labels = np.stack([labels for _, labels in scenes])
    assert set(np.unique(labels).tolist()) == {*range(len(SCENE_CLASSES)), IGNORE_INDEX}
    assert (labels == IGNORE_INDEX).mean(axis=(1, 2)).max() < 0.05


def test_the_kind_can_be_asked_for() -> None:
    for seed in range(10):
        assert SCENE_CLASSES.index("road") in generate_scene(seed, kind="street")[1]
        assert SCENE_CLASSES.index("floor") in generate_scene(seed, kind="room")[1]


def test_colour_alone_does_not_tell_the_class(scenes: list[tuple[np.ndarray, np.ndarray]]) -> None:
    """The nearest mean colour, means taken from the very pixels that are judged, and those of each kind apart."""
    for kind_class in ("road", "floor"):
        of_kind = [scene for scene in scenes if SCENE_CLASSES.index(kind_class) in scene[1]]
        assert len(of_kind) > 10
        pixels = np.concatenate([image.reshape(-1, 3) for image, _ in of_kind])[::7].astype(np.float32)
        labels = np.concatenate([labels.ravel() for _, labels in of_kind])[::7]
        present = [label for label in np.unique(labels).tolist() if label != IGNORE_INDEX]
        means = np.stack([pixels[labels == label].mean(axis=0) for label in present])
        nearest = ((pixels[:, None] - means) ** 2).sum(axis=2).argmin(axis=1)
        known = labels != IGNORE_INDEX
        assert (np.asarray(present)[nearest] == labels)[known].mean() < 0.8


def test_many_pixels_lie_near_a_boundary(scenes: list[tuple[np.ndarray, np.ndarray]]) -> None:
    labels = np.stack([labels for _, labels in scenes])
    change = (labels[:, 1:, 1:] != labels[:, :-1, 1:]) | (labels[:, 1:, 1:] != labels[:, 1:, :-1])
    assert change.mean() > 0.03


def test_the_data_set_gives_named_tensors() -> None:
    scenes = GeneratedScenes(count=12, height=20, width=30)
    assert len(scenes) == 12
    names = [scene.name for scene in scenes]
    assert {name.split("_")[0] for name in names} == set(KINDS)
    assert [name.split("_")[1] for name in names] == [f"{index:06d}" for index in range(12)]
    image, labels, _ = scenes[3]
    assert image.shape == (3, 20, 30)
    assert image.dtype == torch.float32
    assert 0 <= float(image.min()) < float(image.max()) <= 1
    assert labels.shape == (20, 30)
    assert labels.dtype == torch.int64


def test_an_items_name_tells_its_kind() -> None:
    for image, labels, name in GeneratedScenes(count=12, seed=2, height=48, width=64):
        assert image.shape[1:] == labels.shape
        assert (SCENE_CLASSES.index("floor") in labels) == name.startswith("room")


def test_the_data_set_ends() -> None:
    scenes = GeneratedScenes(count=2, height=4, width=4)
    for index in (2, -1):
        with pytest.raises(IndexError, match=f"scene {index} of 2"):
            scenes[index]


def test_other_seeds_share_no_scene() -> None:
    images = [scene.image for seed in (0, 1, 2) for scene in GeneratedScenes(count=8, seed=seed, height=9, width=12)]
    assert len({image.numpy().tobytes() for image in images}) == 24


def test_every_class_has_its_own_colour() -> None:
    assert GeneratedScenes.classes == SCENE_CLASSES
    assert GeneratedScenes.palette == SCENE_PALETTE
    assert len(set(SCENE_PALETTE)) == len(SCENE_PALETTE) == len(set(SCENE_CLASSES)) == len(SCENE_CLASSES)
