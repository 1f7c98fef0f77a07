"""Images that are read, parsed and written in tiles."""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from heard import Heard
from networks import TinyEncoder
from rectiseg import visualize
from rectiseg.data import large_images
from rectiseg.data.images import read_image, read_label_map, write_label_map
from rectiseg.data.large_images import HeldImage, StreamedImage, label_rows, open_partly
from rectiseg.inference import Wanted
from rectiseg.jobs import plan
from rectiseg.models.combine import SceneParser
from rectiseg.models.front import Front
from rectiseg.models.lrn import LRN
from rectiseg.prediction import predict_files

CLASSES = tuple("abcd")
PALETTE = np.arange(12, dtype=np.uint8).reshape(4, 3)
HEIGHT, WIDTH = 61, 83


def picture(mode: str = "RGB") -> Image.Image:
    """Smooth, with something to see; transparent here and there where the mode has that."""
    noise = np.random.default_rng(0).integers(0, 256, (9, 11, len(mode)), dtype=np.uint8)
    bands = [Image.fromarray(noise[..., band]).resize((WIDTH, HEIGHT)) for band in range(len(mode))]
    return Image.merge(mode, bands) if len(bands) > 1 else bands[0]


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def sixteen_bits() -> Image.Image:
    return Image.fromarray(np.asarray(picture("L")).astype(np.uint16) * 250 + 3)


FILES: dict[str, Callable[[Path], None]] = {
    "rgb.jpg": lambda path: picture().save(path),
    "progressive.jpg": lambda path: picture().save(path, progressive=True),
    "turned.jpg": lambda path: picture().save(path, exif=turned(6)),
    "mirrored.png": lambda path: picture().save(path, exif=turned(2)),
    "grey.jpg": lambda path: picture("L").save(path),
    "cmyk.jpg": lambda path: picture().convert("CMYK").save(path),
    "transparent.png": lambda path: picture("RGBA").save(path),
    "grey_transparent.png": lambda path: picture("LA").save(path),
    "palette.png": lambda path: picture().quantize(60).save(path),
    "one_bit.png": lambda path: picture("L").convert("1").save(path),
    "sixteen_bits.png": lambda path: sixteen_bits().save(path),
    "rgb.tif": lambda path: picture().save(path, compression="tiff_lzw"),
    "sixteen_bits.tif": lambda path: sixteen_bits().save(path),
    "rgb.webp": lambda path: picture().save(path),
    "palette.gif": lambda path: picture().save(path),
    "rgb.bmp": lambda path: picture().save(path),
}


@pytest.mark.parametrize("name", FILES)
def test_windows_hold_the_pixels_of_the_whole_image(name: str, tmp_path: Path):
    pytest.importorskip("pyvips")
    FILES[name](tmp_path / name)
    whole, partly = read_image(tmp_path / name), open_partly(tmp_path / name)
    assert isinstance(partly, HeldImage if name == "rgb.bmp" else StreamedImage)
    assert (partly.height, partly.width) == whole.shape[1:]
    for first in range(0, partly.height, 13):
        rows, columns = slice(first, min(first + 20, partly.height)), slice(3, 50)
        assert torch.equal(partly.window(rows, columns), whole[:, rows, columns])


def test_only_the_rows_of_a_window_are_held(tmp_path: Path):
    pytest.importorskip("pyvips")
    picture().save(tmp_path / "a.png")
    partly = open_partly(tmp_path / "a.png")
    assert isinstance(partly, StreamedImage)
    for first in (0, 10, 41):
        partly.window(slice(first, first + 20), slice(0, 5))
        assert partly.held.shape == (20, WIDTH, 3)


@pytest.mark.parametrize(
    ("save", "sentence"),
    [
        (lambda path: path.write_bytes(b"no image"), "empty, broken or not one of"),
        (lambda path: Image.fromarray(np.ones((6, 7), np.float32)).save(path), "range is not known"),
        (lambda path: cut_short(path), "cannot be decoded .*undamaged copy"),
    ],
)
def test_what_cannot_be_read_is_said_in_a_sentence(save: Callable[[Path], None], sentence: str, tmp_path: Path):
    pytest.importorskip("pyvips")
    path = tmp_path / "a.tif"
    save(path)
    with pytest.raises(ValueError, match=f"^{path}: .*{sentence}"):
        open_partly(path).window(slice(0, 6), slice(0, 7))


def cut_short(path: Path) -> None:
    picture().save(path, format="PNG")
    path.write_bytes(path.read_bytes()[:300])


