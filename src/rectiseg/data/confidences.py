"""Stored confidence maps: a refiner trains on a front's output without running the front.

A store is a folder of one .safetensors file an image, with one tensor a view (a scale and a flip, each a run of the
front of its own), beside ``store.json``. Our own fronts are kept as coarse scores and upsampled when they are read;
others at full size, with only the eight likeliest classes of every pixel where there are more than 32. A store can be
made of another one, too: what a refiner made of it.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from torch import Tensor

from rectiseg.data.datasets import Dataset, Sample
from rectiseg.data.files import atomic_path, save_file
from rectiseg.data.transforms import view_image, view_labels
from rectiseg.ops.resize import scaled
from rectiseg.ops.upsample import CoarseLogits, bilinear_kernel, upsample
from rectiseg.types import Parser, Refiner

KEPT_CLASSES = 8
MANY_CLASSES = 32


class View(NamedTuple):
    scale: float = 1.0
    flip: bool = False

    @property
    def key(self) -> str:
        return f"{self.scale:g}" + ("-flipped" if self.flip else "")


@runtime_checkable
class Coarse(Protocol):
    """A network whose result, or what it adds, may be a fixed bilinear upsampling of coarse scores."""

    output_stride: int
    center: float

    @property
    def coarse_suffices(self) -> bool: ...

    def coarse(self, *inputs: Tensor) -> CoarseLogits: ...


def grid_of(network: object) -> dict[str, float] | None:
    """Where its coarse scores lie, if they say all there is to know."""
    if isinstance(network, Coarse) and network.coarse_suffices:
        return {"stride": network.output_stride, "center": network.center}
    return None


def store_confidences(
    parser: Parser,
    dataset: Dataset,
    folder: Path,
    views: Sequence[View],
    source: str,
    device: torch.device | str = "cpu",
    on_image: Callable[[], None] = lambda: None,
    share: tuple[int, int] = (0, 1),
) -> None:
    """Run the parser on every view of every image and keep what it says; images already stored are left alone.

    ``source`` names the parser and its weights (a hash, say): a folder that holds another's output is refused.
    ``share`` is (rank, processes) where several processes divide the images among them.
    """
    grid = grid_of(parser)

    def say(sample: Sample, view: View) -> dict[str, Tensor]:
        image = view_image(sample.image, *view)[None].to(device)
        if grid is not None:
            return {view.key: parser.coarse(image)[0].half()}  # pyright: ignore[reportAttributeAccessIssue]
        return packed(parser(image)[0].cpu(), view.key)

    keep(say, dataset, folder, views, source, grid, on_image, share)


def store_refined(
    refiner: Refiner,
    confidences: "Confidences",
    folder: Path,
    views: Sequence[View],
    source: str,
    device: torch.device | str = "cpu",
    on_image: Callable[[], None] = lambda: None,
    share: tuple[int, int] = (0, 1),
) -> None:
    """The same of what a refiner makes of stored confidences, whose parser is not run again.

    Upsampling is linear: where a residual has the grid of what it is added to, the sum of the coarse scores is kept.
    """
    grid = confidences.coarse if grid_of(refiner) == confidences.coarse else None

    def say(sample: Sample, view: View) -> dict[str, Tensor]:
        seen = confidences.seen(sample, view)
        image, logits = seen.image[None].to(device), seen.logits[None].to(device)
        if grid is not None:
            residual = refiner.coarse(image, logits)[0]  # pyright: ignore[reportAttributeAccessIssue]
            return {view.key: (confidences.stored(sample.name, view)[0].to(device) + residual).half()}
        return packed(refiner(image, logits)[0].cpu(), view.key)

    keep(say, confidences.dataset, folder, views, source, grid, on_image, share)


def keep(
    say: Callable[[Sample, View], dict[str, Tensor]],
    dataset: Dataset,
    folder: Path,
    views: Sequence[View],
    source: str,
    grid: dict[str, float] | None,
    on_image: Callable[[], None],
    share: tuple[int, int],
) -> None:
    """Write the store, image by image."""
    about = {
        "source": source,
        "classes": list(dataset.classes),
        "views": [view.key for view in views],
        "coarse": grid,
    }
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder}: is a file; name a folder for the confidences")
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / "store.json").exists():
        if read_about(folder) != about:
            raise ValueError(f"{folder}: holds confidences of another model or other views; delete it or name another")
    else:
        with atomic_path(folder / "store.json") as path:
            path.write_text(json.dumps(about, indent=2), encoding="utf-8")
    rank, processes = share
    for index in range(rank, len(dataset), processes):
        if not (folder / f"{dataset.names[index]}.safetensors").exists():
            sample = dataset[index]
            tensors = {key: tensor for view in views for key, tensor in say(sample, view).items()}
            with atomic_path(folder / f"{sample.name}.safetensors") as path:
                save_file(tensors, path)
        on_image()


def packed(logits: Float[Tensor, "classes height width"], key: str) -> dict[str, Tensor]:
    if len(logits) <= MANY_CLASSES:
        return {key: logits.half()}
    values, classes = logits.log_softmax(dim=0).topk(KEPT_CLASSES, dim=0)
    return {key: values.half(), f"{key}-classes": classes.to(torch.int16)}


def unpacked(
    values: Float[Tensor, "kept height width"], classes: Tensor, num_classes: int
) -> Float[Tensor, "classes height width"]:
    """The classes that were left out share the remaining probability equally."""
    values = values.float()
    left_out = (1 - values.exp().sum(dim=0, keepdim=True)).clamp(min=1e-6) / (num_classes - len(values))
    logits = left_out.log().expand(num_classes, -1, -1).clone()
    return logits.scatter_(0, classes.long(), values)


def read_about(folder: Path) -> dict:
    try:
        return json.loads((folder / "store.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{folder}: no store of confidences here; make one with `rectiseg confidences`") from error


class StoredSample(NamedTuple):
    image: Float[Tensor, "3 height width"]
    labels: Tensor
    logits: Float[Tensor, "classes height width"]
    name: str


class Confidences:
    """A data set together with its stored confidence maps."""

    def __init__(self, dataset: Dataset, folder: str | Path):
        self.dataset = dataset
        self.folder = Path(folder)
        self.about = read_about(self.folder)
        if tuple(self.about["classes"]) != tuple(dataset.classes):
            raise ValueError(f"{folder}: these confidences are of other classes than the data set's")
        self.views = tuple(view_of(key) for key in self.about["views"])
        self.coarse = self.about["coarse"]

    def __len__(self) -> int:
        return len(self.dataset)

    def read(self, index: int, view: View) -> StoredSample:
        """Image, labels and logits as the front saw and said them in this view."""
        return self.seen(self.dataset[index], view)

    def stored(self, name: str, view: View) -> tuple[Tensor, Tensor | None]:
        """What was kept of a sample: coarse scores or logits, and which classes' they are where not all were."""
        path = self.folder / f"{name}.safetensors"
        try:
            with safe_open(path, framework="pt") as file:
                classes = file.get_tensor(f"{view.key}-classes") if f"{view.key}-classes" in file.keys() else None  # noqa: SIM118
                return file.get_tensor(view.key), classes
        except (OSError, SafetensorError) as error:
            raise ValueError(f"{path}: no confidences for this view; run `rectiseg confidences` again") from error

    def seen(self, sample: Sample, view: View) -> StoredSample:
        stored, classes = self.stored(sample.name, view)
        path = self.folder / f"{sample.name}.safetensors"
        height, width = scaled(sample.labels.shape[-2:], view.scale)
        if self.coarse is not None:
            stride, center = self.coarse["stride"], self.coarse["center"]
            if stored.shape[-2:] != (-(-height // stride), -(-width // stride)):
                raise ValueError(f"{path}: {list(stored.shape[-2:])} cells for an image of {[height, width]}")
            kernel = bilinear_kernel(len(stored), stride, center)
            logits = upsample(stored.float()[None], kernel, stride, center, height, width)[0]
        elif classes is not None:
            logits = unpacked(stored, classes, len(self.dataset.classes))
        else:
            logits = stored.float()
        if logits.shape[-2:] != (height, width):
            raise ValueError(f"{path}: confidences of {list(logits.shape[-2:])} for an image of {[height, width]}")
        if len(logits) != len(self.dataset.classes):
            raise ValueError(f"{path}: {len(logits)} confidences a pixel for {len(self.dataset.classes)} classes")
        return StoredSample(view_image(sample.image, *view), view_labels(sample.labels, *view), logits, sample.name)


def view_of(key: str) -> View:
    scale, _, flipped = key.partition("-")
    return View(float(scale), bool(flipped))
