"""The doctor: every fault that is planted is found and named, and a healthy data set has none."""

import json
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
import tyro
from PIL import Image
from safetensors.numpy import save_file

from beside import beside
from rectiseg.commands.doctor import doctor
from rectiseg.data.datasets import CamVid
from rectiseg.data.scenes import generate_scene
from rectiseg.doctor.classes import UNNAMED, classes_of
from rectiseg.doctor.duplicates import fingerprint
from rectiseg.doctor.examine import examine
from rectiseg.doctor.files import Part, dataset_parts
from rectiseg.doctor.predictions import agreement, shift_findings
from rectiseg.progress import Reporter
from rectiseg.types import IGNORE_INDEX

HEIGHT, WIDTH = 111, 150
CLASSES = (("sky", (70, 130, 180)), ("road", (128, 64, 128)), ("wall", (102, 102, 156)), ("lamp", (1, 2, 3)))
LABELS = np.repeat(np.arange(4, dtype=np.uint8), [20, 40, 30, 21])[:, None].repeat(WIDTH, axis=1)
LABELS[-9:, -7:] = IGNORE_INDEX
COLORS = np.array([color for _, color in CLASSES] + [(0, 0, 0)] * 252, np.uint8)


@cache
def scene(seed: int) -> np.ndarray:
    """(height, width, 3)"""
    return generate_scene(seed, HEIGHT, WIDTH)[0]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A healthy data set: two images in train, two in val, of another size than theirs, and its classes' list."""
    for seed, split in enumerate(("train", "train", "val", "val")):
        cut = (slice(split == "val", None), slice(None))
        for kind, pixels in (("images", scene(seed)), ("labels", LABELS)):
            (tmp_path / split / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels[cut]).save(tmp_path / split / kind / f"{seed}.png")
    classes = [{"name": name, "color": color} for name, color in CLASSES]
    (tmp_path / "classes.json").write_text(json.dumps(classes))
    return tmp_path


def said_of(root: Path, predictions: Path | None = None, classes: str | None = "classes.json") -> list[dict]:
    """The findings in the plain folders, as the command writes them; its status agrees with them."""
    json_file = root / "out" / "doctor.json"
    status = doctor(
        root / "train" / "images",
        root / "train" / "labels",
        root / "val" / "images",
        root / "val" / "labels",
        predictions=predictions,
        classes=str(root / classes) if classes == "classes.json" else classes,
        json_file=json_file,
    )
    findings = json.loads(json_file.read_text())["findings"]
    assert status == bool(findings)
    return findings


def the_only(findings: Sequence[dict]) -> dict:
    assert len(findings) == 1, findings
    return findings[0]


def kinds(findings: Sequence[dict]) -> list[str]:
    return [finding["kind"] for finding in findings]


def redrawn(root: Path, labels: np.ndarray, name: str = "train/labels/0.png") -> None:
    Image.fromarray(labels).save(root / name)


@pytest.mark.parametrize("classes", ["classes.json", "4", None])
def test_a_healthy_data_set_has_no_finding(root: Path, classes: str | None, capsys):
    assert said_of(root, classes=classes) == []
    assert "Nothing found." in capsys.readouterr().out


def test_healthy_predictions_have_no_finding(root: Path):
    """Of one split alone, in a subfolder that the images have, too."""
    for folder in ("val/images", "val/labels", "train/images", "train/labels", "predictions"):
        (root / folder / "deep").mkdir(parents=True)
    for folder in ("images", "labels"):
        (root / "val" / folder / "2.png").rename(root / "val" / folder / "deep" / "2.png")
    redrawn(root, LABELS[1:], "predictions/deep/2.png")
    logits = np.eye(4, dtype=np.float32)[np.minimum(LABELS[1:], 3)].transpose(2, 0, 1) * 9 - 4
    np.save(root / "predictions" / "3.npy", logits)
    assert said_of(root, root / "predictions") == []


def test_the_frequencies_of_classes_are_counted(root: Path):
    redrawn(root, np.where(LABELS == 3, 2, LABELS))
    json_file = root / "doctor.json"
    assert doctor(dataset="folder", data=root, json_file=json_file) == 0
    split = json.loads(json_file.read_text())["splits"]["train"]
    assert (split["pairs"], split["pixels"], split["pixels without a class"]) == (2, 2 * HEIGHT * WIDTH, 2 * 63)
    lamps = 21 * WIDTH - 63
    assert split["classes"]["lamp"] == {"pixels": lamps, "images": 1}
    assert split["classes"]["wall"] == {"pixels": 60 * WIDTH + lamps, "images": 2}


