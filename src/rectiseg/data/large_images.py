"""Images that are read some rows at a time, and label maps that are written so: neither is ever whole in memory."""

import math
import struct
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Integer, UInt8
from PIL import Image as PillowImage
from torch import Tensor

from rectiseg.data.files import atomic_path
from rectiseg.data.images import IMAGE_FORMATS, UPRIGHT, on_white, read_image

MAX_STREAMED_PIXELS = 400_000_000
"""Larger images are refused before they are decoded, even where only some rows are held."""

MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
"""Pillow's names for so many bands."""

Window = Float[Tensor, "3 rows columns"]
Rows = Integer[np.ndarray, "rows width"]


@runtime_checkable
class PartlyRead(Protocol):
    """An image of which windows are asked for from its top to its bottom."""

    height: int
    width: int

    def window(self, rows: slice, columns: slice) -> Window:
        """RGB in [0, 1]; rows that begin above those of an earlier window may be gone."""
        ...


class HeldImage:
    """One that is in memory whole after all."""

    def __init__(self, image: Float[Tensor, "3 height width"]):
        self.image = image
        self.height, self.width = image.shape[1:]

    def window(self, rows: slice, columns: slice) -> Window:
        return self.image[:, rows, columns]


class StreamedImage:
    """One that libvips decodes from the top to the bottom; the rows of the last window are held.

    Pixels are `read_image`'s. What a camera turned is decoded into a temporary file first. A ValueError names a file
    that is broken, too large or of unknown range.
    """

    def __init__(self, path: Path, image: Any, vips: Any):
        self.path = path
        self.vips = vips
        self.height, self.width = image.height, image.width
        if self.height * self.width > MAX_STREAMED_PIXELS:
            raise ValueError(
                f"{path}: {self.width} x {self.height} is more than {MAX_STREAMED_PIXELS} pixels; "
                "cut it into smaller images"
            )
        if "orientation" in image.get_fields() and image.get("orientation") in UPRIGHT:
            turned = opened(path, "random", vips)
            assert turned is not None
            with self.one_sentence():
                image = turned.autorot()
            self.height, self.width = image.height, image.width
        self.mode = self.mode_of(image)
        self.type = np.uint16 if image.format == "ushort" else np.uint8
        self.bands = image.bands
        self.region = vips.Region.new(image)
        self.first = self.last = 0
        self.held = np.empty((0, self.width, self.bands), self.type)

    @contextmanager
    def one_sentence(self) -> Iterator[None]:
        try:
            yield
        except self.vips.Error as error:
            reason = (error.detail or error.message).strip().splitlines()[0]
            raise ValueError(f"{self.path}: cannot be decoded ({reason}); replace it with an undamaged copy") from error

    def mode_of(self, image: Any) -> str:
        if image.interpretation == "cmyk" and image.format == "uchar":
            return "CMYK"
        if image.format not in ("uchar", "ushort") or image.bands not in MODES:
            raise ValueError(
                f"{self.path}: holds {image.bands} bands of {image.format}, whose range is not known; "
                "convert it to grey or RGB of 8 or 16 bits"
            )
        return MODES[image.bands]

    def window(self, rows: slice, columns: slice) -> Window:
        self.hold(rows.start, rows.stop)
        pixels = self.held[rows.start - self.first : rows.stop - self.first, columns]
        if self.type == np.uint16 and self.bands == 1:
            return torch.from_numpy(pixels[..., 0].astype(np.float32) / 65535).expand(3, -1, -1).contiguous()
        if self.type == np.uint16:
            pixels = (pixels >> 8).astype(np.uint8)  # as Pillow does with colours
        picture = PillowImage.frombytes(self.mode, (pixels.shape[1], pixels.shape[0]), pixels.tobytes())
        return torch.from_numpy(np.array(on_white(picture))).permute(2, 0, 1).float().div(255).contiguous()

    def hold(self, first: int, last: int) -> None:
        """These rows, and no more of those above them."""
        assert first >= self.first
        kept = self.held[first - self.first :]
        start = max(self.last, first)
        if last > start:
            with self.one_sentence():
                fetched = np.frombuffer(self.region.fetch(0, start, self.width, last - start), self.type)
            kept = np.concatenate([kept, fetched.reshape(-1, self.width, self.bands)])
        self.held, self.first, self.last = kept, first, first + len(kept)


def open_partly(path: Path) -> PartlyRead:
    """Read in parts where libvips is installed and knows the format; else whole, as far as `read_image` does it."""
    vips = libvips()
    image = None if vips is None else opened(path, "sequential", vips)
    return HeldImage(read_image(path)) if image is None else StreamedImage(path, image, vips)


def opened(path: Path, access: str, vips: Any) -> Any | None:
    """libvips' image, of which it has read the header; None where it cannot."""
    try:
        # An image that it has cached from an earlier call may be read to its end already.
        return vips.Image.new_from_file(str(path), access=access, fail_on="error", revalidate=True)
    except vips.Error:
        return None


def libvips() -> Any | None:
    """The extra `large`, where it is installed."""
    try:
        return import_module("pyvips")
    except (ModuleNotFoundError, OSError):  # it, or the library that it stands on
        return None


def is_larger(path: Path, side: int | None, pixels: int) -> bool:
    """Than so many pixels a side, or where no side is given in all, as the file's header says; no if it says none."""
    try:
        size = stored_size(path)
    except PillowImage.DecompressionBombError:
        return True
    return size is not None and (max(size) > side if side is not None else math.prod(size) > pixels)


def stored_size(path: Path) -> tuple[int, int] | None:
    """Width and height as the file's header says; None if it says none. Pillow raises its own error for huge ones."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PillowImage.DecompressionBombWarning)
            with PillowImage.open(path, formats=IMAGE_FORMATS) as image:
                return image.size
    except (OSError, SyntaxError, ValueError, struct.error):  # who reads it will say what is wrong
        return None


@contextmanager
def label_rows(
    path: Path,
    size: tuple[int, int],
    palette: UInt8[np.ndarray, "classes 3"] | None = None,
    sixteen_bits: bool = False,
) -> Iterator[Callable[[Rows], None]]:
    """A PNG of height and width as `write_label_map`'s, to which rows are appended: whole at the end or not at all."""
    height, width = size
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n")
        kind = 0 if palette is None else 3  # grey, or indices of a palette
        file.write(chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16 if sixteen_bits else 8, kind, 0, 0, 0)))
        if palette is not None:
            colors = np.zeros((256, 3), np.uint8)
            colors[: len(palette)] = palette[:256]
            file.write(chunk(b"PLTE", colors.tobytes()))
        compressor = zlib.compressobj()
        written = 0

        def append(labels: Rows) -> None:
            nonlocal written
            written += len(labels)
            values = np.ascontiguousarray(labels, ">u2" if sixteen_bits else np.uint8).view(np.uint8)
            unfiltered = np.pad(values, ((0, 0), (1, 0)))  # every row begins with the kind of its filter: none
            if data := compressor.compress(unfiltered.tobytes()):
                file.write(chunk(b"IDAT", data))

        yield append
        assert written == height
        file.write(chunk(b"IDAT", compressor.flush()) + chunk(b"IEND", b""))


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
