"""Models as one .safetensors file each, with what is needed to build them in its header. No pickle anywhere.

The header's entry ``rectiseg`` is JSON: ``kind`` and constructor arguments of the module and of the modules in it,
the version that wrote it, and what the training wants to be remembered. The entry ``sha256`` is a hash of all the rest.
"""

import hashlib
import inspect
import json
from collections.abc import Mapping
from importlib.metadata import version
from math import prod
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from rectiseg.data.files import Damaged, atomic_path, read_sealed, save_sealed
from rectiseg.models.bilateral_lrn import BilateralLRN
from rectiseg.models.combine import Cascade, Parallel, SceneParser
from rectiseg.models.context import MultiScaleContext
from rectiseg.models.crf import FullyConnectedCRF
from rectiseg.models.efficientnet_lite import EfficientNetLite
from rectiseg.models.exported import OPENERS, ExportedParser, ExportedRefiner, load_exported
from rectiseg.models.front import Front
from rectiseg.models.fusion import Ensemble, MultiScale, known_classes, known_palette
from rectiseg.models.grn import GRN
from rectiseg.models.hub import MODEL, downloaded, is_on_the_hub
from rectiseg.models.light_encoder import LightEncoder
from rectiseg.models.lrn import LRN
from rectiseg.models.resnet import ResNet
from rectiseg.models.zoo.espnet import ESPNet
from rectiseg.models.zoo.espnetv2 import ESPNetv2

REFINERS = (Cascade, Parallel, GRN, LRN, BilateralLRN, MultiScaleContext, FullyConnectedCRF)
PARSERS = (SceneParser, Front, ESPNet, ESPNetv2, MultiScale, Ensemble)
ENCODERS = (ResNet, EfficientNetLite, LightEncoder)
KINDS: dict[str, type[nn.Module]] = {kind.__name__: kind for kind in (*PARSERS, *REFINERS, *ENCODERS)}
FORMAT = 1
Network = TypeVar("Network", GRN, Front)
SHIPPED = Path(__file__).parents[1] / "weights" / "camvid_lite.safetensors"
"""CamVid's eleven classes; docs/model_card.md says what it is worth."""
SHIPPED_REFINER = SHIPPED.with_name("any_classes.safetensors")
"""An LRN that follows any parser of any classes; docs/any_parser.md says what it is worth after some."""


def describe(module: nn.Module) -> dict[str, Any]:
    """The module's kind and constructor arguments, which it keeps as attributes of the same names."""
    kind = type(module).__name__
    if KINDS.get(kind) is not type(module):
        raise unsaved(module)
    values = {name: getattr(module, name) for name in inspect.signature(type(module)).parameters}
    return {"kind": kind, **{name: encode(value) for name, value in values.items()}}


def encode(value: Any) -> Any:
    if isinstance(value, nn.ModuleList):
        return [describe(module) for module in value]
    if isinstance(value, nn.Module):
        return describe(value)
    if callable(value):
        raise unsaved(value)
    return value


def unsaved(value: object) -> ValueError:
    return ValueError(f"a {type(value).__name__} cannot be saved: {', '.join(KINDS)} can")


def build(description: Mapping[str, Any]) -> nn.Module:
    """The module that `describe` described, with fresh weights."""
    arguments = dict(description)
    kind = arguments.pop("kind", None)
    if kind not in KINDS:
        raise ValueError(f"a model of kind {kind!r} is not known to this version")
    decoded = {name: decode(value) for name, value in arguments.items()}
    several = [name for name, p in inspect.signature(KINDS[kind]).parameters.items() if p.kind is p.VAR_POSITIONAL]
    return KINDS[kind](*[module for name in several for module in decoded.pop(name)], **decoded)


def decode(value: Any) -> Any:
    if isinstance(value, Mapping):
        return build(value)
    if isinstance(value, list):
        return tuple(decode(item) for item in value)
    return value


def at_output_stride(network: Network, output_stride: int) -> Network:
    """The same weights where a cell of the coarse scores stands for so many pixels, 8, 16 or 32, of each side.

    Strides of its encoder are removed and the kernels after them dilated, as in section 3.3, or that is undone.
    """
    if network.output_stride == output_stride:
        return network
    other = build(with_entry(describe(network), "output_stride", output_stride))
    other.load_state_dict(network.state_dict())
    return cast(Network, other)