def cut(root: Path) -> None:
    redrawn(root, LABELS[:-1])


def turned(root: Path) -> None:
    redrawn(root, np.ascontiguousarray(LABELS.T))


def out_of_range(root: Path) -> None:
    redrawn(root, np.where(LABELS == 3, 9, LABELS).astype(np.uint8))


def of_16_bits(root: Path) -> None:
    redrawn(root, np.where(LABELS == 3, 300, LABELS.astype(np.uint16)))


def in_own_colors(root: Path) -> None:
    redrawn(root, COLORS[LABELS])


def in_three_channels(root: Path) -> None:
    redrawn(root, LABELS[:, :, None].repeat(3, axis=2))


def a_photograph(root: Path) -> None:
    redrawn(root, scene(3))


def a_grey_jpeg(root: Path) -> None:
    (root / "train" / "labels" / "0.png").unlink()
    redrawn(root, LABELS, "train/labels/0.jpg")


def ignored(root: Path) -> None:
    redrawn(root, np.full_like(LABELS, IGNORE_INDEX))


def broken_image(root: Path) -> None:
    (root / "train" / "images" / "0.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")


def broken_labels(root: Path) -> None:
    whole = (root / "train" / "labels" / "0.png").read_bytes()
    (root / "train" / "labels" / "0.png").write_bytes(whole[: len(whole) // 2])


def without_labels(root: Path) -> None:
    (root / "train" / "labels" / "0.png").unlink()


def without_image(root: Path) -> None:
    (root / "train" / "images" / "0.png").unlink()


def twice(root: Path) -> None:
    Image.open(root / "train" / "images" / "0.png").save(root / "train" / "images" / "0.jpg")


@pytest.mark.parametrize(
    ("plant", "kind", "file", "words"),
    [
        (cut, "size", "labels/0.png", "is 150x110, its image 150x111"),
        (turned, "size", "labels/0.png", "is 111x150, its image 150x111: a quarter turn"),
        (out_of_range, "label out of range", "labels/0.png", "label 9 on 18.5 % of the pixels: outside 0..3"),
        (of_16_bits, "label out of range", "labels/0.png", "label 300 on"),
        (in_own_colors, "colours", "labels/0.png", "wall (102, 102, 156)"),
        (in_three_channels, "colours", "labels/0.png", "holds 0, 1, 2, 3, 255 in each of several channels"),
        (a_photograph, "colours", "labels/0.png", "more than 256 colours"),
        (a_grey_jpeg, "unreadable", "labels/0.jpg", "not one of PNG"),
        (ignored, "all ignored", "labels/0.png", "no pixel has a class"),
        (broken_image, "unreadable", "images/0.png", "broken"),
        (broken_labels, "unreadable", "labels/0.png", "cannot be decoded"),
        (without_labels, "no partner", "images/0.png", "no label map in"),
        (without_image, "no partner", "labels/0.png", "no image in"),
        (twice, "same name twice", "images/0.png", "has the name of 0.jpg"),
    ],
)
def test_a_planted_fault_is_the_only_one_found(
    root: Path, plant: Callable[[Path], None], kind: str, file: str, words: str, capsys
):
    plant(root)
    finding = the_only(said_of(root))
    assert (finding["kind"], finding["file"]) == (kind, str(root / "train" / file))
    assert words in finding["sentence"]
    assert finding["mend"].endswith((".", "?"))
    assert kind in capsys.readouterr().out


def test_colours_of_a_published_palette_are_named_and_the_others_listed(root: Path):
    colors = np.array([(9, 9, 8), *CamVid.PALETTE[:3]], np.uint8)[np.minimum(LABELS, 3)]
    redrawn(root, colors)
    finding = the_only(said_of(root, classes="4"))
    assert "CamVid's colours" in finding["sentence"]
    assert "sky (128, 128, 128)" in finding["sentence"]
    assert finding["sentence"].endswith("of no class: (9, 9, 8)")


def test_unknown_colours_are_listed(root: Path):
    redrawn(root, np.array([(9, 9, 8), (7, 8, 9)], np.uint8)[LABELS % 2])
    assert "(7, 8, 9), (9, 9, 8)" in the_only(said_of(root, classes="4"))["sentence"]


def test_masks_of_0_and_255_are_told_from_labels(root: Path):
    for path in root.glob("*/labels/*.png"):
        mask = np.where(LABELS == 1, 255, 0).astype(np.uint8)
        redrawn(root, mask[LABELS.shape[0] - Image.open(path).height :], str(path))
    findings = said_of(root, classes=None)
    assert kinds(findings) == ["0/255 masks"] * 2
    assert [finding["file"] for finding in findings] == [str(root / split / "labels") for split in ("train", "val")]


def test_one_half_annotated_map_of_class_0_is_no_mask(root: Path):
    redrawn(root, np.where(LABELS == 0, 0, IGNORE_INDEX).astype(np.uint8))
    assert said_of(root) == []


@pytest.mark.parametrize("classes", ["classes.json", "4", None])
def test_a_class_that_a_split_does_not_show_is_named(root: Path, classes: str | None):
    for name in ("2", "3"):
        redrawn(root, np.where(LABELS == 3, 2, LABELS)[1:], f"val/labels/{name}.png")
    finding = the_only(said_of(root, classes=classes))
    assert (finding["kind"], finding["file"]) == ("absent class", str(root / "val" / "labels"))
    assert finding["sentence"].endswith("lamp" if classes == "classes.json" else "3")


def copied_into_val(root: Path, change: Callable[[Image.Image], Image.Image], suffix: str, **options: int) -> None:
    """Image 0 of train in place of image 2 of val, of the size that its label map is cut or enlarged to."""
    changed = change(Image.open(root / "train" / "images" / "0.png"))
    (root / "val" / "images" / "2.png").unlink()
    changed.save(root / "val" / "images" / f"2{suffix}", **options)
    Image.fromarray(LABELS).resize(changed.size, Image.Resampling.NEAREST).save(root / "val" / "labels" / "2.png")


@pytest.mark.parametrize("suffix", [".png", ".bmp"])
def test_an_image_of_train_in_val_is_found_by_its_pixels(root: Path, suffix: str):
    copied_into_val(root, Image.Image.copy, suffix)
    finding = the_only(said_of(root))
    assert (finding["kind"], finding["file"]) == ("duplicate", str(root / "val" / "images" / f"2{suffix}"))
    assert str(root / "train" / "images" / "0.png") in finding["sentence"]


@pytest.mark.parametrize(("quality", "scale"), [(60, 1), (95, 1), (60, 1.5), (95, 0.5)])
def test_an_image_of_train_is_found_in_val_encoded_anew(root: Path, quality: int, scale: float):
    size = round(scale * WIDTH), round(scale * HEIGHT)
    copied_into_val(root, lambda image: image.resize(size, Image.Resampling.BICUBIC), ".jpg", quality=quality)
    finding = the_only(said_of(root))
    assert (finding["kind"], finding["file"]) == ("near duplicate", str(root / "val" / "images" / "2.jpg"))
    assert str(root / "train" / "images" / "0.png") in finding["sentence"]


def test_flat_images_of_other_greys_are_no_duplicates(root: Path):
    for level, name in ((100, "train/images/0.png"), (120, "val/images/2.png")):
        redrawn(root, np.full((HEIGHT - (name[0] == "v"), WIDTH), level, np.uint8), name)
    assert said_of(root) == []


def test_neighbouring_frames_of_a_video_are_no_duplicates(camvid: Path):
    """CamVid's val is every second frame."""
    pairs = dataset_parts("camvid", camvid)[0][1].pairs
    frames = list(pairs.items())[:8]
    parts = [Part(str(start), camvid, dict(frames[start::2])) for start in (0, 1)]
    findings, tallies = examine(parts, UNNAMED, Reporter())
    assert findings == []
    assert [len(tally.fingerprints) for tally in tallies] == [4, 4]


def test_a_split_without_a_readable_image_is_compared_with_nothing(root: Path):
    for path in (root / "train" / "images").iterdir():
        path.write_bytes(b"")
    assert kinds(said_of(root)) == ["unreadable"] * 2


def predicted(root: Path, labels: np.ndarray) -> Path:
    (root / "predictions").mkdir()
    for name in ("0", "1"):
        redrawn(root, labels.astype(np.uint8), f"predictions/{name}.png")
    return root / "predictions"


@pytest.mark.parametrize(("offset", "share"), [(1, "+1 on 100 %"), (-1, "-1 on 81.9 %")])
def test_predictions_shifted_by_one_are_found(root: Path, offset: int, share: str):
    """One less than 0 is 0."""
    shifted = np.maximum(LABELS.astype(np.int64) + offset, 0)
    finding = the_only(said_of(root, predicted(root, shifted), classes=None))
    assert (finding["kind"], finding["file"]) == ("shift by one", str(root / "train" / "labels"))
    assert f"the label {share} of the pixels" in finding["sentence"]


def counted(prediction: np.ndarray) -> list:
    return shift_findings(Path("labels"), agreement(prediction, LABELS.astype(np.int64), 4))


def test_a_poor_model_is_not_called_shifted():
    """One that says the largest class's next everywhere, one that guesses, and one that is right on 40 %."""
    assert counted(np.full_like(LABELS, 2)) == []
    assert counted(np.random.default_rng(0).integers(0, 4, LABELS.shape)) == []
    assert counted(np.where(np.arange(WIDTH) % 5 < 3, LABELS.astype(np.int64) + 1, LABELS)) == []


def test_a_shift_is_found_in_a_model_that_errs(root: Path):
    """A third of its pixels are guesses."""
    random = np.random.default_rng(0)
    guesses = random.integers(0, 4, LABELS.shape)
    prediction = np.where(random.random(LABELS.shape) < 1 / 3, guesses, LABELS.astype(np.int64) + 1)
    assert [finding.kind for finding in counted(prediction)] == ["shift by one"]


def small_png(root: Path) -> Path:
    redrawn(root, LABELS[::2, ::2], "predictions/0.png")
    return root / "predictions" / "0.png"


def small_maps(root: Path) -> Path:
    maps = np.random.default_rng(0).normal(size=(4, 9, 13)).astype(np.float32)
    save_file({"logits": maps}, root / "predictions" / "0.safetensors")
    (root / "predictions" / "0.png").unlink()
    return root / "predictions" / "0.safetensors"


def other_classes(root: Path) -> Path:
    redrawn(root, np.where(LABELS == 3, 4, np.minimum(LABELS, 3)).astype(np.uint8), "predictions/0.png")
    return root / "predictions" / "0.png"


def not_finite(root: Path) -> Path:
    np.save(root / "predictions" / "0.npy", np.full((4, HEIGHT, WIDTH), np.nan, np.float32))
    return root / "predictions" / "0.npy"


def none(root: Path) -> Path:
    (root / "predictions" / "0.png").unlink()
    return root / "train" / "images" / "0.png"


def one_more(root: Path) -> Path:
    redrawn(root, LABELS, "predictions/9.png")
    return root / "predictions" / "9.png"


@pytest.mark.parametrize(
    ("plant", "kind", "words"),
    [
        (small_png, "prediction size", "is 75x56, its image 150x111"),
        (small_maps, "prediction size", "is 13x9, its image 150x111"),
        (other_classes, "prediction out of range", "class 4 on 18.5 % of the pixels: outside 0..3"),
        (not_finite, "unreadable", "NaN"),
        (none, "no partner", "no prediction in"),
        (one_more, "no partner", "no pair of an image and a label map has its name"),
    ],
)
def test_a_planted_fault_of_predictions_is_the_only_one_found(
    root: Path, plant: Callable[[Path], Path], kind: str, words: str
):
    predictions = predicted(root, np.minimum(LABELS, 3))
    file = plant(root)
    finding = the_only(said_of(root, predictions))
    assert (finding["kind"], finding["file"]) == (kind, str(file))
    assert words in finding["sentence"]


def test_a_data_set_is_read_as_its_reader_reads_it(root: Path):
    """Predictions are found by their names, wherever they lie."""
    (root / "predictions" / "deep").mkdir(parents=True)
    for name in ("2", "3"):
        redrawn(root, LABELS[1:], f"predictions/deep/{name}.png")
    assert doctor(dataset="folder", data=root, predictions=root / "predictions") == 0
    (root / "predictions" / "deep" / "2.png").unlink()
    assert doctor(dataset="folder", data=root, predictions=root / "predictions") == 1


def test_a_split_that_its_reader_refuses_is_a_finding_and_the_other_is_examined(root: Path):
    without_labels(root)
    redrawn(root, np.full_like(LABELS[1:], IGNORE_INDEX), "val/labels/2.png")
    doctor(dataset="folder", data=root, json_file=root / "doctor.json")
    findings = json.loads((root / "doctor.json").read_text())["findings"]
    assert kinds(findings) == ["layout", "all ignored"]
    assert findings[0]["sentence"].startswith("train: ")


def test_a_data_set_without_splits_does_not_repeat_itself(root: Path):
    parts, _, findings = dataset_parts("folder", root)
    assert [part.name for part in parts] == ["train", "val"]
    for kind in ("images", "labels"):
        (root / "train" / kind).rename(root / kind)
    for folder in ("train", "val"):
        (root / folder).rename(root / f"old_{folder}")
    parts, _, findings = dataset_parts("folder", root)
    assert ([part.name for part in parts], findings) == (["train"], [])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "name the folders of --images and --labels"),
        ({"images": "train/images"}, "name the folders of --images and --labels"),
        ({"images": "train/images", "labels": "train/labels", "val_images": "val/images"}, "val needs both"),
        ({"images": "train/images", "labels": "train/labels", "data": "."}, "--data names a whole data set"),
        ({"images": "train/images", "labels": "nowhere"}, "nowhere: no such folder"),
        ({"images": "train/images", "labels": "classes.json"}, "classes.json: not a folder"),
        ({"images": "train", "labels": "train/labels", "predictions": "nowhere"}, "nowhere: no such folder"),
        ({"data": "nowhere"}, "nowhere: no such folder"),
    ],
)
def test_wrong_use_is_refused(root: Path, arguments: dict[str, str], words: str):
    with pytest.raises(ValueError, match=words):
        doctor(**{name: root / value for name, value in arguments.items()})


