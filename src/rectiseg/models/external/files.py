"""Networks in files, as parsers: ONNX, LiteRT (TensorFlow Lite) and programs exported by torch."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from rectiseg.models.external.fits import Fit, Size, letterboxed, padded, rounded_up, stretched
from rectiseg.models.external.front import TRIAL_SIZE, ExternalFront, Maps, PerBand, maps_in, trial
from rectiseg.models.external.installed import library
from rectiseg.models.external.programs import load_program
from rectiseg.types import Image

Layout = Literal["KHW", "HWK"]
"""Whether an array has its bands or classes before height and width, or after."""

Array = Float[Tensor, "1 _ _ _"]
"""An image, or what a network says of it, in the file's layout."""

Input = TypeVar("Input")


@dataclass(frozen=True)
class NetworkFile:
    """An opened file: what runs it on one image, and that input's shape (None: any) and whether it is of floats."""

    run: Callable[[Array], object]
    shape: tuple[int | None, ...]
    is_float: bool

    @property
    def layout(self) -> Layout:
        """Read from where the three bands are; ValueError where the input is no RGB image of floats."""
        match self.shape:
            case (1 | None, 3, _, _) if self.is_float:
                return "KHW"
            case (1 | None, _, _, 3) if self.is_float:
                return "HWK"
        sides = " x ".join("any" if side is None else str(side) for side in self.shape)
        raise ValueError(
            f"takes {sides} {'32-bit floats' if self.is_float else 'values that are no 32-bit floats'}; "
            "convert the network so that it takes 1 x 3 x H x W or 1 x H x W x 3 of them"
        )

    @property
    def fixed_size(self) -> Size | None:
        height, width = self.shape[2:] if self.layout == "KHW" else self.shape[1:3]
        return None if height is None or width is None else (height, width)


class FileNetwork(nn.Module):
    """A file's network in torch's layout. It takes batches apart: many files hold networks of one image.

    ``void`` is the map that is left out.
    """

    def __init__(self, file: NetworkFile, layout: Layout, void: int | None = None):
        super().__init__()
        self.file_layout: Layout = file.layout
        self.layout: Layout = layout
        self.void = void
        self.run = file.run  # an exported program is a module: its weights move with this one

    def train(self, mode: bool = True) -> "FileNetwork":
        """A file's network has one mode, and an exported program refuses to be put into any."""
        self.training = mode
        return self

    def forward(self, image: Image) -> Maps:
        return torch.cat([self.of_one(one) for one in image.split(1)])

    def of_one(self, image: Image) -> Maps:
        answer = maps_in(self.run(image.movedim(1, -1).contiguous() if self.file_layout == "HWK" else image))
        maps = classes_first(answer, self.layout)
        return maps if self.void is None else torch.cat([maps[:, : self.void], maps[:, self.void + 1 :]], dim=1)


def from_file(
    path: str | Path,
    *,
    mean: PerBand = (0.0, 0.0, 0.0),
    std: PerBand = (1.0, 1.0, 1.0),
    bgr: bool = False,
    keep_aspect: bool = False,
    multiple: int = 1,
    layout: Layout | None = None,
    void: int | None = None,
    classes: tuple[str, ...] = (),
) -> ExternalFront:
    """The network of an .onnx, .tflite or .pt2 file: one input, an image; the first output is taken.

    A file does not say how its input was normalised: ``mean`` and ``std`` are for values in [0, 1] in the order of its
    bands, RGB or ``bgr``. To a size that is fixed in the file images are stretched, or with ``keep_aspect`` scaled and
    their edges continued; where it takes any, ``multiple`` is what the sides must divide by. ``layout`` is that of the
    output, and needed only where the sizes leave it open. ``void`` is an output that means no class, and is left out.
    Outputs that sum to one are probabilities, and their logarithms the logits.

    ONNX and LiteRT run on the CPU, an exported program where it is moved to. A file that is missing, damaged or of
    another kind of network raises ValueError, as a missing library does.
    """
    path = Path(path)
    if path.suffix not in OPENERS:
        raise ValueError(f"{path}: no network by its name; give a file that ends in {' or '.join(OPENERS)}")
    if not path.is_file():
        raise ValueError(f"{path}: no such file; name one that exists")
    with refusals_of(path):
        file = OPENERS[path.suffix](path)
        size = file.fixed_size or rounded_up(TRIAL_SIZE, multiple)
        answer = trial(FileNetwork(file, "KHW"), size)
        layout = layout_of(answer.shape, size) if layout is None else layout
        maps = classes_first(answer, layout)
        if void is not None and not 0 <= void < maps.shape[1]:
            raise ValueError(f"has no output {void}; void is one of 0 to {maps.shape[1] - 1}")
        return ExternalFront(
            FileNetwork(file, layout, void),
            maps.shape[1] - (void is not None),
            mean,
            std,
            bgr=bgr,
            fit=fit_of(file, keep_aspect, multiple),
            probabilities=sum_to_one(maps),
            classes=classes,
        ).eval()