def test_more_pixels_than_the_limit_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("pyvips")
    picture().save(tmp_path / "a.png")
    monkeypatch.setattr(large_images, "MAX_STREAMED_PIXELS", HEIGHT * WIDTH - 1)
    with pytest.raises(ValueError, match=rf"{WIDTH} x {HEIGHT} is more than {HEIGHT * WIDTH - 1} pixels"):
        open_partly(tmp_path / "a.png")


@pytest.mark.parametrize("palette", [None, PALETTE])
@pytest.mark.parametrize("largest", [3, 300])
def test_rows_make_the_label_map_that_is_written_whole(largest: int, palette: np.ndarray | None, tmp_path: Path):
    if palette is not None and largest > 255:
        pytest.skip("a palette holds no more")
    labels = np.random.default_rng(1).integers(0, largest + 1, (13, 9), dtype=np.int32)
    write_label_map(tmp_path / "whole.png", labels, palette)
    with label_rows(tmp_path / "rows.png", (13, 9), palette, sixteen_bits=largest > 255) as append:
        for first in range(0, 13, 5):
            append(labels[first : first + 5])
    np.testing.assert_array_equal(read_label_map(tmp_path / "rows.png"), labels)
    whole, rows = (Image.open(tmp_path / f"{name}.png") for name in ("whole", "rows"))
    assert rows.mode == whole.mode
    assert rows.getpalette() == whole.getpalette()


def test_a_label_map_that_is_not_finished_is_not_there(tmp_path: Path):
    def stopped() -> None:
        with label_rows(tmp_path / "rows.png", (13, 9)) as append:
            append(np.zeros((5, 9), np.int32))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert list(tmp_path.iterdir()) == []


class PixelByPixel(nn.Module):
    """A front that looks at no neighbour."""

    def forward(self, image: Tensor) -> Tensor:
        return 9 * torch.cat([image, 1.5 - image.sum(dim=1, keepdim=True)], dim=1)


def local_parser() -> SceneParser:
    torch.manual_seed(2)
    lrn = LRN(4, 5, widths=(6,))
    nn.init.normal_(lrn.head.weight, std=0.3)
    return SceneParser(PixelByPixel(), lrn).eval()


@pytest.fixture
def street(tmp_path: Path) -> Path:
    """181 x 203 pixels of another size than any tile."""
    noise = np.random.default_rng(3).integers(0, 256, (20, 23, 3), dtype=np.uint8)
    path = tmp_path / "street.png"
    Image.fromarray(noise).resize((203, 181)).save(path)
    return path


def labels_of(parser: nn.Module, image: Path, output: Path, tile: int | None, wanted: Wanted = Wanted()) -> np.ndarray:  # noqa: B008
    (job,) = plan([image], output)
    assert predict_files(parser, [job], CLASSES, PALETTE, wanted, tile=tile) == []
    return read_label_map(job.labels)


