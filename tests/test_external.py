"""Any network as a parser: what it sees of an image, and where its answer lies in it."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from networks import SIZES, random
from rectiseg.models.combine import SceneParser
from rectiseg.models.external import ExternalFront, edges_between, letterboxed, padded, stretched
from rectiseg.models.external.fits import Fit, Size
from rectiseg.models.lrn import LRN
from rectiseg.ops.resize import resized
from rectiseg.types import Parser

MEAN, STD = (0.5, 0.25, 0.125), (0.5, 0.25, 0.2)
FITS = {
    "as it is": padded(),
    "padded": padded(32),
    "stretched": stretched((20, 31)),
    "letterboxed": letterboxed((20, 31)),
    "edges": edges_between(17),
}


class Answering(nn.Module):
    """A network whose answer takes the given form; it keeps what it saw."""

    def __init__(self, network: nn.Module, form: Callable[[Tensor], object] = lambda maps: maps):
        super().__init__()
        self.network = network
        self.form = form
        self.seen = torch.empty(0)

    def forward(self, image: Tensor) -> object:
        self.seen = image
        return self.form(self.network(image))


def quarter() -> nn.Conv2d:
    """Five maps at a quarter of the resolution."""
    torch.manual_seed(0)
    return nn.Conv2d(3, 5, 7, stride=4, padding=3)


def pointwise() -> nn.Conv2d:
    """Five maps that a pixel's own colour decides."""
    torch.manual_seed(0)
    return nn.Conv2d(3, 5, 1)


@pytest.mark.parametrize("name", FITS)
@pytest.mark.parametrize(("height", "width"), [*SIZES, (37, 53)])
def test_any_height_and_width_works(height: int, width: int, name: str):
    front: Parser = ExternalFront(quarter(), 5, fit=FITS[name])
    with torch.inference_mode():
        logits = front(random(2, 3, height, width))
    assert logits.shape == (2, 5, height, width)
    assert logits.isfinite().all()


def test_maps_of_a_lower_resolution_are_upsampled():
    image, network = random(2, 3, 37, 53), quarter()
    with torch.inference_mode():
        expected = F.interpolate(network(image), (37, 53), mode="bilinear", align_corners=False)
        torch.testing.assert_close(ExternalFront(network, 5)(image), expected)


def test_the_network_sees_the_image_normalised_in_its_order_of_bands():
    image = random(1, 3, 6, 7)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    for bgr, order in ((False, [0, 1, 2]), (True, [2, 1, 0])):
        network = Answering(pointwise())
        ExternalFront(network, 5, MEAN, STD, bgr=bgr)(image)
        torch.testing.assert_close(network.seen, (image[:, order] - mean) / std)


@pytest.mark.parametrize(
    ("fit", "size", "inner", "canvas"),
    [
        (padded(), (37, 53), (37, 53), (37, 53)),
        (padded(32), (37, 64), (37, 64), (64, 64)),
        (stretched((512, 256)), (37, 53), (512, 256), (512, 256)),
        (letterboxed((40, 40)), (10, 20), (20, 40), (40, 40)),
        (letterboxed((513, 513)), (683, 512), (513, 385), (513, 513)),
        (edges_between(20), (10, 15), (20, 30), (20, 30)),
        (edges_between(64), (53, 37), (91, 64), (91, 64)),
        (edges_between(20, 24), (10, 15), (16, 24), (16, 24)),
        (edges_between(20, 24, 32), (10, 35), (32, 32), (32, 32)),
    ],
)
def test_an_image_is_fitted_into_a_canvas(fit: Fit, size: Size, inner: Size, canvas: Size):
    assert fit(size) == (inner, canvas)


def test_beyond_the_image_the_canvas_continues_its_edges():
    network = Answering(pointwise())
    image = random(1, 3, 6, 7)
    ExternalFront(network, 5, fit=padded(8))(image)
    assert network.seen.shape == (1, 3, 8, 8)
    assert network.seen[..., :6, :7].equal(image)
    assert network.seen[..., 6:, :7].equal(image[..., 5:, :].expand(-1, -1, 2, -1))
    assert network.seen[..., 7].equal(network.seen[..., 6])