def fit_of(file: NetworkFile, keep_aspect: bool, multiple: int) -> Fit:
    if file.fixed_size is None:
        return padded(multiple)
    return letterboxed(file.fixed_size) if keep_aspect else stretched(file.fixed_size)


@contextmanager
def refusals_of(path: Path) -> Iterator[None]:
    """Every refusal names the file. Each library has kinds of exceptions of its own for damaged and unfit ones."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    except Exception as error:
        reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        raise ValueError(
            f"{path}: cannot be read and run as a network ({reason}); export it again, "
            "or where its sides have to divide by something, give that as multiple"
        ) from error


def layout_of(shape: Sequence[int], size: Size) -> Layout:
    """In which layout the shape has the proportions of an input of that size; ValueError where that is open."""
    height, width = size
    before, after = (abs(rows * width / height - columns) for rows, columns in (shape[2:], shape[1:3]))
    if before == after or min(before, after) > 1:
        raise ValueError(
            f"gives {' x '.join(map(str, shape))} of an image of {height} x {width}, which does not tell where "
            'the classes are; give layout="KHW" or "HWK"'
        )
    return "KHW" if before < after else "HWK"


def classes_first(answer: Array, layout: Layout) -> Maps:
    return answer.movedim(-1, 1) if layout == "HWK" else answer


def sum_to_one(maps: Maps) -> bool:
    return bool(maps.min() >= 0 and (maps.sum(dim=1) - 1).abs().max() < 1e-3)


def open_onnx(path: Path) -> NetworkFile:
    onnxruntime = library("onnxruntime", "onnx")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    image = only(session.get_inputs())
    name = session.get_outputs()[0].name

    def run(array: Array) -> Tensor:
        return torch.from_numpy(session.run([name], {image.name: array.numpy(force=True)})[0]).to(array.device)

    shape = tuple(side if isinstance(side, int) else None for side in image.shape)
    return NetworkFile(run, shape, image.type == "tensor(float)")


def open_tflite(path: Path) -> NetworkFile:
    interpreter = library("ai_edge_litert.interpreter", "tflite").Interpreter(
        model_path=str(path), num_threads=torch.get_num_threads()
    )
    interpreter.allocate_tensors()
    image = only(interpreter.get_input_details())
    index = interpreter.get_output_details()[0]["index"]

    def run(array: Array) -> Tensor:
        if tuple(interpreter.get_input_details()[0]["shape"]) != tuple(array.shape):
            interpreter.resize_tensor_input(image["index"], tuple(array.shape))
            interpreter.allocate_tensors()
        interpreter.set_tensor(image["index"], array.numpy(force=True))
        interpreter.invoke()
        return torch.from_numpy(interpreter.get_tensor(index)).to(array.device)

    shape = tuple(None if side < 0 else side for side in image["shape_signature"].tolist())
    return NetworkFile(run, shape, image["dtype"] == np.float32)


def open_exported(path: Path) -> NetworkFile:
    program = load_program(path)
    name = only(tuple(program.graph_signature.user_inputs))
    image = next(node.meta["val"] for node in program.graph.nodes if node.name == name)
    shape = tuple(side if isinstance(side, int) else None for side in image.shape)
    return NetworkFile(program.module(), shape, image.dtype == torch.float32)


def only(inputs: Sequence[Input]) -> Input:
    if len(inputs) != 1:
        raise ValueError(f"takes {len(inputs)} inputs; a parser's network takes an image alone")
    return inputs[0]


OPENERS: dict[str, Callable[[Path], NetworkFile]] = {
    ".onnx": open_onnx,
    ".tflite": open_tflite,
    ".pt2": open_exported,
}