def test_generated_scenes_are_refused(root: Path):
    with pytest.raises(ValueError, match="no files to examine"):
        doctor(dataset="scenes", data=root)


@pytest.mark.parametrize("text", ["0", "256", "nowhere.json"])
def test_classes_that_are_neither_a_number_nor_a_list_are_refused(text: str):
    with pytest.raises(ValueError, match=text):
        classes_of(text)


def test_the_command_line_takes_a_number_or_a_file_of_classes(root: Path, capsys):
    folders = ["--images", str(root / "train" / "images"), "--labels", str(root / "train" / "labels")]
    for classes in ("4", str(root / "classes.json")):
        assert tyro.cli(doctor, args=[*folders, "--classes", classes]) == 0
    assert tyro.cli(doctor, args=[*folders, "--classes", "3"]) == 1
    assert "label out of range" in capsys.readouterr().out


def test_what_is_kept_of_an_image_does_not_grow_with_it():
    sizes = {
        sum(map(len, fingerprint(Path("a.png"), torch.rand(3, height, width))[1:]))
        for height, width in ((1, 1), (60, 70))
    }
    assert sizes == {48}


def test_equal_values_in_another_shape_are_another_image():
    first, second = (fingerprint(Path("a.png"), torch.ones(3, *size)) for size in ((6, 7), (7, 6)))
    assert first.look == second.look
    assert first.pixels != second.pixels


def thinned(parts: Sequence[Part], step: int) -> list[Part]:
    return [Part(part.name, part.labels, dict(list(part.pairs.items())[::step])) for part in parts]


def test_camvid_has_no_finding(camvid: Path):
    """One in twenty of its pairs."""
    parts, classes, findings = dataset_parts("camvid", camvid)
    assert findings + examine(thinned(parts, 20), classes, Reporter())[0] == []


@pytest.mark.parametrize(("name", "step", "splits"), [("ade20k", 1, 1), ("cityscapes", 8, 2)])
def test_samples_lack_classes_and_nothing_else(name: str, step: int, splits: int):
    parts, classes, findings = dataset_parts(name, beside("data", f"{name}_sample"))
    findings += examine(thinned(parts, step), classes, Reporter())[0]
    assert [finding.kind for finding in findings] == ["absent class"] * splits
