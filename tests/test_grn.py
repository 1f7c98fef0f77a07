"""The Global-residual Refinement Network."""

import pytest
import torch
from torch import Tensor, nn

from networks import ENCODERS, SIZES, TinyEncoder, encoder, measurable, random, random_logits, tiny_grn
from rectiseg.models.efficientnet_lite import EfficientNetLite
from rectiseg.models.grn import GRN
from rectiseg.models.resnet import ResNet
from rectiseg.types import Refiner


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_any_height_and_width_works(height: int, width: int) -> None:
    refiner: Refiner = tiny_grn(num_classes=5)
    logits = random_logits(1, 5, height, width)
    with torch.inference_mode():
        refined = refiner(random(1, 3, height, width), logits)
    assert refined.shape == logits.shape
    assert not refined.isclose(logits).all()


@pytest.mark.parametrize("name", ENCODERS)
def test_an_untrained_grn_returns_its_input_to_the_bit(name: str) -> None:
    grn = GRN(measurable(name, 8).float(), num_classes=4).eval()
    logits = random_logits(1, 4, 11, 18)
    with torch.inference_mode():
        assert grn(random(1, 3, 11, 18), logits).equal(logits)


def test_supervised_gives_residual_and_running_sum_of_every_iteration() -> None:
    grn, image, logits = tiny_grn(iterations=3), random(1, 3, 9, 14), random_logits(1, 5, 9, 14)
    with torch.inference_mode():
        residual1, sum1, residual2, sum2, residual3, sum3 = grn.supervised(image, logits)
        assert sum3.equal(grn(image, logits))
    for before, residual, after in [(logits, residual1, sum1), (sum1, residual2, sum2), (sum2, residual3, sum3)]:
        assert residual.any()
        assert after.equal(before + residual)


def test_later_iterations_weigh_more_and_residuals_two_fifths_of_their_sums() -> None:
    assert GRN(TinyEncoder(), 5).loss_weights == pytest.approx((0.4 / 6, 1 / 6, 0.8 / 6, 2 / 6, 1.2 / 6, 3 / 6))
    assert GRN(TinyEncoder(), 5, iterations=1).loss_weights == pytest.approx((0.4, 1))


def test_the_weights_can_leave_out_residuals_or_all_but_the_last_iteration() -> None:
    assert GRN(TinyEncoder(), 5, iterations=2, auxiliary_weight=0).loss_weights == pytest.approx((0, 1 / 3, 0, 2 / 3))
    assert GRN(TinyEncoder(), 5, iterations=2, every_iteration=False).loss_weights == (0, 0, 0.4, 1)


def test_there_is_a_weight_for_every_supervised_map() -> None:
    for iterations in (1, 2, 3):
        grn = tiny_grn(iterations=iterations)
        maps = grn.supervised(random(1, 3, 8, 9), random_logits(1, 5, 8, 9))
        assert len(maps) == len(grn.loss_weights) == 2 * iterations


@pytest.mark.parametrize("iterations", [1, 2, 3])
def test_fewer_iterations_are_read_from_one_grn(iterations: int) -> None:
    grn, image, logits = tiny_grn(iterations=3), random(1, 3, 9, 14), random_logits(1, 5, 9, 14)
    with torch.inference_mode():
        after_each = grn.supervised(image, logits)[1::2]
        grn.iterations = iterations
        assert grn(image, logits).equal(after_each[iterations - 1])


def test_no_iteration_is_refused() -> None:
    with pytest.raises(ValueError, match="at least once: 0 iterations"):
        GRN(TinyEncoder(), 5, iterations=0)


@pytest.mark.parametrize("pretrained", [ResNet(18), EfficientNetLite(0)])
def test_the_first_convolution_keeps_the_rgb_filters_and_gets_small_random_ones(pretrained: nn.Module) -> None:
    torch.manual_seed(7)
    rgb = pretrained.first_convolution.weight.detach().clone()  # pyright: ignore
    weight = GRN(pretrained, num_classes=19).encoder.first_convolution.weight.detach()  # pyright: ignore
    added = weight[:, 3:]
    assert weight[:, :3].equal(rgb)
    assert added.shape[1] == 19
    assert added.std().item() == pytest.approx(0.01, rel=0.05)
    assert added.mean().item() == pytest.approx(0, abs=0.0005)


def test_no_normalisation_is_done_to_the_confidences() -> None:
    grn = tiny_grn(num_classes=5)
    assert grn.network.mean.flatten().tolist() == [*TinyEncoder.MEAN, 0, 0, 0, 0, 0]
    assert grn.network.std.flatten().tolist() == [*TinyEncoder.STD, 1, 1, 1, 1, 1]


def gradient_at_input(grn: GRN, position: int) -> Tensor | None:
    logits = random_logits(1, 5, 9, 14).requires_grad_()
    maps = grn.supervised(random(1, 3, 9, 14), logits)
    return torch.autograd.grad(maps[position].square().sum(), logits, allow_unused=True)[0]


@pytest.mark.parametrize("position", [2, 3])
def test_gradients_stop_between_iterations(position: int) -> None:
    assert gradient_at_input(tiny_grn(iterations=2), position) is None
    through = gradient_at_input(tiny_grn(iterations=2, full_backpropagation=True), position)
    assert through is not None
    assert through.any()


def test_the_first_iteration_passes_its_gradient_to_what_comes_before() -> None:
    gradient = gradient_at_input(tiny_grn(iterations=2), position=1)
    assert gradient is not None
    assert gradient.any()


def test_stopping_gradients_does_not_change_the_result() -> None:
    image, logits = random(1, 3, 9, 14), random_logits(1, 5, 9, 14)
    stopped, passed = (tiny_grn(full_backpropagation=full)(image, logits) for full in (False, True))
    assert stopped.equal(passed)


def test_a_batch_of_two_is_two_batches_of_one() -> None:
    grn, images, logits = tiny_grn(), random(2, 3, 9, 14), random_logits(2, 5, 9, 14)
    with torch.inference_mode():
        apart = torch.cat([grn(images[index : index + 1], logits[index : index + 1]) for index in (0, 1)])
        torch.testing.assert_close(grn(images, logits), apart, rtol=1e-5, atol=1e-5)


def test_the_sum_of_coarse_residuals_is_what_the_iterations_add() -> None:
    grn, image, logits = tiny_grn(), random(1, 3, 9, 14), random_logits(1, 5, 9, 14)
    with torch.inference_mode():
        added = grn.network.upsample(grn.coarse(image, logits), 9, 14)
        torch.testing.assert_close(logits + added, grn(image, logits), rtol=1e-4, atol=1e-4)


def test_every_parameter_learns_from_the_auxiliary_loss() -> None:
    grn = tiny_grn(iterations=1)
    residual, _ = grn.supervised(random(1, 3, 9, 14), random_logits(1, 5, 9, 14))
    residual.square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in grn.parameters())


def test_a_taken_over_encoder_serves_no_front_any_more() -> None:
    """Front and GRN cannot share an encoder: GRN widens it in place."""
    shared = TinyEncoder()
    grn = GRN(shared, 5)
    assert grn.encoder is shared
    assert shared.stem.in_channels == shared.stem.weight.shape[1] == 8
    assert encoder("resnet18").first_convolution.in_channels == 3
