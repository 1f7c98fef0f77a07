"""Search for the five settings of the fully connected CRF on training images.

Best are confidences of fronts that never saw the image (`Recipe.folds`): a front is surer of the images that it learned
from than of others, and a CRF that is fitted to these trusts it too much.
"""

import random
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import cycle, islice
from multiprocessing import get_context
from typing import NamedTuple

import torch
from torch import Tensor

from rectiseg.data.confidences import Confidences, View
from rectiseg.metrics import Scores, confusion, scores_of
from rectiseg.models.crf import FullyConnectedCRF

SETTINGS = (
    "bilateral_width",
    "bilateral_color_width",
    "bilateral_compatibility",
    "gaussian_width",
    "gaussian_compatibility",
)
LARGEST_FACTOR = 3.0  # by which a trial multiplies or divides a setting


class Trial(NamedTuple):
    crf: FullyConnectedCRF
    scores: Scores


def tuned(
    confidences: Confidences,
    images: int = 40,
    trials: int = 50,
    seed: int = 0,
    processes: int = 2,
    on_trial: Callable[[], None] = lambda: None,
) -> list[Trial]:
    """Of so many trials on so many images, drawn by the seed, the best by mean IoU first; the last has no iterations.

    An image takes about half a second a trial; the processes divide them among themselves.
    """
    generator = random.Random(seed)
    drawn = sorted(generator.sample(range(len(confidences)), min(images, len(confidences))))
    with ProcessPoolExecutor(processes, get_context("spawn"), torch.set_num_threads, (1,)) as executor:

        def score(crf: FullyConnectedCRF) -> Scores:
            counts = list(executor.map(partial(counts_of, confidences, crf), drawn))
            on_trial()
            return scores_of(torch.stack(counts).sum(dim=0))

        none = FullyConnectedCRF(iterations=0)
        return [*search(score, trials, generator), Trial(none, score(none))]


def counts_of(stored: Confidences, crf: FullyConnectedCRF, index: int) -> Tensor:
    """The confusion matrix of one image."""
    sample = stored.read(index, View())
    prediction = crf(sample.image[None], sample.logits[None]).argmax(dim=1)
    return confusion(prediction, sample.labels[None], len(stored.dataset.classes))


def search(score: Callable[[FullyConnectedCRF], Scores], trials: int, generator: random.Random) -> list[Trial]:
    """The default; then one setting of the best so far after the other, times a random factor. Best first."""
    best = Trial(FullyConnectedCRF(), score(FullyConnectedCRF()))
    tried = [best]
    for name in islice(cycle(SETTINGS), trials - 1):
        value = getattr(best.crf, name) * LARGEST_FACTOR ** generator.uniform(-1, 1)
        crf = FullyConnectedCRF(**settings_of(best.crf) | {name: float(f"{value:.3g}")})  # pyright: ignore
        tried.append(Trial(crf, score(crf)))
        best = max(best, tried[-1], key=mean_iou)
    return sorted(tried, key=mean_iou, reverse=True)


def settings_of(crf: FullyConnectedCRF) -> dict[str, float]:
    return {name: getattr(crf, name) for name in SETTINGS}


def mean_iou(trial: Trial) -> float:
    return trial.scores.mean_iou