def test_the_canvas_is_cut_from_the_answer():
    image, network = random(2, 3, 6, 7), pointwise()
    with torch.inference_mode():
        torch.testing.assert_close(ExternalFront(network, 5, fit=padded(32))(image), network(image))
        within = network(resized(image, (12, 14)))
        torch.testing.assert_close(ExternalFront(network, 5, fit=letterboxed((12, 50)))(image), resized(within, (6, 7)))


def test_what_an_image_says_stays_where_it_is_on_a_canvas_of_another_resolution():
    """Its right half is white: so is the right half of the answer of a network with a stride."""
    image = torch.zeros(1, 3, 40, 80)
    image[..., 40:] = 1
    network = nn.Sequential(nn.AvgPool2d(4), pointwise())
    with torch.inference_mode():
        logits = ExternalFront(network, 5, fit=letterboxed((160, 160)))(image)
        black, white = network(image)[..., [0], [0]], network(image)[..., [0], [-1]]
    torch.testing.assert_close(logits[..., :36], black[..., None].expand(-1, -1, 40, 36))
    torch.testing.assert_close(logits[..., 44:], white[..., None].expand(-1, -1, 40, 36))


def test_probabilities_become_logits_whose_softmax_they_are():
    image, network = random(2, 3, 6, 7), nn.Sequential(pointwise(), nn.Softmax(dim=1))
    with torch.inference_mode():
        logits = ExternalFront(network, 5, probabilities=True)(image)
        torch.testing.assert_close(logits.softmax(dim=1), network(image))


def test_scores_of_zero_become_finite_logits():
    front = ExternalFront(nn.Sequential(pointwise(), nn.Threshold(1e9, 0.0)), 5, probabilities=True)
    torch.testing.assert_close(front(random(1, 3, 6, 7)).softmax(dim=1), torch.full((1, 5, 6, 7), 0.2))


@pytest.mark.parametrize(
    "form", [lambda maps: {"out": maps, "aux": -maps}, lambda maps: {"logits": maps}, lambda maps: (maps, -maps)]
)
def test_the_maps_are_found_in_a_networks_answer(form: Callable[[Tensor], object]):
    image, network = random(1, 3, 6, 7), pointwise()
    with torch.inference_mode():
        assert ExternalFront(Answering(network, form), 5)(image).equal(network(image))


@pytest.mark.parametrize(
    ("form", "found"),
    [
        (lambda maps: maps.argmax(dim=1), r"torch\.int64 of \[1, 6, 7\]"),
        (lambda maps: maps.argmax(dim=1, keepdim=True), r"torch\.int64 of \[1, 1, 6, 7\]"),
        (lambda maps: maps[0], r"torch\.float32 of \[5, 6, 7\]"),
        (lambda maps: {"boxes": maps}, "NoneType"),
        (lambda maps: (), "NoneType"),
        (lambda maps: None, "NoneType"),
    ],
)
def test_an_answer_without_maps_is_refused(form: Callable[[Tensor], object], found: str):
    front = ExternalFront(Answering(pointwise(), form), 5)
    with pytest.raises(ValueError, match=f"gives no confidence maps of .* but {found}: it has to end before"):
        front(random(1, 3, 6, 7))


def test_classes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="two classes or more; this network knows 1"):
        ExternalFront(pointwise(), 1)
    with pytest.raises(ValueError, match="knows 5 classes, and 2 names were given"):
        ExternalFront(pointwise(), 5, classes=("sky", "road"))
    with pytest.raises(ValueError, match="gives 5 maps; 4 classes were expected"):
        ExternalFront(pointwise(), 4)(random(1, 3, 6, 7))


def test_refiners_follow_it_and_gradients_reach_the_network():
    torch.manual_seed(0)
    front = ExternalFront(quarter(), 5, MEAN, STD)
    parser = SceneParser(front, LRN(5, widths=(4,)))
    logits = parser(random(2, 3, 13, 18))
    assert logits.shape == (2, 5, 13, 18)
    logits.square().sum().backward()
    gradient = front.get_parameter("network.weight").grad
    assert gradient is not None
    assert gradient.abs().sum() > 0
