"""Image files and label maps: every kind of pixel by value, every kind of damage by its sentence."""

import os
import struct
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pictures import COLORS, raw_png, rgb, saved
from rectiseg.data import images
from rectiseg.data.images import read_image


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.bmp", "a.webp", "a.PNG"])
def test_colours_are_read_as_stored(name: str, tmp_path: Path):
    path = saved(Image.fromarray(COLORS), tmp_path / name, **({"lossless": True} if name == "a.webp" else {}))
    image = read_image(path)
    assert image.shape == (3, 2, 3)
    assert image.dtype == torch.float32
    assert image.is_contiguous()
    torch.testing.assert_close(image, torch.from_numpy(COLORS).permute(2, 0, 1) / 255, rtol=0, atol=0)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_jpeg_is_read_in_every_mode(mode: str, tmp_path: Path):
    grey = Image.new("RGB", (9, 6), (80, 80, 80)).convert(mode)
    image = read_image(saved(grey, tmp_path / "a.jpg", quality=95))
    assert image.shape == (3, 6, 9)
    torch.testing.assert_close(image * 255, torch.full((3, 6, 9), 80.0), rtol=0, atol=3)


def test_grey_becomes_three_equal_channels(tmp_path: Path):
    assert rgb(saved(Image.fromarray(np.array([[0, 51, 255]], np.uint8)), tmp_path / "a.png")) == [
        [[0, 0, 0], [51, 51, 51], [255, 255, 255]]
    ]


def test_one_bit_is_black_and_white(tmp_path: Path):
    path = saved(Image.fromarray(np.array([[False, True]])), tmp_path / "a.png")
    assert rgb(path) == [[[0, 0, 0], [255, 255, 255]]]


def test_a_palette_is_looked_up(tmp_path: Path):
    image = Image.fromarray(np.array([[2, 0, 1]], np.uint8))
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    assert rgb(saved(image, tmp_path / "a.png")) == [[[70, 80, 90], [10, 20, 30], [40, 50, 60]]]


def test_transparent_palette_entries_show_white(tmp_path: Path):
    image = Image.fromarray(np.array([[0, 1, 2]], np.uint8))
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    path = saved(image, tmp_path / "a.png", transparency=bytes([255, 0, 255]))
    assert rgb(path) == [[[10, 20, 30], [255, 255, 255], [70, 80, 90]]]


def test_a_transparent_colour_shows_white(tmp_path: Path):
    path = saved(Image.fromarray(COLORS), tmp_path / "a.png", transparency=(0, 255, 0))
    assert rgb(path)[0] == [[255, 0, 0], [255, 255, 255], [0, 0, 255]]


def test_alpha_is_laid_over_white(tmp_path: Path):
    pixels = np.array([[[200, 100, 0, 255], [200, 100, 0, 0], [0, 0, 0, 51]]], np.uint8)
    path = saved(Image.fromarray(pixels), tmp_path / "a.png")
    assert rgb(path) == [[[200, 100, 0], [255, 255, 255], [204, 204, 204]]]


def test_grey_with_alpha_is_laid_over_white(tmp_path: Path):
    image = Image.merge("LA", [Image.new("L", (1, 1), 0), Image.new("L", (1, 1), 51)])
    assert rgb(saved(image, tmp_path / "a.png")) == [[[204, 204, 204]]]


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_grey_of_16_bits_keeps_its_range_and_precision(name: str, tmp_path: Path):
    path = saved(Image.fromarray(np.array([[0, 1000, 65535]], np.uint16)), tmp_path / name)
    expected = torch.tensor([0, 1000 / 65535, 1]).expand(3, 1, 3)
    torch.testing.assert_close(read_image(path), expected)


@pytest.mark.parametrize(
    ("color_type", "row", "expected"),
    [
        (2, (65535, 0x8000, 0), [255, 128, 0]),
        (4, (0, 0x3333), [204, 204, 204]),
        (6, (65535, 0x8000, 0, 65535), [255, 128, 0]),
        (6, (65535, 0x8000, 0, 0), [255, 255, 255]),
        (6, (0, 0, 0x8080, 0x3333), [204, 204, 230]),
    ],
    ids=["RGB", "grey with alpha", "opaque", "transparent", "a fifth opaque"],
)
def test_colours_and_alpha_of_16_bits_are_read_with_8(
    color_type: int, row: tuple[int, ...], expected: list[int], tmp_path: Path
):
    path = raw_png(tmp_path / "a.png", 16, color_type, struct.pack(f">{len(row)}H", *row), width=1)
    assert rgb(path) == [[expected]]


