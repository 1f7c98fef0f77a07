"""LRN for any classes."""

import pytest
import torch
from torch import Tensor, nn

from networks import SIZES, random, random_logits
from rectiseg.models.checkpoint import load, save
from rectiseg.models.class_agnostic import ClassAgnosticLRN
from rectiseg.ops.propagate import propagate
from rectiseg.types import Refiner


def lively(neighborhood: int = 5) -> ClassAgnosticLRN:
    """Far from the identity."""
    torch.manual_seed(5)
    lrn = ClassAgnosticLRN(neighborhood, widths=(6, 7)).eval()
    nn.init.normal_(lrn.head.weight, std=0.5)
    return lrn


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("classes", [2, 3, 11])
def test_any_classes_and_any_size_work(classes: int, height: int, width: int):
    refiner: Refiner = lively()
    refined = refiner(random(2, 3, height, width), random_logits(2, classes, height, width))
    assert refined.shape == (2, classes, height, width)
    assert refined.isfinite().all()


@pytest.mark.parametrize("classes", [2, 9, 1000])
def test_another_order_of_the_classes_gives_the_same_result_in_that_order(classes: int):
    image, logits = random(1, 3, 13, 7), random_logits(1, classes, 13, 7)
    order = torch.randperm(classes, generator=torch.Generator().manual_seed(2))
    lrn = lively()
    torch.testing.assert_close(lrn(image, logits[:, order]), lrn(image, logits)[:, order])


def test_classes_without_probability_change_nothing():
    image, logits = random(1, 3, 13, 7), random_logits(1, 4, 13, 7)
    more = torch.cat([logits, torch.full((1, 3, 13, 7), -60.0)], dim=1)
    lrn = lively()
    torch.testing.assert_close(lrn(image, more)[:, :4], lrn(image, logits))


def test_what_a_neighbour_says_is_seen_at_its_place():
    """One pixel is of another class than all others."""
    logits = torch.zeros(1, 3, 9, 9)
    logits[:, 0] = 20
    logits[:, :, 4, 4] = torch.tensor([0.0, 20.0, 0.0])
    evidence = ClassAgnosticLRN().evidence(torch.zeros(1, 3, 9, 9), logits)[0, 7:]
    agrees, first = evidence[0::3], evidence[1::3]
    for channel, (down, right) in enumerate([(-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1)]):
        for maps in (agrees[channel], first[channel]):
            assert maps[4, 4] < 1e-6  # no neighbour of it agrees
            assert maps[4 - down, 4 - right] < 1e-6  # and it is who disagrees with this one
        far = agrees[8 + channel]
        assert far[4 - 3 * down, 4 - 3 * right] < 1e-6
        assert far[4 - down, 4 - right] > 0.99


def test_an_untrained_one_keeps_nine_tenths_of_the_centre():
    coefficients = ClassAgnosticLRN().eval().coefficients(random(1, 3, 9, 9), random_logits(1, 4, 9, 9))
    torch.testing.assert_close(coefficients[0, 24, 4, 4], torch.tensor(0.9), atol=0.02, rtol=0)


def test_its_answer_is_equation_5():
    image, logits = random(1, 3, 13, 7), random_logits(1, 4, 13, 7)
    lrn = lively()
    torch.testing.assert_close(lrn(image, logits), propagate(logits, lrn.coefficients(image, logits)))


def test_one_class_is_refused():
    with pytest.raises(ValueError, match="one class"):
        lively()(random(1, 3, 6, 7), random_logits(1, 1, 6, 7))


def test_it_is_saved_and_loaded(tmp_path):
    save(lively(), tmp_path / "any.safetensors")
    loaded = load(tmp_path / "any.safetensors")
    inputs: tuple[Tensor, Tensor] = random(1, 3, 6, 7), random_logits(1, 4, 6, 7)
    assert isinstance(loaded, ClassAgnosticLRN)
    assert torch.equal(loaded(*inputs), lively()(*inputs))
