"""Fit a refiner to a model of yours, and keep it only if it does better on images that were held back.

python examples/fit_refiner.py images labels predictions refiner.safetensors
"""

from pathlib import Path

import tyro
from tyro.conf import Positional

import rectiseg
from rectiseg.data.predicted import open_predicted
from rectiseg.fit import fit


def main(
    images: Positional[Path],
    labels: Positional[Path],
    predictions: Positional[Path],
    refiner: Positional[Path],
    steps: int = 1000,
) -> None:
    """Train an LRN on three quarters of the images and measure it on the others.

    Args:
        images: A folder of images that your model was not trained on.
        labels: Their label maps, of the same names.
        predictions: What your model said of them, of the same names: (K, h, w) logits as .npy, for example.
        refiner: The file to write.
        steps: How long it trains.
    """
    fitted = fit(open_predicted(images, labels, predictions), refiner.with_suffix(""), steps=steps)
    rectiseg.save(fitted.kept, refiner)
    print(f"{fitted.sentence}: {'kept' if fitted.passed else 'not kept, the saved file changes nothing'}")


if __name__ == "__main__":
    tyro.cli(main)
