"""Faults of images, models, predictions and labels, planted for a command: what is said, what remains, the status."""

import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from faults import FAULTS, PAGE, Reports, planted, remaining, scene, tiny_parser
from rectiseg.data.files import save_file
from rectiseg.data.images import write_label_map
from rectiseg.data.scenes import SCENE_CLASSES, SCENE_PALETTE, generate_scene
from rectiseg.models.checkpoint import save
from rectiseg.models.combine import Cascade
from rectiseg.models.lrn import LRN

Command = Callable[..., tuple[int, str]]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny_parser(tmp_path / "parser.safetensors")


def truncated(path: Path) -> None:
    content = scene(path).read_bytes()
    path.write_bytes(content[:-200])


def bomb(path: Path) -> None:
    """A whole PNG, of 0.9 GB of black in 0.9 MB."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    packer = zlib.compressobj()
    rows = b"".join(packer.compress(bytes(30_001)) for _ in range(30_000)) + packer.flush()
    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 0, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b""))


def cmyk(path: Path) -> None:
    Image.fromarray(generate_scene(0, 37, 50)[0]).convert("CMYK").save(path)


def sixteen_bits(path: Path) -> None:
    Image.fromarray(generate_scene(0, 37, 50)[0][..., 0].astype(np.uint16) * 257).save(path)


def animated(path: Path) -> None:
    frames = [Image.fromarray(generate_scene(seed, 37, 50)[0]) for seed in (0, 1)]
    frames[0].save(path, save_all=True, append_images=frames[1:])


@pytest.mark.parametrize(
    ("name", "plant", "status"),
    [
        pytest.param("b.jpg", truncated, 1, marks=pytest.mark.fault("a truncated JPEG", "predict")),
        pytest.param("b.jpg", Path.touch, 1, marks=pytest.mark.fault("a zero-byte file", "predict")),
        pytest.param(
            "b.png",
            lambda path: path.write_text("my notes\n"),
            1,
            marks=pytest.mark.fault("a text file named .png", "predict"),
        ),
        pytest.param("b.png", bomb, 1, marks=pytest.mark.fault("30,000 x 30,000 pixels", "predict")),
        pytest.param("b.jpg", cmyk, 0, marks=pytest.mark.fault("a CMYK JPEG", "predict")),
        pytest.param("b.png", sixteen_bits, 0, marks=pytest.mark.fault("a PNG of 16 bits", "predict")),
        pytest.param("b.gif", animated, 0, marks=pytest.mark.fault("an animated GIF", "predict")),
    ],
)
def test_an_odd_image_is_read_or_named_and_the_others_are_done(
    name: str,
    plant: Callable[[Path], object],
    status: int,
    model: Path,
    rectiseg: Command,
    tmp_path: Path,
    reports: Reports,
):
    for good in ("a.png", "c.png"):
        scene(tmp_path / "in" / good)
    plant(tmp_path / "in" / name)
    code, said = rectiseg("predict", tmp_path / "in", "-o", tmp_path / "out", "--model", model)
    assert code == status
    assert (tmp_path / "out" / "a.png").read_bytes() == (tmp_path / "out" / "c.png").read_bytes()
    reports(said, remaining(tmp_path / "out"), code)


def nan(path: Path) -> None:
    weights = load_file(path)
    weights["front.head.bias"][1] = torch.nan
    save_file(weights, path, {"rectiseg": header_of(path)})


def header_of(path: Path) -> str:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return file.metadata()["rectiseg"]


def cut_in_half(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-9] ^= 255
    path.write_bytes(content)


@pytest.mark.parametrize(
    "plant",
    [
        pytest.param(nan, marks=pytest.mark.fault("NaN weights", "predict")),
        pytest.param(cut_in_half, marks=pytest.mark.fault("a checkpoint cut in half", "predict")),
        pytest.param(flip_a_byte, marks=pytest.mark.fault("a checkpoint with one flipped byte", "predict")),
    ],
)
def test_a_broken_model_is_refused_before_anything_is_written(
    plant: Callable[[Path], None], model: Path, rectiseg: Command, tmp_path: Path, reports: Reports
):
    plant(model)
    code, said = rectiseg("predict", scene(tmp_path / "a.png"), "-o", tmp_path / "out", "--model", model)
    assert code == 2
    reports(said, remaining(tmp_path / "out"), code)


def data_set(folder: Path, labels: Callable[[np.ndarray], np.ndarray]) -> Path:
    """Three scenes in the folder layout, with labels made of the true ones."""
    for seed in range(3):
        scene(folder / "images" / f"{seed}.png", seed)
        (folder / "labels").mkdir(exist_ok=True)
        write_label_map(folder / "labels" / f"{seed}.png", labels(generate_scene(seed, 37, 50)[1]))
    entries = [{"name": name, "color": color} for name, color in zip(SCENE_CLASSES, SCENE_PALETTE, strict=True)]
    (folder / "classes.json").write_text(json.dumps(entries))
    return folder


@pytest.mark.fault("a checkpoint for another number of classes", "evaluate")
def test_a_model_of_other_classes_is_not_measured(rectiseg: Command, tmp_path: Path, reports: Reports):
    data = data_set(tmp_path / "data", lambda labels: labels)
    code, said = rectiseg("evaluate", "--dataset", "folder", "--data", data, "--json", tmp_path / "out" / "scores.json")
    assert code == 2
    reports(said, remaining(tmp_path / "out"), code)


@pytest.mark.fault("a checkpoint for another number of classes", "refine")
def test_a_refiner_of_other_classes_changes_nothing(rectiseg: Command, tmp_path: Path, reports: Reports):
    np.save(tmp_path / "a.npy", np.random.default_rng(0).normal(size=(4, 37, 50)).astype(np.float32))
    save(LRN.narrow(3), tmp_path / "lrn.safetensors")
    images = (scene(tmp_path / "a.png"), tmp_path / "a.npy")
    code, said = rectiseg("refine", *images, "-o", tmp_path / "out", "--refiner", tmp_path / "lrn.safetensors")
    assert code == 1
    reports(said, remaining(tmp_path / "out"), code)


@pytest.mark.fault("predictions of another size", "refine")
def test_a_prediction_of_another_size_is_named_and_the_others_are_done(
    rectiseg: Command, tmp_path: Path, reports: Reports
):
    save(Cascade(), tmp_path / "nothing.safetensors")
    (tmp_path / "said").mkdir()
    for name, shape in (("a", (4, 37, 50)), ("b", (4, 37, 25))):
        scene(tmp_path / "in" / f"{name}.png")
        np.save(tmp_path / "said" / f"{name}.npy", np.random.default_rng(0).normal(size=shape).astype(np.float32))
    given = (tmp_path / "in", tmp_path / "said", "-o", tmp_path / "out")
    code, said = rectiseg("refine", *given, "--refiner", tmp_path / "nothing.safetensors")
    assert code == 1
    reports(said, remaining(tmp_path / "out"), code)


def end_of(table: str) -> str:
    """What it says below the scores."""
    return table.strip().splitlines()[-1].strip()


@pytest.mark.fault("labels all ignored", "evaluate")
def test_labels_that_say_nothing_measure_nothing(model: Path, rectiseg: Command, tmp_path: Path, reports: Reports):
    data = data_set(tmp_path / "data", lambda labels: np.full_like(labels, 255))
    scores = tmp_path / "out" / "scores.json"
    code, said = rectiseg("evaluate", model, "--dataset", "folder", "--data", data, "--json", scores)
    assert code == 2
    reports(said, remaining(tmp_path / "out"), code)


@pytest.mark.fault("labels all ignored", "train")
@pytest.mark.usefixtures("accelerator")
def test_labels_that_say_nothing_are_not_learned_from(rectiseg: Command, tmp_path: Path, reports: Reports):
    for split in ("train", "val"):
        data_set(tmp_path / "data" / split, lambda labels: np.full_like(labels, 255))
    (tmp_path / "data" / "train" / "classes.json").rename(tmp_path / "data" / "classes.json")
    given = ("--dataset", "folder", "--data", tmp_path / "data", "--encoder-weights", "random")
    code, said = rectiseg("train", "scenes_tiny", *given, "-o", tmp_path / "out")
    assert code == 2
    reports(said, remaining(tmp_path / "out"), code)


@pytest.mark.fault("a class missing", "evaluate")
def test_a_class_that_does_not_occur_stays_out_of_the_mean(
    model: Path, rectiseg: Command, tmp_path: Path, reports: Reports
):
    data = data_set(tmp_path / "data", lambda labels: np.where(labels == 2, 1, labels))
    scores = tmp_path / "out" / "scores.json"
    code, said = rectiseg("evaluate", model, "--dataset", "folder", "--data", data, "--json", scores)
    written = json.loads(scores.read_text())["front"]
    known = [value for value in written["iou"].values() if value is not None]
    assert written["mean_iou"] == pytest.approx(sum(known) / len(known))
    assert (code, written["iou"][SCENE_CLASSES[2]]) == (0, None)
    reports(end_of(said), remaining(tmp_path / "out"), code)


def test_every_fault_is_planted_by_a_test_and_told_of_on_the_page():
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    told = {tuple(cell.strip(" `") for cell in line.split("|")[1:3]) for line in lines if line.startswith("| ")}
    assert planted() == told - {("fault", "command")}
    assert {name for name, _ in planted()} == {name for names in FAULTS.values() for name in names}
