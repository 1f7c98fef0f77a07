"""What the front model and GRN ask of an encoder, and how an encoder takes its pretrained weights from a file."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor, nn

Normalized = Float[Tensor, "batch bands height width"]
"""An encoder's input: RGB less MEAN, over STD; GRN appends one band a class. Sides are divisible by the stride."""

Features = Float[Tensor, "batch features rows columns"]
"""An encoder's output: one cell for output_stride x output_stride pixels."""


@runtime_checkable
class Encoder(Protocol):
    """The dilated network of section 3.3 without its classifier."""

    MEAN: tuple[float, float, float]
    STD: tuple[float, float, float]
    out_channels: int
    output_stride: int
    center: float
    """The pixel on which cell 0 is centred, from 0 at the image's first; cell i is output_stride * i further on."""

    @property
    def blocks(self) -> nn.Sequential:
        """Its parts one after another, less the first convolution."""
        ...

    @property
    def first_convolution(self) -> nn.Conv2d:
        """For GRN to widen in place, by its weight and in_channels.

        An assignment would not do: nn.Module registers an assigned module and never calls a property's setter.
        """
        ...

    def __call__(self, image: Normalized, /) -> Features: ...


def load_encoder_weights(
    encoder: nn.Module,
    path: str | Path,
    classifier: tuple[str, ...] = ("fc.",),
    rename: Callable[[str], str] | None = None,
) -> None:
    """Fill the encoder from a .pth or .safetensors state dict, all or nothing.

    ``rename`` makes our names of the file's; keys that then start with one of the classifier's prefixes are left out.
    Batch norm's counters (num_batches_tracked), which files from before PyTorch 0.4.1 lack, may differ.
    """
    weights = read_weights(path)
    if rename is not None:
        weights = {rename(key): value for key, value in weights.items()}
    weights = {key: value for key, value in weights.items() if not key.startswith(classifier)}
    expected = encoder.state_dict()

    missing = [key for key in expected if key not in weights and not is_counter(key)]
    unexpected = [key for key in weights if key not in expected and not is_counter(key)]
    misshapen = [
        f"{key} of {list(value.shape)} for {list(expected[key].shape)}"
        for key, value in weights.items()
        if key in expected and value.shape != expected[key].shape
    ]
    problems = [("missing", missing), ("unexpected", unexpected), ("of another shape", misshapen)]
    if any(names for _, names in problems):
        description = ", ".join(f"{len(names)} {problem} ({some(names)})" for problem, names in problems if names)
        raise ValueError(
            f"{path} does not fit this {type(encoder).__name__} by its keys, {description}: give the weights of the "
            "same architecture, depth and number of input channels"
        )
    encoder.load_state_dict(weights, strict=False)


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """The state dict in a file; nothing but tensors is ever unpickled."""
    path = Path(path)
    if path.suffix not in (".pth", ".safetensors"):
        raise ValueError(f"{path} is not a weight file by its name: give a .pth or .safetensors file")
    if not path.is_file():
        raise ValueError(f"{path} is not there: give the path of a .pth or .safetensors file that exists")
    try:
        weights = (
            load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True)
        )
    except Exception as error:  # damaged files raised ten different types when we tried, down to struct.error
        raise ValueError(
            f"{path} cannot be read as weights ({type(error).__name__}): copy or download it again, "
            "or save the network's state_dict() anew"
        ) from error
    if not is_state_dict(weights):
        raise ValueError(f"{path} holds more than a state dict: save the network's state_dict() alone")
    broken = [key for key, value in weights.items() if not value.isfinite().all()]
    if broken:
        raise ValueError(f"{path} holds NaN or infinite numbers ({some(broken)}): copy or download it again")
    return weights


def is_state_dict(content: object) -> bool:
    return isinstance(content, dict) and all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items()
    )


def is_counter(key: str) -> bool:
    return key.endswith("num_batches_tracked")


def some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
