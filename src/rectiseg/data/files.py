"""Files that appear whole or not at all."""

import os
import secrets
import time
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

STARTED = time.time()


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A hidden sibling to write to: it becomes `path` when the block ends well and vanishes when it does not.

    A process that is killed leaves its sibling behind; the next process that writes `path` replaces it.
    """
    temporary = hidden_sibling(path)
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())  # a crash of the machine, too, leaves the old file or the new one
        os.replace(temporary, path)  # noqa: PTH105 - the name says what it does, on every platform
    finally:
        temporary.unlink(missing_ok=True)


def hidden_sibling(path: Path) -> Path:
    """Has one name for each `path`, so that what a killed process left is found without a search.

    One that was written to since this process began may be the work of another that writes the same file: then the
    name is a random one.
    """
    sibling = path.with_name(f".{zlib.crc32(os.fsencode(path.name)):08x}{path.suffix}")
    with suppress(OSError):  # there is none, or it is not ours to remove
        if sibling.stat().st_mtime < STARTED:
            sibling.unlink()
    try:
        sibling.touch(exist_ok=False)  # from here on it is taken
    except FileExistsError:
        return path.with_name(f".{secrets.token_hex(8)}{path.suffix}")
    return sibling


def save_file(tensors: dict[str, Tensor], path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """A .safetensors file that others may read, too: the library's own function gives it to its owner alone.

    Tensors may lie anywhere and share memory, as those of a module used twice do; the library refuses that.
    """
    own = {name: value.detach().cpu().clone(memory_format=torch.contiguous_format) for name, value in tensors.items()}
    path.write_bytes(save(own, None if metadata is None else dict(metadata)))