@pytest.mark.parametrize("tile", [64, 37])
@pytest.mark.parametrize("library", ["with", "without"])
def test_labels_in_tiles_are_those_of_the_whole_image(
    library: str, tile: int, street: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    if library == "without":
        monkeypatch.setitem(sys.modules, "pyvips", None)
    whole = labels_of(local_parser(), street, tmp_path / "whole", None)
    assert len(np.unique(whole)) == 4
    np.testing.assert_array_equal(labels_of(local_parser(), street, tmp_path / "tiles", tile), whole)
    pictures = [Image.open(tmp_path / folder / "street.png").convert("RGB") for folder in ("whole", "tiles")]
    assert pictures[0].tobytes() == pictures[1].tobytes()


def test_official_ids_are_written_in_tiles_too(street: Path, tmp_path: Path):
    whole = labels_of(local_parser(), street, tmp_path / "whole", None, Wanted(ids="cityscapes"))
    tiled = labels_of(local_parser(), street, tmp_path / "tiles", 64, Wanted(ids="cityscapes"))
    np.testing.assert_array_equal(tiled, whole)
    assert whole.min() == 7


def test_large_images_are_parsed_in_tiles_by_themselves_and_that_is_said(
    street: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("rectiseg.prediction.WHOLE_PIXELS", 181 * 203 - 1)
    monkeypatch.setattr("rectiseg.prediction.SIZE", 100)
    Image.open(street).crop((0, 0, 203, 180)).save(tmp_path / "smaller.png")
    reporter = Heard()
    jobs = plan([street, tmp_path / "smaller.png"], tmp_path / "out")
    parser = SceneParser(Front(TinyEncoder(), 4), local_parser().refiner).eval()
    assert predict_files(parser, jobs, CLASSES, PALETTE, reporter=reporter) == []
    (sentence,) = reporter.said
    assert sentence.startswith(
        f"{street}: 203x181 pixels, parsed in 6 tiles of at most 100x100, with 68 pixels around each"
    )
    assert reporter.notes == ["1 of 2 rows of tiles", "2 of 2 rows of tiles"]
    assert reporter.done == 2


def test_pictures_of_an_image_in_tiles_are_those_of_the_whole_one(street: Path, tmp_path: Path):
    wanted = Wanted(overlay=True, panel=True)
    labels_of(local_parser(), street, tmp_path / "whole", None, wanted)
    labels_of(local_parser(), street, tmp_path / "tiles", 64, wanted)
    for name in ("street_overlay.png", "street_panel.png"):
        whole, tiles = (np.asarray(Image.open(tmp_path / folder / name)) for folder in ("whole", "tiles"))
        np.testing.assert_array_equal(tiles, whole, err_msg=name)


def test_pictures_of_a_large_image_are_drawn_of_some_of_its_pixels_and_that_is_said(
    street: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("rectiseg.prediction.WHOLE_PIXELS", 181 * 203 // 8)
    monkeypatch.setattr("rectiseg.prediction.SIZE", 50)
    reporter = Heard()
    jobs = plan([street], tmp_path / "out")
    assert predict_files(local_parser(), jobs, CLASSES, PALETTE, Wanted(overlay=True), reporter) == []
    (sentence,) = reporter.said
    assert sentence.endswith("; pictures are drawn at 1/3 of its size")
    labels = read_label_map(tmp_path / "out" / "street.png")
    assert labels.shape == (181, 203)
    overlay = np.asarray(Image.open(tmp_path / "out" / "street_overlay.png"))
    expected = visualize.overlay(read_image(street)[:, ::3, ::3], labels[::3, ::3], PALETTE)
    np.testing.assert_array_equal(overlay[: expected.shape[0], : expected.shape[1]], expected)


def test_probabilities_of_it_are_refused_with_what_gives_them_and_those_of_others_are_written(
    street: Path, tmp_path: Path
):
    Image.open(street).crop((0, 0, 50, 40)).save(tmp_path / "small.png")
    jobs = plan([street, tmp_path / "small.png"], tmp_path / "out")
    (failure,) = predict_files(local_parser(), jobs, CLASSES, PALETTE, Wanted(probabilities=True), tile=64)
    assert failure.image == street
    assert "more than 64 pixels a side and is parsed in tiles, which give no probabilities" in failure.sentence
    assert "--tile of its longer side" in failure.sentence
    assert {path.name[:5] for path in (tmp_path / "out").iterdir()} == {"small"}
    assert predict_files(local_parser(), jobs[:1], CLASSES, PALETTE, Wanted(probabilities=True), tile=203) == []


def test_an_image_that_breaks_off_leaves_no_label_map_and_the_others_are_done(street: Path, tmp_path: Path):
    pytest.importorskip("pyvips")
    broken = tmp_path / "broken.png"
    broken.write_bytes(street.read_bytes()[:-3000])
    jobs = plan([broken, street], tmp_path / "out")
    (failure,) = predict_files(local_parser(), jobs, CLASSES, PALETTE, tile=64)
    assert failure.sentence.startswith(f"{broken}: cannot be decoded")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["street.png"]


def test_a_full_disk_ends_the_work_with_a_sentence(street: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(*arguments: object) -> bytes:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(large_images, "chunk", full)
    with pytest.raises(ValueError, match=r"street\.png: cannot be written .*No space left"):
        predict_files(local_parser(), plan([street], tmp_path / "out"), CLASSES, PALETTE, tile=64)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_tile_that_does_not_fit_in_memory_names_the_mend(street: Path, tmp_path: Path):
    def hungry(image: Tensor) -> Tensor:
        raise MemoryError

    (failure,) = predict_files(hungry, plan([street], tmp_path / "out"), CLASSES, PALETTE, tile=64)
    assert failure.sentence == f"{street}: a tile of 64 pixels does not fit in memory; choose smaller ones"


def test_classes_that_do_not_match_stop_the_work_in_tiles_too(street: Path, tmp_path: Path):
    with pytest.raises(ValueError, match="the parser knows 4 classes, 2 were named"):
        predict_files(local_parser(), plan([street], tmp_path / "out"), CLASSES[:2], PALETTE[:2], tile=64)


def test_without_libvips_what_pillow_refuses_is_refused_with_the_mend(
    street: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 181 * 203 // 2 - 1)
    jobs = plan([street], tmp_path / "out")
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "pyvips", None)
        (failure,) = predict_files(local_parser(), jobs, CLASSES, PALETTE)
        assert failure.sentence.endswith("take it in tiles: pip install 'rectiseg[large]'")
    pytest.importorskip("pyvips")
    assert predict_files(local_parser(), jobs, CLASSES, PALETTE) == []
