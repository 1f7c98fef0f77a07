"""Print what the fully connected CRF takes beside pydensecrf2's, the C++ it stands in for, and how far they agree.

python benchmarks/crf.py
"""

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import numba
import numpy as np
import torch
import tyro
from torch import Tensor

from propagate import median_of
from rectiseg.data.images import read_image
from rectiseg.machine import machine
from rectiseg.models.checkpoint import load_parser
from rectiseg.models.crf import FullyConnectedCRF
from rectiseg.ops.resize import resized

STREET = Path(__file__).parent.parent / "examples" / "street.jpg"
SIZE = (360, 480)  # CamVid's, of which the shipped model's confidences are
AT_MOST_TIMES = 3


def main(image: Path = STREET, repetitions: int = 5) -> None:
    """Measure and print.

    Args:
        image: Whose confidences, the shipped model's, are refined; at 480x360.
        repetitions: Calls whose median is taken.
    """
    print("## Fully connected CRF\n")
    if find_spec("pydensecrf") is None:
        print("Not measured: pydensecrf2 is not installed here.\n")
        return
    picture = resized(read_image(image)[None], SIZE).clamp(0, 1)
    with torch.inference_mode():
        logits = load_parser().front(picture)
    ours = FullyConnectedCRF()
    result, expected = ours(picture, logits).exp(), densecrf_marginals(ours, picture, logits)
    times = {
        "ours": median_of(lambda: ours(picture, logits), repetitions),
        "pydensecrf2": median_of(lambda: densecrf_marginals(ours, picture, logits), repetitions),
    }
    ratio = times["ours"] / times["pydensecrf2"]
    agreement = (result.argmax(dim=1) == expected.argmax(dim=1)).float().mean().item()
    difference = (result - expected).abs()
    print(f"480x360, 11 classes, {ours.iterations} iterations, median of {repetitions}.\n")
    print(f"On {machine()}, numba {numba.__version__}.\n\n| | milliseconds |\n|---|--:|")
    for name, milliseconds in times.items():
        print(f"| {name} | {milliseconds:.0f} |")
    print(
        f"\n{ratio:.2f} times its time {'meets' if ratio <= AT_MOST_TIMES else 'misses'} the bar of {AT_MOST_TIMES}. "
        f"The same class on {100 * agreement:.2f} % of pixels; marginals differ by {difference.mean():.1e} in the mean "
        f"and {difference.max():.1e} at most.\n"
    )


def densecrf_marginals(settings: FullyConnectedCRF, image: Tensor, logits: Tensor) -> Tensor:
    """What pydensecrf2 makes of it with the same settings."""
    densecrf = import_module("pydensecrf.densecrf")  # it is not everywhere: its build needs a C++ compiler
    classes, height, width = logits.shape[1:]
    crf = densecrf.DenseCRF2D(width, height, classes)
    crf.setUnaryEnergy(-logits[0].log_softmax(dim=0).flatten(1).contiguous().numpy())
    crf.addPairwiseGaussian(settings.gaussian_width, settings.gaussian_compatibility)
    colors = (255 * image[0]).round().byte().permute(1, 2, 0).contiguous().numpy()
    crf.addPairwiseBilateral(
        settings.bilateral_width, settings.bilateral_color_width, colors, settings.bilateral_compatibility
    )
    return torch.from_numpy(np.array(crf.inference(settings.iterations))).view(logits.shape)


if __name__ == "__main__":
    tyro.cli(main)
