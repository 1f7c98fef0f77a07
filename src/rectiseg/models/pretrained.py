"""Encoders by name, with their pretrained weights."""

from pathlib import Path
from typing import Literal

from rectiseg.models.efficientnet_lite import EfficientNetLite, load_pretrained
from rectiseg.models.encoder import load_encoder_weights
from rectiseg.models.resnet import ResNet

EncoderName = Literal[
    "lite0", "lite1", "lite2", "resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnet200"
]


def pretrained_encoder(name: EncoderName, weights: Path | Literal["random"] | None = None) -> EfficientNetLite | ResNet:
    """With weights from the given file, of a Lite from the extra [lite] where none is given, or with random ones.

    A ResNet without a file raises ValueError.
    """
    if not name.startswith("resnet"):
        lite = EfficientNetLite(int(name.removeprefix("lite")))
        return lite if isinstance(weights, str) else load_pretrained(lite, weights)
    if weights is None:
        raise ValueError(
            f"{name} starts from ImageNet weights: name their file with --encoder-weights, "
            "or try the recipe with --encoder-weights random"
        )
    resnet = ResNet(int(name.removeprefix("resnet")))
    if isinstance(weights, Path):
        load_encoder_weights(resnet, weights)
    return resnet