def tiff_of_16_bits(path: Path, pixels: np.ndarray, order: str) -> Path:
    """(height, width, 3 or 4), the fourth channel being alpha: a kind that Pillow reads and does not write."""
    height, width, channels = pixels.shape
    short, long = 3, 4
    entries = [(256, short, 1, width), (257, short, 1, height), (259, short, 1, 1), (262, short, 1, 2)]
    entries += [(277, short, 1, channels), (279, long, 1, 2 * pixels.size)]
    entries += [(338, short, 1, 2)] * (channels == 4)
    bits = 8 + 2 + 12 * (len(entries) + 2) + 4  # what lies after the header and the directory
    entries += [(258, short, channels, bits), (273, long, 1, bits + 2 * channels)]
    content = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(f"{order}IH", 8, len(entries))
    for tag, kind, count, value in sorted(entries):
        inline = kind == short and count == 1
        content += struct.pack(f"{order}HHIHH" if inline else f"{order}HHII", tag, kind, count, value, *[0] * inline)
    content += struct.pack(f"{order}I{channels}H", 0, *[16] * channels)
    path.write_bytes(content + pixels.astype(f"{order}u2").tobytes())
    return path


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_tiff_of_16_bits_is_read_with_8(order: str, tmp_path: Path):
    pixels = np.array([[[65535, 0x8000, 0]], [[0x0102, 0x3333, 0xFE01]]])
    assert rgb(tiff_of_16_bits(tmp_path / "a.tif", pixels, order)) == [[[255, 128, 0]], [[1, 51, 254]]]
    alpha = np.array([[[65535, 0x8000, 0, 65535], [65535, 0x8000, 0, 0], [0, 0, 0, 0x3333]]])
    path = tiff_of_16_bits(tmp_path / "b.tif", alpha, order)
    assert rgb(path) == [[[255, 128, 0], [255, 255, 255], [204, 204, 204]]]


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_a_tiff_of_unknown_range_is_refused(dtype: type, tmp_path: Path):
    path = saved(Image.fromarray(np.ones((2, 3), dtype)), tmp_path / "a.tif")
    with pytest.raises(ValueError, match=r"a\.tif: holds 32-bit values of unknown range .* convert it"):
        read_image(path)


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
@pytest.mark.parametrize(
    ("orientation", "upright"),
    [
        (1, lambda pixels: pixels),
        (2, lambda pixels: pixels[:, ::-1]),
        (3, lambda pixels: pixels[::-1, ::-1]),
        (4, lambda pixels: pixels[::-1]),
        (5, lambda pixels: pixels.transpose(1, 0, 2)),
        (6, lambda pixels: pixels[::-1].transpose(1, 0, 2)),
        (7, lambda pixels: pixels[::-1, ::-1].transpose(1, 0, 2)),
        (8, lambda pixels: pixels[:, ::-1].transpose(1, 0, 2)),
    ],
)
def test_photographs_are_turned_upright(suffix: str, orientation: int, upright, tmp_path: Path):
    exif = Image.Exif()
    exif[images.EXIF_ORIENTATION] = orientation
    tiles = COLORS.repeat(8, axis=0).repeat(8, axis=1)  # a JPEG's own: what is flat in them stays nearly as it is
    options = {"jpg": {"quality": 95, "subsampling": 0}, "webp": {"lossless": True}}.get(suffix, {})
    path = saved(Image.fromarray(tiles), tmp_path / f"a.{suffix}", exif=exif, **options)
    np.testing.assert_allclose(rgb(path), upright(tiles), rtol=0, atol=4 if suffix == "jpg" else 0)


@pytest.mark.parametrize("name", ["a.gif", "a.png", "a.webp", "a.tif"])
def test_an_animation_gives_its_first_frame(name: str, tmp_path: Path):
    frames = [Image.new("RGB", (3, 2), color) for color in ("white", "black")]
    path = saved(frames[0], tmp_path / name, save_all=True, append_images=frames[1:])
    assert read_image(path).min() == 1


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp", "bmp", "gif"])
def test_a_truncated_file_is_refused_by_name(suffix: str, tmp_path: Path):
    noise = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    path = saved(Image.fromarray(noise), tmp_path / f"a.{suffix}")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match=rf"a\.{suffix}: "):
        read_image(path)


@pytest.mark.parametrize("content", [b"", b"not an image", b"\xff\xd8\xff"])
def test_what_is_no_image_is_refused_by_name(content: bytes, tmp_path: Path):
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.jpg: empty, broken or not one of JPEG, PNG"):
        read_image(tmp_path / "a.jpg")


def test_a_folder_or_nothing_is_refused_by_name(tmp_path: Path):
    with pytest.raises(ValueError, match=r": not a file"):
        read_image(tmp_path)
    with pytest.raises(ValueError, match=r"a\.jpg: no such file"):
        read_image(tmp_path / "a.jpg")


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path):
    os.mkfifo(tmp_path / "a.jpg")
    with pytest.raises(ValueError, match=r"a\.jpg: not a file"):
        read_image(tmp_path / "a.jpg")


def test_a_size_above_our_limit_is_refused_before_decoding(tmp_path: Path, monkeypatch):
    path = raw_png(tmp_path / "a.png", 8, 0, b"", width=7)  # decoding would fail: there is no pixel in it
    monkeypatch.setattr(images, "MAX_PIXELS", 6)
    with pytest.raises(ValueError, match=r"a\.png: 7 x 1 is more than 6 pixels"):
        read_image(path)


def test_a_size_above_pillow_s_limit_is_refused_with_it(tmp_path: Path):
    path = raw_png(tmp_path / "a.png", 8, 0, b"", width=180_000_000)
    with pytest.raises(ValueError, match=r"a\.png: more than Pillow's limit of 178956970 pixels"):
        read_image(path)


def test_a_size_that_pillow_only_warns_of_is_read_in_silence(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4)
    path = saved(Image.fromarray(COLORS), tmp_path / "a.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert rgb(path) == COLORS.tolist()
