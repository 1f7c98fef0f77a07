"""Image files and label maps: in as tensors of one kind, out whole or not at all."""

import struct
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Integer, UInt8
from PIL import Image as PillowImage
from PIL import UnidentifiedImageError
from torch import Tensor

from rectiseg.data.files import atomic_path

IMAGE_FORMATS = ("JPEG", "PNG", "TIFF", "WEBP", "BMP", "GIF")
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp", ".bmp", ".gif"})

MAX_PIXELS = 200_000_000
"""Larger images are refused before they are decoded. Pillow's own limit, about 179 million pixels, holds beside ours:
who raises `PIL.Image.MAX_IMAGE_PIXELS` gets ours."""

MEND = "cut it into smaller images, or let `rectiseg predict` take it in tiles: pip install 'rectiseg[large]'"

UPRIGHT = {
    2: PillowImage.Transpose.FLIP_LEFT_RIGHT,
    3: PillowImage.Transpose.ROTATE_180,
    4: PillowImage.Transpose.FLIP_TOP_BOTTOM,
    5: PillowImage.Transpose.TRANSPOSE,
    6: PillowImage.Transpose.ROTATE_270,
    7: PillowImage.Transpose.TRANSVERSE,
    8: PillowImage.Transpose.ROTATE_90,
}
"""What turns an image of that EXIF orientation upright. Pillow's exif_transpose also writes the EXIF block anew, and
fails where a camera wrote a value that it cannot write back."""

EXIF_ORIENTATION = 0x0112


def read_image(path: str | Path) -> Float[Tensor, "3 height width"]:
    """RGB in [0, 1], upright as its EXIF block says; the first frame of an animation.

    What is transparent shows white, as on a web page: the colours stored under it are arbitrary. Grey of 16 bits
    keeps its precision; Pillow reduces colours of 16 bits to 8. A ValueError names a file that is missing, broken, too
    large or of unknown range.
    """
    image = decode(Path(path), IMAGE_FORMATS)
    if image.mode in ("I", "F"):
        raise ValueError(
            f"{path}: holds 32-bit values of unknown range (mode {image.mode}); convert it to 8 or 16 bits"
        )
    if image.mode.startswith("I;16"):
        grey = torch.from_numpy(np.asarray(image).astype(np.float32) / 65535)
        return grey.expand(3, -1, -1).contiguous()
    pixels = torch.from_numpy(np.array(on_white(image)))
    return pixels.permute(2, 0, 1).float().div(255).contiguous()


def read_label_map(path: str | Path) -> Integer[np.ndarray, "height width"]:
    """The values as stored in a grey or palette PNG: uint8, or int32 from a PNG of 16 bits."""
    path = Path(path)
    image = decode(path, ("PNG",))
    if image.mode.startswith("I;16"):
        return np.asarray(image).astype(np.int32)
    if image.mode == "L":
        return np.array(image) // (255 // (2 ** png_bit_depth(path) - 1))  # Pillow stretches 2 and 4 bits to 0..255
    if image.mode in ("1", "P"):
        return np.asarray(image).astype(np.uint8)
    raise ValueError(f"{path}: holds colours ({image.mode}), not labels; save class indices as a grey or palette PNG")


def write_label_map(
    path: str | Path,
    labels: Integer[np.ndarray, "height width"],
    palette: UInt8[np.ndarray, "classes 3"] | None = None,
) -> None:
    """A PNG of the labels' size that holds their values: with a palette it is also good to look at.

    Without one, 16 bits are used where a label is above 255. Colours missing from the palette, IGNORE_INDEX's among
    them, are black.
    """
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise ValueError(f"{path}: label maps are written as PNG; end the name in .png")
    if labels.ndim != 2 or labels.dtype.kind not in "iu":
        raise ValueError(f"{path}: a label map is (height, width) integers, not {labels.dtype} of {labels.shape}")
    limit = 65535 if palette is None else 255
    if labels.min() < 0 or labels.max() > limit:
        where = "PNG" if palette is None else "palette PNG"
        raise ValueError(f"{path}: labels {labels.min()}..{labels.max()} do not fit a {where}, which holds 0..{limit}")
    image = PillowImage.fromarray(labels.astype(np.uint8 if labels.max() <= 255 else np.uint16))
    if palette is not None:
        colors = np.zeros((256, 3), np.uint8)
        colors[: len(palette)] = palette[:256]
        image.putpalette(colors.tobytes())
    with atomic_path(path) as temporary:
        image.save(temporary, format="PNG")


