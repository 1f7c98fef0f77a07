"""Parse a folder of images, and print how much of each is road, car, sky, ...

python examples/parse_folder.py examples labels
"""

from pathlib import Path

import torch
import tyro
from tyro.conf import Positional

from rectiseg import read_image
from rectiseg.data.images import find_images, write_label_map
from rectiseg.inference import names_and_colors
from rectiseg.models.checkpoint import load_parser


def main(folder: Positional[Path], output: Positional[Path]) -> None:
    """Write a label map for every image, and print the shares of its classes.

    Args:
        folder: Where the images are, in subfolders, too.
        output: Where the label maps go, as the images lie in the folder.
    """
    parser = load_parser()  # the shipped one, for streets; or name the file of yours
    classes, colors = names_and_colors(parser)
    for path in find_images([folder]):
        with torch.inference_mode():
            labels = parser(read_image(path)[None]).argmax(dim=1)[0]
        place = (output / path.relative_to(folder)).with_suffix(".png")
        place.parent.mkdir(parents=True, exist_ok=True)
        write_label_map(place, labels.numpy(), colors)
        present, counts = labels.unique(return_counts=True)
        shares = [f"{classes[k]} {share:.1%}" for k, share in zip(present, counts / labels.numel(), strict=True)]
        print(f"{place}: {', '.join(shares)}")


if __name__ == "__main__":
    tyro.cli(main)
