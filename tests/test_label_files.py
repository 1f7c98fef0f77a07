"""Label maps as files: every kind of pixel by value."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pictures import COLORS, raw_png, rgb, saved
from rectiseg.data.images import read_label_map, write_label_map


def test_labels_are_read_as_stored(tmp_path: Path):
    labels = np.array([[0, 11, 255]], np.uint8)
    found = read_label_map(saved(Image.fromarray(labels), tmp_path / "a.png"))
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, labels)


@pytest.mark.parametrize(("bit_depth", "row", "width"), [(1, b"\x40", 2), (2, b"\x1b", 4), (4, b"\x3f", 2)])
def test_labels_of_few_bits_are_not_stretched(bit_depth: int, row: bytes, width: int, tmp_path: Path):
    expected = {1: [[0, 1]], 2: [[0, 1, 2, 3]], 4: [[3, 15]]}[bit_depth]
    assert read_label_map(raw_png(tmp_path / "a.png", bit_depth, 0, row, width)).tolist() == expected


def test_palette_labels_are_indices(tmp_path: Path):
    image = Image.fromarray(np.array([[2, 0, 1]], np.uint8))
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    assert read_label_map(saved(image, tmp_path / "a.png")).tolist() == [[2, 0, 1]]


def test_colours_are_not_labels(tmp_path: Path):
    path = saved(Image.fromarray(COLORS), tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"a\.png: holds colours \(RGB\), not labels; save class indices as"):
        read_label_map(path)


def test_a_jpeg_is_no_label_map(tmp_path: Path):
    path = saved(Image.new("L", (3, 2)), tmp_path / "a.jpg")
    with pytest.raises(ValueError, match=r"a\.jpg: empty, broken or not one of PNG"):
        read_label_map(path)


def test_written_labels_come_back(tmp_path: Path):
    labels = np.array([[0, 5, 255], [3, 3, 1]], np.int64)
    write_label_map(tmp_path / "a.png", labels)
    assert Image.open(tmp_path / "a.png").mode == "L"
    np.testing.assert_array_equal(read_label_map(tmp_path / "a.png"), labels)


def test_a_palette_changes_how_labels_look_but_not_what_they_are(tmp_path: Path):
    labels = np.array([[1, 0, 255]], np.uint8)
    write_label_map(tmp_path / "a.png", labels, np.array([[10, 20, 30], [40, 50, 60]], np.uint8))
    np.testing.assert_array_equal(read_label_map(tmp_path / "a.png"), labels)
    assert rgb(tmp_path / "a.png") == [[[40, 50, 60], [10, 20, 30], [0, 0, 0]]]


def test_labels_above_255_take_16_bits(tmp_path: Path):
    labels = np.array([[300, 65535, 2]], np.int32)
    write_label_map(tmp_path / "a.png", labels)
    found = read_label_map(tmp_path / "a.png")
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, labels)


@pytest.mark.parametrize(
    ("name", "labels", "sentence"),
    [
        ("a.png", np.array([[-1]]), r"a\.png: labels -1\.\.-1 do not fit a PNG"),
        ("a.png", np.array([[65536]]), r"a\.png: labels 65536\.\.65536 do not fit a PNG"),
        ("a.jpg", np.array([[0]]), r"a\.jpg: label maps are written as PNG"),
    ],
)
def test_labels_that_a_file_cannot_hold_are_refused(name: str, labels: np.ndarray, sentence: str, tmp_path: Path):
    with pytest.raises(ValueError, match=sentence):
        write_label_map(tmp_path / name, labels)
    assert not list(tmp_path.iterdir())


def test_labels_above_255_do_not_fit_a_palette(tmp_path: Path):
    with pytest.raises(ValueError, match=r"do not fit a palette PNG, which holds 0\.\.255"):
        write_label_map(tmp_path / "a.png", np.array([[256]]), np.zeros((2, 3), np.uint8))
