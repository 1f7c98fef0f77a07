"""What another model said of an image, from a file of its own: confidence maps or a label map, as logits.

Arrays are (K, h, w), in .npy, .npz or .safetensors: logits, probabilities, or probabilities of 8 or 16 bits. They may
be of fewer pixels than the image. Label maps are grey or palette PNGs, or arrays (h, w).
"""

from collections.abc import Callable
from io import BufferedIOBase
from pathlib import Path
from typing import IO, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Integer
from safetensors import safe_open
from torch import Tensor

from rectiseg.data.images import read_label_map
from rectiseg.ops.resize import resized
from rectiseg.types import IGNORE_INDEX

Values = Literal["logits", "probabilities", "labels"]
Maps = Float[Tensor, "classes height width"]
Size = tuple[int, int]  # height, width

NAMES = ("logits", "probabilities")
"""Which array is read where a file holds several."""

SUM_TOLERANCE = 0.02
"""How far probabilities may be from adding up to 1: those of half precision and many classes are rounded that much."""

ROUNDED_BELOW = 1e-3
"""How far below 0 resampling may have taken a probability."""

SMALLEST = 1e-6
"""No probability is taken for less: its logarithm is finite."""

KEPT_BY_LABEL = 0.9
"""What a label map's own class gets of a pixel's probability; the rest is shared as its neighbours' labels say."""

MAX_CLASSES = 2**16
"""A label map's, as far as its labels tell: labels of 16 bits."""

SOFTENED = 5
"""The side of the window in which these neighbours lie."""


class Prediction(NamedTuple):
    """Confidence maps of their image's size, and what the file held them as."""

    logits: Maps
    values: Values


def read_prediction(
    path: str | Path, size: Size | None = None, num_classes: int | None = None, values: Values | None = None
) -> Prediction:
    """What the file says of an image of ``size``; without one, at the file's own.

    ``num_classes`` is how many classes a label map is of: by default the largest label and one. ``values`` says what
    the numbers are, where that should not be read from them. A file that is missing, damaged, not finite, of another
    shape than its image, or neither logits nor probabilities, raises ValueError.
    """
    path = Path(path)
    array = read_array(path)
    try:
        return interpreted(array, size, num_classes, values)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def interpreted(array: np.ndarray, size: Size | None, num_classes: int | None, values: Values | None) -> Prediction:
    """The array as logits, brought to the image's size."""
    if array.ndim == 4 and len(array) == 1:
        array = array[0]
    if array.ndim == 2 and array.size and array.dtype.kind in "iu":
        if values not in (None, "labels"):
            raise ValueError(f"holds a label map, not {values}")
        refuse_another_shape(array.shape, size)
        return Prediction(softened(at_size(array, size), num_classes), "labels")
    refuse_another_layout(array, size)
    if num_classes is not None and len(array) != num_classes:
        raise ValueError(f"holds {len(array)} confidence maps for {num_classes} classes")
    refuse_another_shape(array.shape[1:], size)
    kind = values or values_of(array)
    maps = torch.from_numpy(np.array(array, np.float32))
    if kind == "logits":
        return Prediction(resized(maps[None], size or maps.shape[1:])[0], kind)
    maps = resized((maps / maps.sum(dim=0, keepdim=True))[None], size or maps.shape[1:])[0]
    return Prediction(maps.clamp(min=SMALLEST).log(), kind)


def refuse_another_layout(array: np.ndarray, size: Size | None) -> None:
    if array.ndim != 3 or array.size == 0:
        raise ValueError(f"an array of {list(array.shape)}; confidence maps are (classes, height, width)")
    if array.shape[:2] == size and array.shape[1:] != size:
        raise ValueError(f"an array of {list(array.shape)}, classes last; save it as (classes, height, width)")
    if len(array) == 1:
        raise ValueError("one confidence map only; save one for each class, that of the background included")
    if array.dtype.kind not in "fiu":
        raise ValueError(f"holds {array.dtype}; confidence maps are numbers")
    if not np.isfinite(array).all():
        kind = "NaN" if np.isnan(array).any() else "infinite"
        raise ValueError(f"some confidences are {kind}; have the model write finite numbers")


def refuse_another_shape(shape: tuple[int, ...], size: Size | None) -> None:
    """Maps of fewer or more cells than pixels are good, if a cell is about as wide as it is high."""
    if size is None:
        return
    (height, width), (rows, columns) = size, shape
    if (rows + 1) * width < (columns - 1) * height or (columns + 1) * height < (rows - 1) * width:
        raise ValueError(
            f"maps of {columns}x{rows} for an image of {width}x{height}, another shape; "
            "cut away what was padded, or name the image that they are of"
        )


def values_of(array: np.ndarray) -> Values:
    """What the numbers are, by their range and their sums."""
    sums = array.sum(axis=0, dtype=np.float64)
    if array.dtype in (np.uint8, np.uint16):  # every class may have been rounded, up or down
        full = np.iinfo(array.dtype).max
        if sums.min() > 0 and np.abs(sums - full).max() <= len(array):
            return "probabilities"
        raise ValueError(
            f"{array.dtype} that add up to {sums.min():g}..{sums.max():g} a pixel, not to {full}: no quantised "
            "probabilities; save those, or logits as floating point"
        )
    if array.dtype.kind != "f":
        raise ValueError(f"holds {array.dtype}; save logits or probabilities as floating point")
    low, high = array.min(), array.max()
    if low >= -ROUNDED_BELOW and np.abs(sums - 1).max() <= SUM_TOLERANCE:
        return "probabilities"
    if low < 0 or high > 1:
        return "logits"
    raise ValueError(
        f"values in 0..1 that add up to {sums.min():.3g}..{sums.max():.3g} a pixel: neither logits nor probabilities "
        "of classes that exclude each other; save what comes before the softmax, or say what they are (--values)"
    )


