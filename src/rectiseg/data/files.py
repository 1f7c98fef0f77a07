"""Files that appear whole or not at all."""

import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A hidden sibling to write to: it becomes `path` when the block ends well and vanishes when it does not."""
    temporary = path.with_name(f".{secrets.token_hex(8)}{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)  # noqa: PTH105 - the name says what it does, on every platform
    finally:
        temporary.unlink(missing_ok=True)


def save_file(tensors: dict[str, Tensor], path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """A .safetensors file that others may read, too: the library's own function gives it to its owner alone.

    Tensors may lie anywhere and share memory, as those of a module used twice do; the library refuses that.
    """
    own = {name: value.detach().cpu().clone(memory_format=torch.contiguous_format) for name, value in tensors.items()}
    path.write_bytes(save(own, None if metadata is None else dict(metadata)))
