"""Draw one photograph as several parsers see it, before and after the refiner that follows any of them.

python benchmarks/fronts_picture.py --cityscapes Cityscapes --ade20k ADE20K --weights WEIGHTS

Of the data sets only the classes' names and colours are read.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import tyro
from PIL import Image
from torch import nn

from any_parser import unseen
from rectiseg.data.files import atomic_path
from rectiseg.data.images import read_image
from rectiseg.inference import names_and_colors
from rectiseg.models.checkpoint import load_parser
from rectiseg.models.zoo.espnet import load_espnet
from rectiseg.refinement import refine
from rectiseg.visualize import changes, grid, overlay

WIDTH = 1600
"""Pixels of the whole picture."""


def main(
    cityscapes: Path,
    ade20k: Path,
    weights: Path,
    image: Path = Path("examples/street.jpg"),
    output: Path = Path("docs/fronts.jpg"),
) -> None:
    """Run every parser on the image and draw it, before, after, and what has changed.

    Args:
        cityscapes: Cityscapes in its official layout, or some of its images.
        ade20k: The scene parsing benchmark of ADE20K, or some of its images.
        weights: The folder of the published weights.
        image: The photograph.
        output: The picture.
    """
    photograph = read_image(image)
    tiles = []
    for name, parser, colors in fronts(cityscapes, ade20k, weights):
        with torch.inference_mode():
            logits = parser(photograph[None])[0]
        before, after = (maps.argmax(dim=0).numpy() for maps in (logits, refine(photograph, logits)))
        tiles.append((name, overlay(photograph, before, colors)))
        tiles.append(("refined", overlay(photograph, after, colors)))
        share = 100 * (before != after).mean()
        tiles.append((f"changed: {share:.1f} %", changes(photograph, before, after, colors)))
    picture = grid(tiles, columns=3)
    height = round(picture.height * WIDTH / picture.width)
    with atomic_path(output) as path:
        picture.resize((WIDTH, height), Image.Resampling.LANCZOS).save(path, format="JPEG", quality=80)


def fronts(cityscapes: Path, ade20k: Path, weights: Path) -> Iterator[tuple[str, nn.Module, np.ndarray]]:
    """By name, with the classes' colours."""
    shipped = load_parser()
    assert isinstance(shipped.front, nn.Module)
    _, streets = names_and_colors(shipped)
    yield "our front on CamVid", shipped.front, streets
    yield "ESPNet on CamVid", load_espnet(weights / "espnet_p2q8_camvid.safetensors").eval(), streets
    for name, parser, dataset in unseen(cityscapes, ade20k, weights):
        yield name, parser.eval(), np.array(dataset.palette, np.uint8)


if __name__ == "__main__":
    tyro.cli(main)