def at_size(labels: Integer[np.ndarray, "rows columns"], size: Size | None) -> Integer[np.ndarray, "height width"]:
    """The label of the cell that a pixel's centre lies in."""
    if size is None:
        return labels
    rows, columns = (
        ((np.arange(wanted) + 0.5) * held / wanted).astype(int) for wanted, held in zip(size, labels.shape, strict=True)
    )
    return labels[rows[:, None], columns]


def softened(labels: Integer[np.ndarray, "height width"], num_classes: int | None) -> Maps:
    """A label map as confidences: less sure of a class where its neighbours have others.

    IGNORE_INDEX is no class, and where no class is known all are equally likely.
    """
    known = labels != IGNORE_INDEX
    present = labels[known]
    num_classes = num_classes or min(max(int(present.max(initial=0)) + 1, 2), MAX_CLASSES)
    if present.size and not 0 <= present.min() <= present.max() < num_classes:
        outside = present.min() if present.min() < 0 else present.max()
        raise ValueError(f"label {outside} is outside 0..{num_classes - 1}")
    indices = torch.from_numpy(np.where(known, labels, num_classes).astype(np.int64))
    own = torch.nn.functional.one_hot(indices, num_classes + 1).permute(2, 0, 1)[:num_classes].float()
    window = torch.nn.functional.avg_pool2d(own[None], SOFTENED, 1, SOFTENED // 2, count_include_pad=False)[0]
    mixed = KEPT_BY_LABEL * own + (1 - KEPT_BY_LABEL) * window + SMALLEST
    return (mixed / mixed.sum(dim=0, keepdim=True)).log()


def read_array(path: Path) -> np.ndarray:
    """The one array of a file, or of several the one of a known name."""
    if not path.is_file():
        raise ValueError(f"{path}: {'not a file' if path.exists() else 'no such file'}")
    if path.suffix.lower() == ".png":
        return read_label_map(path)
    read = READERS.get(path.suffix.lower())
    if read is None:
        raise ValueError(f"{path}: predictions are read from {' '.join(sorted(SUFFIXES))}; save it as one of these")
    try:
        return read(path)
    except SeveralArrays as error:
        raise ValueError(f"{path}: holds {error}; keep one, or name it {' or '.join(NAMES)}") from error
    except Exception as error:  # numpy reads a header as Python, whose parser raised five kinds of its own when fuzzed
        raise ValueError(f"{path}: cannot be read as arrays ({error}); write it again") from error


class SeveralArrays(Exception):
    """A file does not say which of its arrays is meant."""


def read_npy(path: Path) -> np.ndarray:
    with path.open("rb") as file:
        _, dtype = npy_header(file)
    if not dtype.itemsize:  # by which numpy would divide, and end the process
        raise ValueError("its values have no size")
    return np.load(path, mmap_mode="r", allow_pickle=False)  # a header that promises too much fails at once


def npy_header(file: IO[bytes] | BufferedIOBase) -> tuple[tuple[int, ...], np.dtype]:
    """The shape and type of the array that follows."""
    shape, _, dtype = NPY_HEADERS[np.lib.format.read_magic(file)](file)
    return shape, dtype


NPY_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
"""By version; 3.0 is for names that are not Latin, which arrays of numbers do not have."""


def read_npz(path: Path) -> np.ndarray:
    with np.load(path, allow_pickle=False) as file:
        array = file[only_name(file.files)]
    if not isinstance(array, np.ndarray):
        raise ValueError("what it holds is no array")
    return array


def read_safetensors(path: Path) -> np.ndarray:
    with safe_open(path, framework="pt") as file:
        tensor = file.get_tensor(only_name(list(file.keys())))
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()  # numpy has no bfloat16


def only_name(names: list[str]) -> str:
    known = [name for name in names if name in NAMES] or names
    if len(known) != 1:
        raise SeveralArrays(f"{len(names)} arrays" + (f" ({', '.join(names)})" if names else ""))
    return known[0]


READERS: dict[str, Callable[[Path], np.ndarray]] = {
    ".npy": read_npy,
    ".npz": read_npz,
    ".safetensors": read_safetensors,
}
SUFFIXES = frozenset({*READERS, ".png"})


def predictions_below(folder: Path) -> dict[Path, Path]:
    """Every prediction by its path in the folder, less its suffix and `predict`'s "_probabilities".

    Confidence maps go before a label map of the same name; two files of one name raise ValueError otherwise.
    """
    found: dict[Path, Path] = {}
    for path in sorted(folder.rglob("*"), key=lambda path: (path.suffix.lower() == ".png", path)):
        inside = path.relative_to(folder)
        if (
            path.suffix.lower() not in SUFFIXES
            or not path.is_file()
            or any(part.startswith(".") for part in inside.parts)
        ):
            continue
        key = inside.with_name(path.stem.removesuffix("_probabilities"))
        if key not in found:
            found[key] = path
        elif path.suffix.lower() != ".png":
            raise ValueError(f"{found[key]} and {path}: two predictions of one image; keep one")
    return found
