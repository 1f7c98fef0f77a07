"""The LRN that looks far, for any classes and for certain ones."""

from collections.abc import Callable
from itertools import product

import pytest
import torch
from torch import Tensor, nn

from networks import SIZES, random, random_logits
from rectiseg.models.bilateral_lrn import BilateralLRN
from rectiseg.models.checkpoint import load, save
from rectiseg.ops.propagate import propagate
from rectiseg.types import Refiner


def lively(neighborhood: int = 5) -> BilateralLRN:
    """Far from the identity."""
    torch.manual_seed(5)
    lrn = BilateralLRN(None, neighborhood, widths=(6, 7), dilations=(3, 1), features=2).eval()
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


def test_the_means_by_its_scores_are_its_answer():
    """Which takes them in one pass, without the scores."""
    lrn, image, logits = lively(), random(2, 3, 13, 7), random_logits(2, 4, 13, 7)
    with torch.no_grad():
        averaged = lrn.averaged(logits, lrn.scores(image, logits))  # whose distances are rounded otherwise
        torch.testing.assert_close(averaged, lrn(image, logits), rtol=1e-4, atol=1e-4)


def test_classes_without_probability_change_nothing():
    image, logits = random(1, 3, 13, 7), random_logits(1, 4, 13, 7)
    more = torch.cat([logits, torch.full((1, 3, 13, 7), -60.0)], dim=1)
    lrn = lively()
    torch.testing.assert_close(lrn(image, more)[:, :4], lrn(image, logits))


def test_what_a_neighbour_says_is_seen_at_its_place():
    """Halved, one pixel is of another class than all others."""
    logits = torch.zeros(1, 3, 9, 9)
    logits[:, 0] = 20
    logits[:, :, 4, 4] = torch.tensor([0.0, 20.0, 0.0])
    doubled = logits.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    comparisons = BilateralLRN().evidence(torch.zeros(1, 3, 18, 18), doubled)[0, 7:]
    agrees, first = comparisons[0::3], comparisons[1::3]
    for channel, (down, right) in enumerate([(-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1)]):
        for maps in (agrees[channel], first[channel]):
            assert maps[4, 4] < 1e-6  # no neighbour of it agrees
            assert maps[4 - down, 4 - right] < 1e-6  # and it is who disagrees with this one
        far = agrees[8 + channel]
        assert far[4 - 3 * down, 4 - 3 * right] < 1e-6
        assert far[4 - down, 4 - right] > 0.99


def test_an_untrained_one_does_not_average_across_an_edge():
    """Of two colours, each one's confidences stay on its own side."""
    image = torch.zeros(1, 3, 24, 40)
    image[..., 17:] = 1
    logits = random_logits(1, 4, 24, 40)
    torch.manual_seed(5)
    lrn = BilateralLRN().eval()
    whole, left, right = (lrn(*pair) for pair in ((image, logits), *halves(image, logits, 17)))
    away = torch.cat([left[..., :-4], right[..., 4:]], dim=-1)  # what convolutions see of the other side changes little
    torch.testing.assert_close(torch.cat([whole[..., :13], whole[..., 21:]], dim=-1), away, atol=0.05, rtol=0)


def halves(image: Tensor, logits: Tensor, column: int) -> list[tuple[Tensor, Tensor]]:
    return [(image[..., side], logits[..., side]) for side in (slice(0, column), slice(column, None))]


def test_its_answer_is_equation_5_once_for_every_dilation():
    image, logits = random(1, 3, 13, 7), random_logits(1, 4, 13, 7)
    lrn = lively()
    wide, near = (scores.softmax(dim=1) for scores in lrn.scores(image, logits))
    expected = torch.zeros_like(logits)
    for place, weight in enumerate(wide.unbind(dim=1)):
        down, right = (3 * (step - 2) for step in divmod(place, 5))
        for y, x in product(range(13), range(7)):
            if 0 <= y + down < 13 and 0 <= x + right < 7:
                expected[..., y, x] += weight[..., y, x] * logits[..., y + down, x + right]
    torch.testing.assert_close(wide.sum(dim=1), torch.ones(1, 13, 7))
    torch.testing.assert_close(lrn(image, logits), propagate(expected, near))


@pytest.mark.parametrize(("row", "column"), [(0, 0), (6, 3), (12, 6)])
@pytest.mark.parametrize("mode", [torch.enable_grad, torch.inference_mode])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_coefficients_of_a_pixel_are_what_it_averages(dtype: torch.dtype, mode: Callable, row: int, column: int):
    image, logits = random(1, 3, 13, 7).to(dtype), random_logits(1, 4, 13, 7).to(dtype)
    lrn = lively(3).to(dtype)
    with mode():
        weights = lrn.coefficients_of(image, logits, row, column)
    reach = (len(weights) - 1) // 2
    assert reach == 4  # dilations 3 and 1
    around = torch.nn.functional.pad(logits[0], (reach,) * 4)
    window = around[:, row : row + 2 * reach + 1, column : column + 2 * reach + 1]
    torch.testing.assert_close((weights * window).sum(dim=(1, 2)), lrn(image, logits)[0, :, row, column])


def test_where_all_are_likeliest_of_one_class_no_label_changes():
    image, logits = random(2, 3, 33, 41), random_logits(2, 4, 33, 41)
    logits[:, 2] = logits.amax(dim=1) + 0.01
    assert (lively()(image, logits).argmax(dim=1) == 2).all()


@pytest.mark.parametrize("side", [0, 4])
def test_a_neighborhood_without_a_centre_is_refused(side: int):
    with pytest.raises(ValueError, match=f"odd and positive, not {side}"):
        BilateralLRN(neighborhood=side)


def test_for_certain_classes_it_gives_the_same_until_it_is_trained():
    image, logits = random(1, 3, 13, 7), random_logits(1, 4, 13, 7)
    general = lively()
    special = general.specialized(4).eval()
    torch.testing.assert_close(special(image, logits), general(image, logits))
    nn.init.normal_(special.body[0].weight)
    order = torch.tensor([3, 0, 1, 2])
    assert not torch.allclose(special(image, logits[:, order]), special(image, logits)[:, order])


def test_one_class_is_refused():
    with pytest.raises(ValueError, match="one class"):
        lively()(random(1, 3, 6, 7), random_logits(1, 1, 6, 7))


def test_it_is_saved_and_loaded(tmp_path):
    save(lively(), tmp_path / "any.safetensors")
    loaded = load(tmp_path / "any.safetensors")
    inputs: tuple[Tensor, Tensor] = random(1, 3, 6, 7), random_logits(1, 4, 6, 7)
    assert isinstance(loaded, BilateralLRN)
    assert torch.equal(loaded(*inputs), lively()(*inputs))
