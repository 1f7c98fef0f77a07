"""Small images, as files."""

import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from rectiseg.data.images import read_image

COLORS = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]], [[0, 51, 102], [153, 204, 255], [9, 8, 7]]], np.uint8)


def raw_png(path: Path, bit_depth: int, color_type: int, row: bytes, width: int) -> Path:
    """One row of pixels as they are, in the kinds of PNG that Pillow does not write."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, 1, bit_depth, color_type, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" + row)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    return path


def saved(image: Image.Image, path: Path, **options) -> Path:
    image.save(path, **options)
    return path


def rgb(path: Path) -> list:
    """(height, width, 3) numbers of 0..255."""
    return (read_image(path) * 255).permute(1, 2, 0).tolist()
