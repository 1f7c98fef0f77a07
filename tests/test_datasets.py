"""Data sets on disk: what is read, and what is refused with its file's name."""

import itertools
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as PillowImage

from rectiseg.data.datasets import CamVid, Folder, Joined, Sample, Subset, drives, left_out
from rectiseg.data.images import write_label_map
from rectiseg.data.registry import open_dataset
from rectiseg.data.scenes import GeneratedScenes
from rectiseg.types import IGNORE_INDEX

HEIGHT, WIDTH = 6, 9
CLASSES = [{"name": "sky", "color": [70, 130, 180]}, {"name": "road", "color": [128, 64, 128]}]


def write_pair(images: Path, labels: Path, name: str, maps: np.ndarray, suffix: str = ".png") -> None:
    for folder in (images, labels):
        folder.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    pixels[:, :, 0] = 200
    PillowImage.fromarray(pixels).save(images / f"{name}{suffix}")
    write_label_map(labels / f"{name}.png", maps)


class Named:
    """Samples that have nothing but names."""

    classes, palette = ("sky",), ((70, 130, 180),)

    def __init__(self, *names: str):
        self.names = names

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Sample:
        return Sample(torch.zeros(3, 6, 9), torch.zeros(6, 9, dtype=torch.int64), self.names[index])


def label_map(value: int = 0) -> np.ndarray:
    """Zeros, the value at (1, 2) and IGNORE_INDEX in a corner."""
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    labels[1, 2], labels[-1, -1] = value, IGNORE_INDEX
    return labels


@pytest.fixture
def made_camvid(tmp_path: Path) -> Path:
    for name, suffix, value in (("b", ".jpg", 10), ("a", ".png", 11)):
        write_pair(tmp_path / "train", tmp_path / "trainannot", name, label_map(value), suffix)
    write_pair(tmp_path / "val", tmp_path / "valannot", "c", label_map(3))
    return tmp_path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "classes.json").write_text(json.dumps(CLASSES))
    for name in ("x1", "x2"):
        write_pair(tmp_path / "train" / "images", tmp_path / "train" / "labels", name, label_map(1))
    return tmp_path


def refusal_of(dataset: type[CamVid] | type[Folder], root: Path) -> str:
    """The one sentence that is said of a folder; every file of it is read."""
    with pytest.raises(ValueError, match=re.escape(str(root))) as caught:
        list(map(dataset(root).__getitem__, range(2)))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_camvid_pairs_jpg_and_png_by_name_and_sorts_them(made_camvid: Path):
    train, val = CamVid(made_camvid), CamVid(made_camvid, "val")
    assert [train[index].name for index in range(len(train))] == ["a", "b"]
    assert [val[index].name for index in range(len(val))] == ["c"]


def test_a_sample_is_an_image_in_0_to_1_and_int64_labels_of_its_size(made_camvid: Path):
    image, labels, _ = CamVid(made_camvid)[0]
    assert image.shape == (3, HEIGHT, WIDTH)
    assert torch.equal(image[:, 0, 0], torch.tensor([200 / 255, 0, 0]))
    assert (labels.shape, labels.dtype) == ((HEIGHT, WIDTH), torch.int64)


def test_camvids_void_is_ignored_and_its_bicyclist_is_not(made_camvid: Path):
    (_, void, _), (_, bicyclist, _) = CamVid(made_camvid)[0], CamVid(made_camvid)[1]
    assert (int(void[1, 2]), int(void[-1, -1]), int(bicyclist[1, 2])) == (IGNORE_INDEX, IGNORE_INDEX, 10)


def test_camvid_has_eleven_classes_with_colours_of_their_own(made_camvid: Path):
    dataset = CamVid(made_camvid)
    assert len(dataset.classes) == len(set(dataset.palette)) == 11


def test_the_camvid_beside_the_repository_is_whole(camvid: Path):
    for split, count in (("train", 367), ("val", 101)):
        dataset = CamVid(camvid, split)
        assert len(dataset) == count
        samples = [dataset[index] for index in range(0, count, 20)]
        assert {sample.image.shape for sample in samples} == {(3, 360, 480)}
        seen = torch.stack([sample.labels for sample in samples]).unique()
        assert seen.tolist() == [*range(11), IGNORE_INDEX]


def test_a_folder_names_and_colours_its_classes(folder: Path):
    dataset = Folder(folder)
    assert (dataset.classes, dataset.palette) == (("sky", "road"), ((70, 130, 180), (128, 64, 128)))
    image, labels, name = dataset[1]
    assert (name, image.shape) == ("x2", (3, HEIGHT, WIDTH))
    assert labels.unique().tolist() == [0, 1, IGNORE_INDEX]


def test_a_folder_without_splits_holds_its_pairs_in_the_root(folder: Path):
    write_pair(folder / "images", folder / "labels", "y", label_map())
    assert [Folder(folder, split)[0].name for split in ("train", "val")] == ["x1", "y"]


def test_palette_pngs_hold_labels_too(folder: Path):
    write_label_map(folder / "train/labels/x1.png", label_map(1), np.array([entry["color"] for entry in CLASSES], "u1"))
    assert Folder(folder)[0].labels.unique().tolist() == [0, 1, IGNORE_INDEX]


def test_a_label_outside_the_classes_is_refused(folder: Path, made_camvid: Path):
    write_label_map(folder / "train/labels/x2.png", label_map(2))
    assert "x2.png: label 2 is outside 0..1" in refusal_of(Folder, folder)
    write_label_map(made_camvid / "trainannot/b.png", label_map(12))
    assert "b.png: label 12 is outside 0..10" in refusal_of(CamVid, made_camvid)


