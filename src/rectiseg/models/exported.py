"""Models in files that run without our code: what `rectiseg export` wrote, as parsers and refiners again."""

import inspect
import json
import zipfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.export.passes import move_to_device_pass

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

CUDA = "CUDAExecutionProvider"
"""What runs ONNX on a GPU, where onnxruntime-gpu is installed."""


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


class Exported(nn.Module):
    """A file's network. It runs where this is moved to, wherever its inputs are; ValueError where it cannot."""

    def __init__(self, path: Path, run: Run, about: About):
        super().__init__()
        self.path = path
        self.run = run
        self.place = nn.Parameter(torch.empty(0), requires_grad=False)
        self.num_classes = about.num_classes

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Exported":
        """What every move and conversion calls; the file is opened again for another device."""
        device = fn(self.place).device
        if device != self.place.device:
            self.run, _ = OPENERS[self.path.suffix](self.path, device)
        return super()._apply(fn, recurse)

    def of(self, *inputs: Tensor) -> Logits:
        answer = self.run(*(tensor.to(self.place.device) for tensor in inputs))
        return answer.to(inputs[-1].device)


class ExportedParser(Exported):
    def __init__(self, path: Path, run: Run, about: About):
        super().__init__(path, run, about)
        self.classes = about.classes
        self.palette = about.palette

    def forward(self, image: Image) -> Logits:
        return self.of(image)


class ExportedRefiner(Exported):
    def forward(self, image: Image, logits: Logits) -> Logits:
        return self.of(image, logits)


def load_exported(path: Path) -> ExportedParser | ExportedRefiner:
    """The model of an .onnx or .pt2 file that `rectiseg export` wrote, in eval mode.

    A file that is missing, damaged or from elsewhere raises ValueError, as a missing library does.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file; name one that exists")
    run, text = OPENERS[path.suffix](path, torch.device("cpu"))
    if text is None:
        raise ValueError(
            f"{path}: not written by `rectiseg export`; for other networks there is rectiseg.models.external.from_file"
        )
    try:
        about = About.from_json(text)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    kind = ExportedParser if about.kind == "parser" else ExportedRefiner
    return kind(path, run, about).eval()


def open_onnx(path: Path, device: torch.device) -> tuple[Run, str | None]:
    onnxruntime: Any = library("onnxruntime", "onnx")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    cuda = device.type == "cuda" and CUDA in onnxruntime.get_available_providers()
    providers = [(CUDA, {"device_id": device.index or 0})] if cuda else ["CPUExecutionProvider"]
    try:
        session = onnxruntime.InferenceSession(path, options, providers=providers)
    except Exception as error:  # its exceptions have no other common base
        raise damaged(path) from error
    place = "cuda" if CUDA in session.get_providers() else "cpu"  # there, too, where CUDA's libraries are missing
    if device.type != place:
        raise ValueError(f"{path}: runs on the {place.upper()} here: leave out --device, or install onnxruntime-gpu")
    names = [entry.name for entry in session.get_inputs()]

    def run(*inputs: Tensor) -> Tensor:
        arrays = {name: tensor.numpy(force=True) for name, tensor in zip(names, inputs, strict=True)}
        return torch.from_numpy(session.run(None, arrays)[0])

    return run, session.get_modelmeta().custom_metadata_map.get(ENTRY)


def open_program(path: Path, device: torch.device) -> tuple[Run, str | None]:
    if not zipfile.is_zipfile(path):  # of which torch would print a whole traceback
        raise damaged(path)
    files: dict[str, str] = {ENTRY: ""}
    try:
        program = load_program(path, files)
    except Exception as error:  # of as many kinds as there are parts of the file
        raise damaged(path) from error
    # Guards would refuse sizes that it takes; a torch from before there were any has no such argument.
    unguarded = {"check_guards": False} if "check_guards" in inspect.signature(program.module).parameters else {}
    module = move_to_device_pass(program, device).module(**unguarded)
    # A function, not the module itself, which would refuse to be put into eval mode as a part of another.
    return lambda *inputs: module(*inputs), files[ENTRY] or None


def damaged(path: Path) -> ValueError:
    return ValueError(f"{path}: not a whole {path.suffix} file; copy or export it again")


OPENERS: dict[str, Callable[[Path, torch.device], tuple[Run, str | None]]] = {".onnx": open_onnx, ".pt2": open_program}
"""What runs the network of a file of that suffix on a device, and what it says of its model, if it does."""
