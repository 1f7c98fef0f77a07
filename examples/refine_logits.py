"""Refine what any segmentation model says of an image, with a refiner that needs no training.

python examples/refine_logits.py examples/street.jpg refined.png
"""

from pathlib import Path

import torch
import tyro
from PIL import Image
from tyro.conf import Positional

import rectiseg
from rectiseg.models.checkpoint import load_parser
from rectiseg.visualize import changes, default_palette


def main(photograph: Positional[Path], picture: Positional[Path]) -> None:
    """Draw the pixels whose label refinement changes.

    Args:
        photograph: Any image.
        picture: The picture to write.
    """
    model = load_parser().front  # put your model here: (B, 3, H, W) goes in, (B, K, h, w) comes out
    image = rectiseg.read_image(photograph)
    with torch.inference_mode():
        logits = model(image[None])[0]
    refined = rectiseg.refine(image, logits)
    before, after = (maps.argmax(dim=0).numpy() for maps in (logits, refined))
    print(f"{100 * (before != after).mean():.2f} % of the pixels have another label")
    Image.fromarray(changes(image, before, after, default_palette(len(logits)))).save(picture)


if __name__ == "__main__":
    tyro.cli(main)
