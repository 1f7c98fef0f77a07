"""Files that appear whole or not at all, and say so when they are not what was written."""

import hashlib
import json
import os
import secrets
import time
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

try:
    import fcntl
except ImportError:  # Windows has no such lock: two runs are not kept apart there
    fcntl = None

STARTED = time.time()

SEAL = "sha256"
"""The word of a .safetensors file's header that is a hash of the other words and of the tensors."""


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A hidden sibling to write to: it becomes `path` when the block ends well and vanishes when it does not.

    A process that is killed leaves its sibling behind; the next process that writes `path` replaces it.
    """
    with refusals_of(path):
        temporary = hidden_sibling(path)
        try:
            yield temporary
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())  # a crash of the machine, too, leaves the old file or the new one
            os.replace(temporary, path)  # noqa: PTH105 - the name says what it does, on every platform
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def refusals_of(path: Path) -> Iterator[None]:
    """What the system refuses names the path: a write that fails names no file, and the sibling is nobody's concern."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and (error.filename is None or Path(error.filename).name.startswith(".")):
            error.filename, error.filename2 = str(path), None
        raise


def real(path: Path) -> Path:
    """Where links lead to; one that leads to itself is taken as it is, where `Path.resolve` raises RuntimeError."""
    return Path(os.path.realpath(path))


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
    path.write_bytes(in_order(save(own, None if metadata is None else dict(metadata))))


def in_order(content: bytes) -> bytes:
    """The same .safetensors file, with its words by name: the library writes them in an order of chance."""
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    if "__metadata__" in header:
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at multiples of 8
    return len(text).to_bytes(8, "little") + text + content[end:]


class Damaged(Exception):
    """A file is not the one that was written; the text says by what that is known."""


def save_sealed(tensors: dict[str, Tensor], path: Path, words: Mapping[str, str]) -> None:
    """`save_file`, with a hash by which `read_sealed` knows whether a byte has changed since."""
    save_file(tensors, path, {**words, SEAL: seal_of(tensors, words)})


def read_sealed(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """A .safetensors file's tensors and words; a file without a hash, from elsewhere or of old, is taken as it is.

    One that is cut off, or whose hash is another, raises Damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            words = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise Damaged("not a whole .safetensors file") from error
    seal = words.pop(SEAL, None)
    if seal is not None and seal != seal_of(tensors, words):
        raise Damaged("damaged since it was written, for its hash is another")
    return tensors, words


def seal_of(tensors: Mapping[str, Tensor], words: Mapping[str, str]) -> str:
    digest = hashlib.sha256(repr(sorted(words.items())).encode())
    for name, value in sorted(tensors.items()):
        digest.update(repr((name, str(value.dtype), list(value.shape))).encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


@contextmanager
def alone_at(path: Path, mend: str) -> Iterator[None]:
    """No other process is in such a block for the same path; ValueError, which ends in ``mend``, where one is.

    The lock is on a hidden sibling, which goes when the block ends; the system takes it from a process that is killed.
    """
    lock = path.with_name(f".{path.name}.lock")
    with lock.open("w") as file:
        if not taken(file, lock):
            raise ValueError(f"{path}: another run is writing it; {mend}")
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


def taken(file: IO[str], lock: Path) -> bool:
    """Whether the lock is ours now, and on the file that has the name: who ended just now has removed the other."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(file.fileno()), lock.stat())
    except (BlockingIOError, FileNotFoundError):
        return False


def digest_of(path: Path) -> str:
    """Twelve hexadecimal digits that change with what the file holds."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:12]
