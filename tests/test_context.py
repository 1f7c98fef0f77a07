"""The multi-scale context module."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from networks import SIZES, along, extent, positive, random, random_logits
from rectiseg.models.context import MultiScaleContext
from rectiseg.settings import Settings, make_optimizer
from rectiseg.stage import StageLoss
from rectiseg.types import Refiner


def lively(num_classes: int = 5) -> MultiScaleContext:
    """Far from the identity."""
    torch.manual_seed(5)
    module = MultiScaleContext(num_classes).eval()
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.5)
    return module


def convolutions(module: MultiScaleContext) -> list[nn.Conv2d]:
    return [layer for layer in module.context if isinstance(layer, nn.Conv2d)]


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_any_height_and_width_works(height: int, width: int) -> None:
    refiner: Refiner = lively()
    logits = random_logits(2, 5, height, width)
    with torch.inference_mode():
        refined = refiner(random(2, 3, height, width), logits)
    assert refined.shape == logits.shape
    assert refined.isfinite().all()
    assert not refined.isclose(logits).all()


@pytest.mark.parametrize("num_classes", [1, 11])
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_an_untrained_module_returns_its_input_to_the_bit(num_classes: int, height: int, width: int) -> None:
    logits = random_logits(2, num_classes, height, width)
    refined = MultiScaleContext(num_classes)(random(2, 3, height, width), logits)
    assert refined.equal(logits)


def test_the_layers_are_those_of_the_papers_table_1() -> None:
    layers = convolutions(MultiScaleContext(5))
    assert [layer.kernel_size for layer in layers] == [(3, 3)] * 7 + [(1, 1)]
    assert [layer.dilation[0] for layer in layers] == [1, 1, 2, 4, 8, 16, 1, 1]
    assert [type(layer) for layer in MultiScaleContext(5).context] == [nn.Conv2d, nn.ReLU] * 7 + [nn.Conv2d]


@pytest.mark.parametrize("K", [5, 11, 150])
def test_the_number_of_parameters(K: int) -> None:
    parameters = sum(parameter.numel() for parameter in MultiScaleContext(K).parameters())
    assert parameters == 7 * (9 * K**2 + K) + K**2 + K


def test_a_cell_sees_67_by_67_cells() -> None:
    module = MultiScaleContext(1).double()
    for layer in convolutions(module):
        positive(layer)
    cells = torch.ones(1, 1, 71, 75, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(module.context(cells)[0, 0, 35, 37], cells)
    assert [extent(along(axis, gradient)) for axis in (0, 1)] == [67, 67]


def test_the_change_of_the_mean_probabilities_is_upsampled_and_added() -> None:
    module, logits = MultiScaleContext(5), random_logits(1, 5, 16, 24)
    module.context[-1].weight.data *= 3  # pyright: ignore
    with torch.inference_mode():
        refined = module(random(1, 3, 16, 24), logits)
        change = 2 * F.avg_pool2d(logits.softmax(dim=1), 8)
        expected = logits + F.interpolate(change, scale_factor=8.0, mode="bilinear", align_corners=False)
    torch.testing.assert_close(refined, expected)


def test_confidences_are_continued_to_the_next_multiple_of_eight() -> None:
    module, logits = lively(), random_logits(1, 5, 13, 18)
    continued = F.pad(logits, (0, 6, 0, 3), mode="replicate")
    with torch.inference_mode():
        whole = module(random(1, 3, 16, 24), continued)
        torch.testing.assert_close(module(random(1, 3, 13, 18), logits), whole[..., :13, :18])


def test_a_batch_of_two_is_two_batches_of_one() -> None:
    module, images, logits = lively(), random(2, 3, 9, 14), random_logits(2, 5, 9, 14)
    with torch.inference_mode():
        apart = torch.cat([module(images[index : index + 1], logits[index : index + 1]) for index in (0, 1)])
        torch.testing.assert_close(module(images, logits), apart, rtol=1e-5, atol=1e-5)


def test_every_layer_of_an_untrained_module_gets_a_gradient() -> None:
    module = MultiScaleContext(5)
    (answer,) = module.supervised(random(1, 3, 33, 41), random_logits(1, 5, 33, 41))
    answer.square().sum().backward()
    assert len(module.loss_weights) == 1
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in module.parameters())


def noisy_halves() -> tuple[Tensor, Tensor, Tensor]:
    """Image, logits and labels: class 0 above class 2, and confidences that single cells have wrong."""
    labels = torch.zeros(1, 48, 56, dtype=torch.int64)
    labels[:, 24:] = 2
    noise = F.interpolate(random_logits(1, 3, 6, 7), scale_factor=8.0)
    return random(1, 3, 48, 56), F.one_hot(labels, 3).movedim(-1, 1) + noise, labels


def test_it_learns_to_outvote_wrong_cells() -> None:
    torch.manual_seed(0)
    image, logits, labels = noisy_halves()
    module = MultiScaleContext(3)
    settings = Settings(phases=((1, 1.0),), crop=(48, 56))
    loss, optimizer = StageLoss(module, settings), make_optimizer(module, settings)
    optimizer.param_groups[0]["lr"] = 0.02
    losses = []
    for _ in range(15):
        optimizer.zero_grad()
        losses.append(loss(labels, image, logits) / labels.numel())
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < losses[0] / 2