def test_labels_of_16_bits_do_not_wrap_around(folder: Path):
    write_label_map(folder / "train/labels/x1.png", label_map().astype(np.uint16) * 257)
    assert "x1.png: label 65535 is outside 0..1" in refusal_of(Folder, folder)


def test_a_label_map_of_another_size_is_refused(folder: Path):
    write_label_map(folder / "train/labels/x2.png", label_map()[:, 1:])
    refusal = refusal_of(Folder, folder)
    assert "x2.png" in refusal
    assert "8x6" in refusal
    assert "9x6" in refusal


@pytest.mark.parametrize(("lost", "there"), [("images", "labels"), ("labels", "images")])
def test_a_file_without_partner_is_refused(folder: Path, lost: str, there: str):
    (folder / "train" / lost / "x2.png").unlink()
    refusal = refusal_of(Folder, folder)
    assert refusal.startswith(str(folder / "train" / there))
    assert "x2" in refusal


def test_a_test_split_is_read_too(made_camvid: Path):
    for kind in ("", "annot"):
        (made_camvid / f"val{kind}").rename(made_camvid / f"test{kind}")
    assert open_dataset("camvid", made_camvid, "test").names == ["c"]
    one, other = (open_dataset("scenes", None, split)[0].image for split in ("val", "test"))
    assert not one.equal(other)


@pytest.mark.parametrize("missing", ["train", "trainannot"])
def test_a_missing_folder_is_named(made_camvid: Path, missing: str):
    (made_camvid / missing).rename(made_camvid / "elsewhere")
    assert refusal_of(CamVid, made_camvid) == f"{made_camvid / missing}: this folder is missing"


def test_an_empty_folder_is_refused(folder: Path):
    for path in (folder / "train").rglob("*.png"):
        path.unlink()
    assert f"{folder / 'train' / 'images'}: no images here" in refusal_of(Folder, folder)


def test_two_images_of_one_name_are_refused(folder: Path):
    write_pair(folder / "train/images", folder / "train/labels", "x2", label_map(), ".jpg")
    assert "x2.jpg: another file here has the same name" in refusal_of(Folder, folder)


def test_a_damaged_label_map_is_refused(folder: Path):
    path = folder / "train/labels/x1.png"
    path.write_bytes(path.read_bytes()[:40])
    assert str(path) in refusal_of(Folder, folder)


TOO_MANY = json.dumps([{"name": str(index), "color": [0, 0, 0]} for index in range(256)])
NO_CLASSES = ["", "[", "\x00", "3", "null", "[]", "[[[]]]", '{"name": "sky"}', '["sky"]', '[{"name": "sky"}]', TOO_MANY]
NO_COLORS = ["[1, 2]", "[1, 2, 3, 4]", '"blue"', "7", "null", "[0, 0, 256]", "[0, -1, 0]"]


@pytest.mark.parametrize("content", NO_CLASSES + [f'[{{"name": "sky", "color": {color}}}]' for color in NO_COLORS])
def test_a_list_of_classes_that_is_none_is_refused(folder: Path, content: str):
    (folder / "classes.json").write_text(content)
    assert refusal_of(Folder, folder).startswith(f"{folder / 'classes.json'}: ")


def test_a_list_of_classes_in_another_encoding_is_refused(folder: Path):
    (folder / "classes.json").write_bytes(b'[{"name": "\xe4", "color": [0, 0, 0]}]')
    assert refusal_of(Folder, folder).startswith(f"{folder / 'classes.json'}: ")


def test_a_missing_list_of_classes_is_asked_for(folder: Path):
    (folder / "classes.json").unlink()
    assert refusal_of(Folder, folder).startswith(f"{folder / 'classes.json'}: missing; write the classes there")


@pytest.mark.parametrize(("count", "folds"), [(367, 2), (40, 5), (7, 7), (9, 2)])
def test_every_sample_is_left_out_by_one_fold(count: int, folds: int):
    parts = left_out(count, folds)
    assert len(parts) == folds
    assert sorted(index for part in parts for index in part) == list(range(count))
    assert min(map(len, parts)) > 0


def test_what_a_fold_leaves_out_lies_in_runs_and_folds_are_of_a_size():
    parts = left_out(367, 2, runs=8)
    for part in parts:
        assert abs(len(part) - 367 / 2) <= 1
        assert sum(later - earlier > 1 for earlier, later in itertools.pairwise(part)) == 7


def test_one_fold_or_more_than_there_are_images_are_refused():
    for folds in (1, 4):
        with pytest.raises(ValueError, match=f"{folds} of 3"):
            left_out(3, folds)


def test_a_subset_gives_the_samples_of_its_indices():
    whole = GeneratedScenes(5, 0, 21, 30)
    part = Subset(whole, [3, 1])
    assert (len(part), part.classes, part.palette) == (2, whole.classes, whole.palette)
    assert [sample.name for sample in part] == [whole[3].name, whole[1].name]
    assert torch.equal(part[1].image, whole[1].image)


def test_drives_are_the_samples_of_one_name_before_the_underscore():
    named = Named("b_1", "a_1", "b_2", "alone")
    assert drives(named) == {"b": [0, 2], "a": [1], "alone": [3]}


def test_joined_data_sets_follow_each_other():
    joined = Joined(Named("a", "b"), Subset(Named("c", "d"), [1]))
    assert [joined[index].name for index in range(len(joined))] == ["a", "b", "d"]
    assert joined.classes == Named().classes
