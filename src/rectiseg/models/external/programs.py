"""Programs exported by torch (.pt2), opened without what torch would unpickle or link from them."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from threading import local
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch.export import ExportedProgram

COMPILED = "aotinductor"
"""In the name of a file in the archive: a library of machine code, which torch would load."""

watched = local()
"""Whether pickles are refused at present, in each thread."""


def load_program(path: Path, extra_files: dict[str, str] | None = None) -> "ExportedProgram":
    """`torch.export.load`, which by itself unpickles what it finds as an example's inputs, and loads libraries.

    ValueError where the file holds either. Its graph is a program all the same: open those of people you trust.
    """
    names = torch._C.PyTorchFileReader(str(path)).get_all_records()  # as torch itself will see them
    if any(COMPILED in name.lower() for name in names):
        raise ValueError("holds a compiled library, which is not loaded; export the program itself")
    with pickles_refused():
        return torch.export.load(path, extra_files=extra_files)


@contextmanager
def pickles_refused() -> Iterator[None]:
    """In this thread no pickle finds a function or a class, whoever reads it."""
    install_hook()
    watched.now = True
    try:
        yield
    finally:
        watched.now = False


@cache
def install_hook() -> None:
    """Once: such a hook cannot be taken away."""
    sys.addaudithook(refuse)


def refuse(event: str, arguments: tuple) -> None:
    if event == "pickle.find_class" and getattr(watched, "now", False):
        raise ValueError(
            f"holds a pickle that names {'.'.join(map(str, arguments))}, which is not run; export it again"
        )
