"""The fully connected CRF."""

import inspect
from pathlib import Path

import pytest
import torch
from torch import Tensor

from crf import densecrf_marginals
from networks import SIZES, random, random_logits
from rectiseg.data.datasets import CamVid
from rectiseg.models.checkpoint import load_parser
from rectiseg.models.crf import FullyConnectedCRF
from rectiseg.types import Refiner


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_any_height_and_width_gives_logarithms_of_marginals(height: int, width: int) -> None:
    refiner: Refiner = FullyConnectedCRF()
    refined = refiner(random(2, 3, height, width), random_logits(2, 5, height, width))
    assert refined.shape == (2, 5, height, width)
    torch.testing.assert_close(refined.exp().sum(dim=1), torch.ones(2, height, width))


def edge(column: int, width: int = 33) -> Tensor:
    """A label map: class 0 to the left of the column, class 1 from there on."""
    return (torch.arange(width) >= column).long().expand(1, 24, width)


def noisy_logits(labels: Tensor) -> Tensor:
    """Every sixth pixel or so is wrong."""
    wrong = random(*labels.shape) < 0.15
    for_class_1 = torch.where(wrong, 1 - labels, labels) * 2.0 - 1
    return torch.stack([-for_class_1, for_class_1], dim=1)


def test_noise_goes_and_labels_follow_the_images_edge() -> None:
    image = 0.3 + 0.4 * edge(16).unsqueeze(1).expand(-1, 3, -1, -1)
    logits = noisy_logits(edge(18))  # two columns beside the edge of the image
    assert (logits.argmax(dim=1) != edge(16)).float().mean() > 0.15
    assert FullyConnectedCRF()(image, logits).argmax(dim=1).equal(edge(16))


SETTINGS = {
    "gaussian_width": 1.0,
    "gaussian_compatibility": 2.0,
    "bilateral_width": 4.0,
    "bilateral_color_width": 20.0,
    "bilateral_compatibility": 2.0,
}


def mean_field(image: Tensor, logits: Tensor, settings: dict[str, float], iterations: int = 5) -> Tensor:
    """The marginals of one image, with every pair of pixels written out."""
    height, width = logits.shape[-2:]
    place = torch.cartesian_prod(torch.arange(height), torch.arange(width)).double()
    color = 255 * image[0].flatten(1).T.double()
    smoothness = place / settings["gaussian_width"]
    appearance = torch.cat([place / settings["bilateral_width"], color / settings["bilateral_color_width"]], dim=1)
    agreement = settings["gaussian_compatibility"] * normalized_kernel(smoothness)
    agreement += settings["bilateral_compatibility"] * normalized_kernel(appearance)
    unary = logits[0].flatten(1).double().log_softmax(dim=0)
    marginals = unary.exp()
    for _ in range(iterations):
        marginals = (unary + marginals @ agreement).softmax(dim=0)
    return marginals.float().view(logits.shape)


def normalized_kernel(features: Tensor) -> Tensor:
    kernel = (-(torch.cdist(features, features) ** 2) / 2).exp()
    return kernel / torch.outer(kernel.sum(dim=0), kernel.sum(dim=1)).sqrt()


@pytest.mark.parametrize("doubled", SETTINGS)
def test_the_settings_mean_what_they_say(doubled: str) -> None:
    """Filtering in a lattice is not exact, but nearer to its own settings than to any others."""
    image, logits = random(1, 3, 9, 14) / 4, 2 / 3 * random_logits(1, 5, 9, 14)
    refined = FullyConnectedCRF(**SETTINGS)(image, logits).exp()
    error = (refined - mean_field(image, logits, SETTINGS)).abs().mean()
    others = mean_field(image, logits, SETTINGS | {doubled: 2 * SETTINGS[doubled]})
    assert error < 0.005
    assert error < (refined - others).abs().mean() / 1.5


def test_a_batch_of_two_is_two_batches_of_one() -> None:
    refiner, images, logits = FullyConnectedCRF(), random(2, 3, 6, 7), random_logits(2, 5, 6, 7)
    apart = [refiner(images[index : index + 1], logits[index : index + 1]) for index in (0, 1)]
    assert refiner(images, logits).equal(torch.cat(apart))


@pytest.mark.parametrize("settings", [{"iterations": 0}, {"gaussian_compatibility": 0, "bilateral_compatibility": 0}])
def test_without_iterations_or_compatibilities_probabilities_stay(settings: dict[str, float]) -> None:
    logits = random_logits(1, 5, 6, 7)
    refined = FullyConnectedCRF(**settings)(random(1, 3, 6, 7), logits)
    torch.testing.assert_close(refined.exp(), logits.softmax(dim=1))
    assert refined.argmax(dim=1).equal(logits.argmax(dim=1))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_the_result_is_finite_and_in_float32(dtype: torch.dtype) -> None:
    sure = torch.tensor([200.0, 0.0, 0.0], dtype=dtype).view(1, 3, 1, 1).expand(1, 3, 6, 7)
    refined = FullyConnectedCRF()(random(1, 3, 6, 7, dtype=dtype), sure)
    assert refined.dtype == torch.float32
    assert refined.isfinite().all()


@pytest.mark.parametrize("name", ["gaussian_width", "bilateral_width", "bilateral_color_width"])
def test_a_kernel_without_width_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"positive, not 0\.0"):
        FullyConnectedCRF(**{name: 0.0})  # pyright: ignore


def test_fewer_than_no_iterations_are_refused() -> None:
    with pytest.raises(ValueError, match="cannot do -1 iterations"):
        FullyConnectedCRF(iterations=-1)


def test_a_crf_is_its_arguments() -> None:
    """So that a saved model can have one."""
    settings = dict(zip(inspect.signature(FullyConnectedCRF).parameters, range(1, 7), strict=True))
    refiner = FullyConnectedCRF(**settings)
    assert {name: getattr(refiner, name) for name in settings} == settings
    assert not refiner.state_dict()


@pytest.mark.parametrize("index", [0, 50])
def test_it_says_what_pydensecrf2_says_of_real_confidences(index: int, camvid: Path) -> None:
    pytest.importorskip("pydensecrf.densecrf", reason="pydensecrf2 is not installed")
    image = CamVid(camvid, "val")[index].image[None]
    with torch.inference_mode():
        logits = load_parser().front(image)
    ours = FullyConnectedCRF()
    expected, marginals = densecrf_marginals(ours, image, logits), ours(image, logits).exp()
    assert (marginals.argmax(dim=1) == expected.argmax(dim=1)).float().mean() >= 0.995
    assert (marginals - expected).abs().mean() < 1e-3
