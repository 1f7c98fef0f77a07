"""Models in files that run without our code: what `rectiseg export` wrote, as parsers and refiners again."""

import json
import zipfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from rectiseg.models.external.installed import library
from rectiseg.models.external.programs import load_program
from rectiseg.types import Image, Logits

ENTRY = "rectiseg"
"""Under this name a file says what it holds, as JSON: in ONNX's metadata_props, in a .pt2's extra files."""

INPUTS = {
    "image": "float32 (batch, 3, height, width): RGB in [0, 1]",
    "logits": "float32 (batch, classes, height, width): unnormalised log-probabilities of the image's size",
}
"""A parser takes the first, a refiner both."""

Run = Callable[..., Tensor]
"""The network, called with its inputs in that order."""


@dataclass(frozen=True)
class About:
    """What a file says of its model. Logits of the input's height and width come out.

    ``num_classes`` is None where a refiner follows any number of classes, ``inputs`` says what each of them is.
    """

    kind: Literal["parser", "refiner"]
    num_classes: int | None
    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    precision: Literal["float32", "float16"]
    inputs: dict[str, str]
    version: str

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "About":
        """ValueError where the text describes no model of this version."""
        try:
            entries = dict(json.loads(text))
            colors = tuple((red, green, blue) for red, green, blue in entries.pop("palette"))
            return cls(**entries | {"classes": tuple(entries["classes"]), "palette": colors})
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError("what it says of its model cannot be read by this version; export it again") from error


class ExportedParser(nn.Module):
    """A file's parser. It runs on the CPU, wherever the image is."""

    def __init__(self, run: Run, about: About):
        super().__init__()
        self.run = run
        self.num_classes = about.num_classes
        self.classes = about.classes
        self.palette = about.palette

    def forward(self, image: Image) -> Logits:
        return self.run(image.cpu()).to(image.device)


class ExportedRefiner(nn.Module):
    """A file's refiner. It runs on the CPU, wherever image and logits are."""

    def __init__(self, run: Run, about: About):
        super().__init__()
        self.run = run
        self.num_classes = about.num_classes

    def forward(self, image: Image, logits: Logits) -> Logits:
        return self.run(image.cpu(), logits.cpu()).to(logits.device)


def load_exported(path: Path) -> ExportedParser | ExportedRefiner:
    """The model of an .onnx or .pt2 file that `rectiseg export` wrote, in eval mode.

    A file that is missing, damaged or from elsewhere raises ValueError, as a missing library does.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file; name one that exists")
    run, text = OPENERS[path.suffix](path)
    if text is None:
        raise ValueError(
            f"{path}: not written by `rectiseg export`; for other networks there is rectiseg.models.external.from_file"
        )
    try:
        about = About.from_json(text)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    kind = ExportedParser if about.kind == "parser" else ExportedRefiner
    return kind(run, about).eval()


def open_onnx(path: Path) -> tuple[Run, str | None]:
    onnxruntime: Any = library("onnxruntime", "onnx")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions have no other common base
        raise damaged(path) from error
    names = [entry.name for entry in session.get_inputs()]

    def run(*inputs: Tensor) -> Tensor:
        arrays = {name: tensor.numpy(force=True) for name, tensor in zip(names, inputs, strict=True)}
        return torch.from_numpy(session.run(None, arrays)[0])

    return run, session.get_modelmeta().custom_metadata_map.get(ENTRY)


def open_program(path: Path) -> tuple[Run, str | None]:
    if not zipfile.is_zipfile(path):  # of which torch would print a whole traceback
        raise damaged(path)
    files: dict[str, str] = {ENTRY: ""}
    try:
        program = load_program(path, files).module(check_guards=False)
    except Exception as error:  # of as many kinds as there are parts of the file
        raise damaged(path) from error
    # A function, not the module itself, which would refuse to be put into eval mode as a part of another.
    return lambda *inputs: program(*inputs), files[ENTRY] or None


def damaged(path: Path) -> ValueError:
    return ValueError(f"{path}: not a whole {path.suffix} file; copy or export it again")


OPENERS: dict[str, Callable[[Path], tuple[Run, str | None]]] = {".onnx": open_onnx, ".pt2": open_program}
"""What runs the network of a file of that suffix, and what it says of its model, if it does."""