def with_entry(description: Mapping[str, Any], name: str, value: Any) -> dict[str, Any]:
    """The description with another value of this name, at whatever depth."""
    return {
        key: value if key == name else with_entry(entry, name, value) if isinstance(entry, Mapping) else entry
        for key, entry in description.items()
    }


def save(model: nn.Module, path: str | Path, training: Mapping[str, str] | None = None, half: bool = False) -> None:
    """Write a model whole or not at all; ``half`` stores its weights as fp16.

    ``training`` is kept in the header. A module that is none of KINDS, and weights that are not finite, or not in fp16,
    raise ValueError.
    """
    header = {
        "format": FORMAT,
        "version": version("rectiseg"),
        "model": describe(model),
        "training": dict(training or {}),
    }
    weights = {
        name: value.half() if half and value.is_floating_point() else value
        for name, value in model.state_dict().items()
    }
    refuse_not_finite(weights, path, "fp16 ends at 65504, leave half out" if half else "train it again")
    with atomic_path(Path(path)) as temporary:
        save_sealed(weights, temporary, {"rectiseg": json.dumps(header)})


def load(path: str | Path | None = None) -> nn.Module:
    """A saved parser or refiner in eval mode, in fp32; without a path the shipped parser of street scenes.

    ``path`` is a file, a folder that `rectiseg publish` wrote, or SOMEBODY/MODEL on the Hugging Face Hub. The hash of
    the file and the name, shape and numbers of every tensor are checked; a file that is missing, damaged, not finite or
    does not fit raises ValueError. An exported model, .onnx or .pt2, is loaded as an ExportedParser or ExportedRefiner,
    which cannot be saved.
    """
    path = SHIPPED if path is None else file_of(path)
    if path.suffix in OPENERS:
        return load_exported(path)
    header, weights = read(path)
    try:
        with Frugal(SPARE + 2 * sum(value.numel() for value in weights.values())):
            model = build(header["model"])
    except UNBUILDABLE as error:
        raise ValueError(f"{path}: its header does not describe a model of this version ({error})") from error
    fit(model, weights, path)
    return model.eval()


SPARE = 10_000_000
"""So many numbers a model may hold that its file does not, such as an upsampler's fixed kernel."""


class Frugal(TorchFunctionMode):
    """Tensors of so many numbers may be made in all, and ValueError before one more: a header can promise any."""

    def __init__(self, numbers: int):
        super().__init__()
        self.left = numbers

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in (torch.empty, torch.zeros, torch.ones, torch.full):
            size = kwargs.get("size", args[0] if args and not isinstance(args[0], int) else args)
            self.left -= prod(size)
            if self.left < 0:
                raise ValueError("it promises more weights than the file holds")
        return func(*args, **kwargs)


UNBUILDABLE = (KeyError, TypeError, ValueError, AttributeError, RuntimeError, OverflowError)
"""All that the modules' constructors were seen to raise on strange arguments."""


def file_of(name: str | Path) -> Path:
    """The model's file: the name itself, the one in the folder of this name, or one that the hub has."""
    path = downloaded(str(name)) if is_on_the_hub(str(name)) else Path(name)
    return path / MODEL if path.is_dir() else path


def load_parser(path: str | Path | None = None) -> SceneParser:
    """`load`, and a parser it must be; one that is no SceneParser becomes one that nothing refines."""
    model = load(path)
    if isinstance(model, SceneParser):
        return model
    if not isinstance(model, (*PARSERS, ExportedParser)):
        raise ValueError(f"{path}: holds a {type(model).__name__}, which is no parser; a parser is needed here")
    return SceneParser(model, Cascade(), known_classes(model), known_palette(model)).eval()


def load_refiner(path: str | Path | None = None) -> nn.Module:
    """`load`, and a refiner it must be; of a parser its refiner is taken."""
    model = load(path)
    if isinstance(model, SceneParser):
        assert isinstance(model.refiner, nn.Module)  # what was saved is one
        return model.refiner
    if not isinstance(model, (*REFINERS, ExportedRefiner)):
        raise ValueError(f"{path}: holds a {type(model).__name__}, which refines nothing; a refiner is needed here")
    return model