def find_images(paths: Sequence[Path]) -> list[Path]:
    """Files as given; folders searched to the bottom, sorted, hidden names passed over and each folder read once."""
    found: dict[Path, None] = {}  # a set that keeps the order
    for path in paths:
        if not path.exists():
            raise ValueError(f"{path}: no such file or folder")
        if not path.is_dir():
            found[path] = None
            continue
        below = dict.fromkeys(images_below(path, seen=set()))
        if not below:
            raise ValueError(f"{path}: holds no images ({' '.join(sorted(IMAGE_SUFFIXES))})")
        found |= below
    return list(found)


def images_below(folder: Path, seen: set[Path]) -> Iterator[Path]:
    """Follows links; `seen` is what keeps it from following them in circles."""
    if folder.resolve() in seen:
        return
    seen.add(folder.resolve())
    try:
        entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    except PermissionError as error:
        raise ValueError(f"{folder}: may not be read; change its permissions or leave it out") from error
    for entry in entries:
        if entry.is_dir():
            yield from images_below(entry, seen)
        elif entry.suffix.lower() in IMAGE_SUFFIXES:
            yield entry


def decode(path: Path, formats: tuple[str, ...]) -> PillowImage.Image:
    """The first frame, upright and whole in memory."""
    if not path.is_file():
        raise ValueError(f"{path}: {'not a file' if path.exists() else 'no such file'}")
    with one_sentence(path, formats), warnings.catch_warnings():
        warnings.simplefilter("ignore", PillowImage.DecompressionBombWarning)  # we check the size ourselves
        image = PillowImage.open(path, formats=formats)
    with image:
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise ValueError(f"{path}: {width} x {height} is more than {MAX_PIXELS} pixels; {MEND}")
        with one_sentence(path, formats):
            image.load()
            orientation = image.getexif().get(EXIF_ORIENTATION)
    return image.transpose(UPRIGHT[orientation]) if orientation in UPRIGHT else image


@contextmanager
def one_sentence(path: Path, formats: tuple[str, ...]) -> Iterator[None]:
    """All that Pillow was seen to raise on damaged files; a test damages many."""
    try:
        yield
    except PillowImage.DecompressionBombError as error:
        limit = 2 * (PillowImage.MAX_IMAGE_PIXELS or MAX_PIXELS)
        raise ValueError(f"{path}: more than Pillow's limit of {limit} pixels; {MEND}") from error
    except UnidentifiedImageError as error:
        raise ValueError(f"{path}: empty, broken or not one of {', '.join(formats)}; convert or replace it") from error
    except (OSError, SyntaxError, ValueError, struct.error) as error:
        raise ValueError(f"{path}: cannot be decoded ({error}); replace it with an undamaged copy") from error


def on_white(image: PillowImage.Image) -> PillowImage.Image:
    if not image.has_transparency_data:
        return image.convert("RGB")
    white = PillowImage.new("RGBA", image.size, "white")
    return PillowImage.alpha_composite(white, image.convert("RGBA")).convert("RGB")


def png_size(path: Path) -> tuple[int, int]:
    """Width and height, which follow the signature and the first chunk's length and name."""
    with path.open("rb") as file:
        file.seek(16)
        width, height = struct.unpack(">II", file.read(8))
    return width, height


def png_bit_depth(path: Path) -> int:
    """What follows the signature, the first chunk's length and name, the width and the height."""
    with path.open("rb") as file:
        file.seek(24)
        return file.read(1)[0]
