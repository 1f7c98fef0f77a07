"""Cityscapes in its official layout: which files are read, and what their ids become."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from beside import beside
from rectiseg.data.cityscapes import LABELS, Cityscapes
from rectiseg.data.images import read_label_map, write_label_map
from rectiseg.data.registry import open_dataset
from rectiseg.types import IGNORE_INDEX

HEIGHT, WIDTH = 5, 7
EVERY_ID = np.append(np.arange(34), 255).astype(np.uint8).reshape(HEIGHT, WIDTH)
INDEX_OF_ID = dict(zip((7, 8, 11, 12, 13, 17, *range(19, 29), 31, 32, 33), range(19), strict=True))


def write_frame(root: Path, split: str, frame: str, ids: np.ndarray = EVERY_ID) -> None:
    """An image, its ids, and the other files that lie beside them in the official archives."""
    city = frame.partition("_")[0]
    images, labels = root / "leftImg8bit" / split / city, root / "gtFine" / split / city
    for folder in (images, labels):
        folder.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (WIDTH, HEIGHT), (0, 0, 200)).save(images / f"{frame}_leftImg8bit.png")
    write_label_map(labels / f"{frame}_gtFine_labelIds.png", ids)
    for other in ("color.png", "instanceIds.png", "labelTrainIds.png", "polygons.json"):
        (labels / f"{frame}_gtFine_{other}").touch()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for frame in ("ulm_000001_000019", "aachen_000002_000019", "aachen_000001_000019"):
        write_frame(tmp_path, "train", frame)
    write_frame(tmp_path, "val", "lindau_000000_000019")
    return tmp_path


@pytest.fixture
def sample() -> Path:
    return beside("data", "cityscapes_sample")


def refusal_of(root: Path) -> str:
    """The one sentence that is said of a folder; every file of it is read."""
    with pytest.raises(ValueError, match=re.escape(str(root))) as caught:
        list(map(Cityscapes(root).__getitem__, range(3)))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_frames_of_all_cities_are_read_in_order_and_keep_city_sequence_and_frame(root: Path):
    train, val = open_dataset("cityscapes", root, "train"), open_dataset("cityscapes", root, "val")
    assert [train[index].name for index in range(len(train))] == [
        "aachen_000001_000019_leftImg8bit",
        "aachen_000002_000019_leftImg8bit",
        "ulm_000001_000019_leftImg8bit",
    ]
    assert [val[index].name for index in range(len(val))] == ["lindau_000000_000019_leftImg8bit"]


def test_ids_become_19_classes_and_all_void_is_ignored(root: Path):
    image, labels, _ = Cityscapes(root)[0]
    assert (image.shape, labels.shape) == ((3, HEIGHT, WIDTH), (HEIGHT, WIDTH))
    assert labels.flatten().tolist() == [
        INDEX_OF_ID.get(number, IGNORE_INDEX) for number in EVERY_ID.flatten().tolist()
    ]


@pytest.mark.parametrize("value", [34, 254, 257])
def test_an_id_outside_the_table_is_refused(root: Path, value: int):
    write_frame(root, "train", "ulm_000001_000019", np.where(EVERY_ID == 20, value, EVERY_ID.astype(np.int64)))
    refusal = refusal_of(root)
    assert refusal.startswith(f"{root / 'gtFine/train/ulm/ulm_000001_000019_gtFine_labelIds.png'}: label {value} ")
    assert "outside 7..33 and is not ignored (0, 1, 2, 3, 4, 5, 6, 9, 10, 14, 15, 16, 18, 29, 30, 255)" in refusal


@pytest.mark.parametrize(
    ("lost", "there"),
    [
        ("leftImg8bit/train/ulm/ulm_000001_000019_leftImg8bit.png", "gtFine/train"),
        ("gtFine/train/ulm/ulm_000001_000019_gtFine_labelIds.png", "leftImg8bit/train"),
    ],
)
def test_a_file_without_partner_is_refused(root: Path, lost: str, there: str):
    (root / lost).unlink()
    refusal = refusal_of(root)
    assert refusal.startswith(f"{root / there}: 1 files have no partner")
    assert refusal.endswith("the first is ulm/ulm_000001_000019")


@pytest.mark.parametrize("missing", ["leftImg8bit", "gtFine", "leftImg8bit/train", "gtFine/train"])
def test_a_missing_folder_is_named(root: Path, missing: str):
    (root / missing).rename(root / "elsewhere")
    folder = root / missing if missing.endswith("train") else root / missing / "train"
    assert refusal_of(root) == f"{folder}: this folder is missing"


def test_a_folder_without_label_ids_is_refused(root: Path):
    for path in root.rglob("*_labelIds.png"):
        path.unlink()
    assert refusal_of(root).startswith(f"{root / 'gtFine/train'}: no files <city>/*_gtFine_labelIds.png here")


def test_the_table_is_the_official_one():
    official = pytest.importorskip("cityscapesscripts.helpers.labels", reason="cityscapesscripts is not installed")
    labels = sorted((label for label in official.labels if label.id >= 0), key=lambda label: label.id)
    assert [label.name for label in LABELS] == [label.name for label in labels]
    assert list(Cityscapes.INDICES) == [label.trainId for label in labels]
    evaluated = [label for label in labels if not label.ignoreInEval]
    assert list(Cityscapes.CLASSES) == [label.name for label in evaluated]
    assert list(Cityscapes.PALETTE) == [label.color for label in evaluated]


def test_the_sample_is_read(sample: Path):
    train, val = Cityscapes(sample), Cityscapes(sample, "val")
    assert (len(train), len(val)) == (8, 1)
    image, labels, name = val[0]
    assert (image.shape, name) == ((3, 1024, 2048), "frankfurt_000000_000576_leftImg8bit")
    present = [val.classes[index] for index in labels.unique() if index != IGNORE_INDEX]
    assert present[:6] == ["road", "sidewalk", "building", "fence", "pole", "traffic sign"]
    assert present[6:] == ["vegetation", "sky", "rider", "car", "bicycle"]


def test_the_samples_files_hold_official_ids_where_the_classes_are(sample: Path):
    stored = read_label_map(sample / "gtFine/train/aachen/aachen_000004_000019_gtFine_labelIds.png")
    labels = Cityscapes(sample)[4].labels.numpy()
    for number in np.unique(stored):
        assert np.unique(labels[stored == number]).tolist() == [INDEX_OF_ID.get(int(number), IGNORE_INDEX)]
    assert np.unique(stored).tolist() == [0, 1, 3, 4, 6, 7, 8, 11, 13, 17, 19, 20, 21, 22, 23, 24, 26, 32, 33]
