"""A refiner of one's own, after the shipped model's.

python examples/own_refiner.py examples/street.jpg
"""

from pathlib import Path

import torch
import tyro
from torch import nn
from tyro.conf import Positional

from rectiseg import Cascade, Image, Logits, SceneParser, read_image
from rectiseg.models.checkpoint import load_parser, load_refiner


class WithoutRareClasses(nn.Module):
    """A class that is likeliest on less than this share of the pixels loses ten of its logits everywhere."""

    def __init__(self, share: float):
        super().__init__()
        self.share = share

    def forward(self, image: Image, logits: Logits) -> Logits:
        winners = torch.zeros_like(logits).scatter(1, logits.argmax(dim=1, keepdim=True), 1.0)
        return logits - 10 * (winners.mean(dim=(2, 3), keepdim=True) < self.share)


def main(photograph: Positional[Path], share: float = 0.02) -> None:
    """Print the classes that the shipped model sees, and those that are left."""
    image, shipped = read_image(photograph)[None], load_parser()
    own = SceneParser(shipped.front, Cascade(load_refiner(), WithoutRareClasses(share)))
    with torch.inference_mode():
        for name, parser in (("shipped", shipped), ("with a refiner more", own)):
            print(f"{name}: {', '.join(shipped.classes[k] for k in parser(image).argmax(dim=1).unique())}")


if __name__ == "__main__":
    tyro.cli(main)
