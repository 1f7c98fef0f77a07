"""Draw what the shipped model's refiners do inside, on one photograph, as docs/how_it_works.md shows it.

python benchmarks/how_it_works_picture.py
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import tyro
from PIL import Image

from rectiseg.data.files import atomic_path
from rectiseg.data.images import read_image
from rectiseg.inference import names_and_colors, unrolled
from rectiseg.models.bilateral_lrn import BilateralLRN
from rectiseg.models.checkpoint import load_parser
from rectiseg.models.grn import GRN
from rectiseg.models.lrn import LRN
from rectiseg.report.cases import coefficients_of_one_pixel
from rectiseg.visualize import Pixels, grid, overlay, residual_maps, to_pixels

WIDTH = 1500
"""Pixels of the whole picture."""


def main(image: Path = Path("examples/street.jpg"), output: Path = Path("docs/how_it_works.jpg")) -> None:
    """Run the shipped parser stage by stage and draw each of them.

    Args:
        image: The photograph.
        output: The picture.
    """
    with torch.inference_mode():
        picture = grid(list(tiles(image)), columns=3)
    height = round(picture.height * WIDTH / picture.width)
    with atomic_path(output) as path:
        picture.resize((WIDTH, height), Image.Resampling.LANCZOS).save(path, format="JPEG", quality=75)


def tiles(path: Path) -> Iterator[tuple[str, Pixels]]:
    """What a refiner does, and the labels before and after it."""
    image, parser = read_image(path), load_parser()
    _, palette = names_and_colors(parser)
    front, refiners = unrolled(parser)
    logits = front(image[None])
    yield "photograph", to_pixels(image)
    yield "front", overlay(image, logits.argmax(dim=1)[0].numpy(), palette)
    for refiner in refiners:
        if isinstance(refiner, GRN):
            residuals = [residual[0] for _, residual, _ in refiner.iterate(image[None], logits)]
            yield "GRN adds", np.asarray(residual_maps(residuals))
        after = refiner(image[None], logits)
        if isinstance(refiner, LRN | BilateralLRN):
            title, picture = coefficients_of_one_pixel(image[None], logits, after, refiner)
            yield title, np.asarray(picture)
        logits = after
        yield f"after {type(refiner).__name__}", overlay(image, logits.argmax(dim=1)[0].numpy(), palette)


if __name__ == "__main__":
    tyro.cli(main)
