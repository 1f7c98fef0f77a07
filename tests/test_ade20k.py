"""ADE20K in its official layout, and flat; its ids and the names of its classes."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from beside import beside
from rectiseg.data.ade20k import ADE20K
from rectiseg.data.images import write_label_map
from rectiseg.data.registry import open_dataset
from rectiseg.types import IGNORE_INDEX

HEIGHT, WIDTH = 11, 14
EVERY_ID = np.append(np.arange(151), (0, 150, 255)).astype(np.uint8).reshape(HEIGHT, WIDTH)


def table(delimiter: str, names: dict[int, str]) -> str:
    """150 lines below a heading, as in the official files; unnamed classes get a name of their number."""
    rows = [["Idx", "Ratio", "Train", "Val", "Name"]]
    rows += [[f"{number} ", "0.1", "20", "3", names.get(number, f"thing{number}")] for number in range(1, 151)]
    return "".join(delimiter.join(row) + "\n" for row in rows)


OFFICIAL = table("\t", {1: "wall", 8: "bed ", 65: "coffee table, cocktail table"})


def write_pair(images: Path, labels: Path, name: str, mode: str = "RGB", ids: np.ndarray = EVERY_ID) -> None:
    for folder in (images, labels):
        folder.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (WIDTH, HEIGHT), 51 if mode == "L" else (255, 0, 0)).save(images / f"{name}.jpg", quality=95)
    write_label_map(labels / f"{name}.png", ids)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for folder, name, mode in (
        ("training", "ADE_train_00000002", "L"),
        ("training", "ADE_train_00000001", "RGB"),
        ("validation", "ADE_val_00000001", "RGB"),
    ):
        write_pair(tmp_path / "images" / folder, tmp_path / "annotations" / folder, name, mode)
    (tmp_path / "objectInfo150.txt").write_text(OFFICIAL)
    return tmp_path


@pytest.fixture
def sample() -> Path:
    return beside("data", "ade20k_sample")


def refusal_of(root: Path) -> str:
    """The one sentence that is said of a folder; every file of it is read."""
    with pytest.raises(ValueError, match=re.escape(str(root))) as caught:
        list(map(ADE20K(root).__getitem__, range(2)))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_splits_lie_in_training_and_validation(root: Path):
    train, val = open_dataset("ade20k", root, "train"), open_dataset("ade20k", root, "val")
    assert [train[index].name for index in range(len(train))] == ["ADE_train_00000001", "ADE_train_00000002"]
    assert [val[index].name for index in range(len(val))] == ["ADE_val_00000001"]


def test_ids_1_to_150_become_0_to_149_and_0_is_ignored(root: Path):
    labels = ADE20K(root)[0].labels
    assert labels.flatten().tolist() == [IGNORE_INDEX, *range(150), IGNORE_INDEX, 149, IGNORE_INDEX]


def test_grey_images_become_rgb(root: Path):
    image = ADE20K(root)[1].image
    torch.testing.assert_close(image, torch.full((3, HEIGHT, WIDTH), 51 / 255))


def test_a_flat_folder_serves_both_splits(tmp_path: Path):
    write_pair(tmp_path / "images", tmp_path / "annotations", "ADE_val_00000001")
    (tmp_path / "objectInfo150.txt").write_text(OFFICIAL)
    assert [ADE20K(tmp_path, split)[0].name for split in ("train", "val")] == ["ADE_val_00000001"] * 2


def test_an_id_above_150_is_refused(root: Path):
    ids = np.where(EVERY_ID == 20, 151, EVERY_ID)
    write_pair(root / "images/training", root / "annotations/training", "ADE_train_00000002", ids=ids)
    where = root / "annotations/training/ADE_train_00000002.png"
    assert refusal_of(root) == f"{where}: label 151 is outside 1..150 and is not ignored (0, 255)"


@pytest.mark.parametrize("missing", ["images/training", "annotations/training"])
def test_a_missing_split_is_named(root: Path, missing: str):
    (root / missing).rename(root / "elsewhere")
    assert refusal_of(root) == f"{root / missing}: this folder is missing"


def test_an_image_without_annotation_is_refused(root: Path):
    (root / "annotations/training/ADE_train_00000001.png").unlink()
    refusal = refusal_of(root)
    assert refusal.startswith(f"{root / 'images/training'}: 1 files have no partner")
    assert refusal.endswith("the first is ADE_train_00000001")


def test_a_class_has_the_first_of_its_names(root: Path):
    classes = ADE20K(root).classes
    assert len(classes) == 150
    assert [classes[number - 1] for number in (1, 2, 8, 65)] == ["wall", "thing2", "bed", "coffee table"]


def test_the_csv_serves_where_the_official_list_is_missing(root: Path):
    (root / "objectInfo150.csv").write_text(table(",", {2: "building;edifice"}))
    assert ADE20K(root).classes[1] == "thing2"
    (root / "objectInfo150.txt").unlink()
    assert ADE20K(root).classes[1] == "building"


def test_classes_of_one_name_are_told_apart_by_their_ids(root: Path):
    (root / "objectInfo150.txt").write_text(table("\t", {59: "screen", 131: "screen, silver screen"}))
    classes = ADE20K(root).classes
    assert (classes[58], classes[130], len(set(classes))) == ("screen 59", "screen 131", 150)


def test_a_missing_list_of_classes_is_asked_for(root: Path):
    (root / "objectInfo150.txt").unlink()
    assert refusal_of(root).startswith(f"{root}: ade20k's list of classes is not here, objectInfo150.txt or .csv")


@pytest.mark.parametrize(
    "content",
    [
        "",
        "\x00",
        OFFICIAL.replace("\t", ";"),
        OFFICIAL.replace("Name", "name"),
        OFFICIAL.replace("\n2 \t", "\ntwo\t"),
        OFFICIAL.replace("\n2 \t", "\n3\t"),
        OFFICIAL.replace("\t3\tthing2\n", "\n"),
        OFFICIAL + "151\t0.1\t20\t3\tmore\n",
    ],
)
def test_a_list_that_is_not_of_the_150_classes_is_refused(root: Path, content: str):
    (root / "objectInfo150.txt").write_text(content)
    assert refusal_of(root).startswith(f"{root / 'objectInfo150.txt'}: ")


def test_the_classes_have_150_colours_always_the_same(root: Path):
    palette = ADE20K(root).palette
    assert len(set(palette)) == 150
    assert palette == ADE20K(root, "val").palette
    assert all(type(value) is int for value in palette[0])


def test_the_sample_is_read(sample: Path):
    val = ADE20K(sample, "val")
    samples = [val[index] for index in range(len(val))]
    assert len(samples) == 15
    assert {tuple(sample.labels.shape) for sample in samples} == (
        {(512, 683), (364, 500), (300, 400), (256, 256), (640, 480), (682, 512), (480, 640), (422, 512)}
    )
    present = torch.cat([sample.labels.flatten() for sample in samples]).unique().tolist()
    assert (len(present), present[0], present[-2:]) == (62, 0, [148, IGNORE_INDEX])


def test_the_samples_classes_are_where_one_sees_them(sample: Path):
    val = ADE20K(sample, "val")
    largest = {
        name: val.classes[int(labels[labels != IGNORE_INDEX].mode().values)]
        for _, labels, name in (val[index] for index in (0, 2, 3, 10))
    }
    assert largest == {
        "ADE_val_00000001": "sky",
        "ADE_val_00000003": "road",
        "ADE_val_00000123": "wall",
        "ADE_val_00001200": "water",
    }
    assert (val.classes[58], val.classes[130]) == ("screen 59", "screen 131")