def read_training(path: str | Path) -> dict[str, str]:
    """What the training of a saved model wanted to be remembered."""
    return dict(read(Path(path))[0].get("training", {}))


def read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A file's header and tensors."""
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    try:
        weights, metadata = read_sealed(path)
    except Damaged as error:
        raise ValueError(f"{path}: {error}; copy or train it again") from error
    if "rectiseg" not in metadata:
        raise ValueError(f"{path}: no model of rectiseg; its header does not say how to build it")
    try:
        header = dict(json.loads(metadata["rectiseg"]))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: its header is damaged; copy or train it again") from error
    if header.get("format") != FORMAT:
        raise ValueError(f"{path}: format {header.get('format')}, this version reads {FORMAT}; update rectiseg")
    return header, weights


def fit(model: nn.Module, weights: Mapping[str, Tensor], path: str | Path) -> None:
    """Load the weights, or say which of them do not fit or are not finite."""
    expected = model.state_dict()
    refuse_misfits(expected, weights, path)
    values = {name: value.to(expected[name].dtype) for name, value in weights.items()}
    refuse_not_finite(values, path, "copy or train it again")
    model.load_state_dict(values)


def refuse_not_finite(weights: Mapping[str, Tensor], path: str | Path, advice: str) -> None:
    broken = sorted(name for name, value in weights.items() if not value.isfinite().all())
    if broken:
        sentence = f"{len(broken)} tensors hold NaN or infinite numbers, the first is {broken[0]}"
        raise ValueError(f"{path}: {sentence}; {advice}")


def refuse_misfits(expected: Mapping[str, Tensor], weights: Mapping[str, Tensor], path: str | Path) -> None:
    missing = sorted(expected.keys() - weights.keys())
    unexpected = sorted(weights.keys() - expected.keys())
    misshapen = [
        f"{name} ({list(weights[name].shape)} for {list(expected[name].shape)})"
        for name in sorted(expected.keys() & weights.keys())
        if expected[name].shape != weights[name].shape
    ]
    for problem, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", misshapen)):
        if names:
            raise ValueError(f"{path}: {len(names)} tensors are {problem}, the first is {names[0]}")


def title(module: nn.Module) -> str:
    """A model in a few words: ``SceneParser(Front(EfficientNetLite), Cascade(GRN(EfficientNetLite), LRN))``."""

    def words(description: Mapping[str, Any]) -> str:
        values = [item for value in description.values() for item in (value if isinstance(value, list) else [value])]
        parts = ", ".join(words(value) for value in values if isinstance(value, Mapping))
        return description["kind"] + (f"({parts})" if parts else "")

    return words(describe(module))


def fingerprint(module: nn.Module) -> str:
    """Twelve hexadecimal digits that change with any weight and any setting."""
    digest = hashlib.sha256(json.dumps(describe(module), sort_keys=True).encode())
    for name, value in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes() if value.dim() else b"")
    return digest.hexdigest()[:12]


def identity(module: nn.Module) -> str:
    """A model's title and fingerprint: what a store of its confidences is known by."""
    return f"{title(module)} {fingerprint(module)}"


def save_state(path: Path, module: nn.Module, optimizer: torch.optim.Optimizer, about: Mapping[str, str]) -> None:
    """A training's state: weights, the optimizer's moments, and a few words, whole or not at all."""
    tensors = {f"weights.{name}": value for name, value in module.state_dict().items()}
    for index, entries in optimizer.state_dict()["state"].items():
        for name, value in entries.items():
            if value is not None:
                tensors[f"optimizer.{index}.{name}"] = torch.as_tensor(value)
    with atomic_path(path) as temporary:
        save_sealed(tensors, temporary, about)


def load_state(path: Path, module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, str]:
    """Put a saved training state back; returns its words."""
    try:
        tensors, about = read_sealed(path)
    except Damaged as error:
        raise ValueError(f"{path}: {error}; delete it to start this stage again") from error
    prefix = "weights."
    fit(module, {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}, path)
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, index, entry = name.split(".")
            state.setdefault(int(index), {})[entry] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return about
