"""A stage's loss, its optimizer and its learning rates."""

import math
from copy import deepcopy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from networks import TinyEncoder, encoder
from rectiseg.losses import lovasz_softmax
from rectiseg.models.front import Front
from rectiseg.settings import Settings, make_optimizer
from rectiseg.stage import StageLoss, freeze_batch_norm, synchronized
from rectiseg.types import IGNORE_INDEX
from tiny_stage import K, OneConvolution, one_convolution, tiny_lrn

PLAIN = Settings(phases=((2, 1e-2),), crop=(19, 23), schedule="constant")


def test_every_supervised_map_adds_its_weight():
    class Three(OneConvolution):
        loss_weights = (0.25, 0.0, 2.0)

        def supervised(self, image: Tensor) -> list[Tensor]:
            return [self.head(image), torch.full((1, K, 6, 7), math.nan), 3 * self.head(image)]

    torch.manual_seed(0)
    stage, image = Three(), torch.rand(1, 3, 6, 7)
    labels = torch.randint(K, (1, 6, 7))
    first, last = (F.cross_entropy(scale * stage.head(image), labels, reduction="sum") for scale in (1, 3))
    torch.testing.assert_close(StageLoss(stage, PLAIN)(labels, image), 0.25 * first + 2 * last)


def test_the_lovász_loss_joins_with_every_image_s_valid_pixels_as_much_as_is_said():
    torch.manual_seed(0)
    stage, image = one_convolution(), torch.rand(2, 3, 6, 7)
    labels = torch.randint(K, (2, 6, 7))
    labels[1, 2:] = IGNORE_INDEX
    of_images = lovasz_softmax(stage(image), labels)
    expected = StageLoss(stage, PLAIN)(labels, image) + 0.5 * (42 * of_images[0] + 14 * of_images[1])
    settings = replace(PLAIN, lovasz=0.5)
    torch.testing.assert_close(StageLoss(stage, settings)(labels, image), expected)
    with_less = StageLoss(stage, replace(settings, cross_entropy=0.1))(labels, image)
    torch.testing.assert_close(with_less, expected - 0.9 * StageLoss(stage, PLAIN)(labels, image))


def test_class_weights_weigh_pixels_and_leave_the_weights_file():
    weights = (0.0, *[1.0] * (K - 1))
    loss = StageLoss(one_convolution(), replace(PLAIN, class_weights=weights))
    sky = torch.zeros(1, 6, 7, dtype=torch.int64)
    assert loss(sky, torch.rand(1, 3, 6, 7)) == 0
    assert "class_weights" not in loss.state_dict()


def test_a_constant_schedule_follows_its_phases():
    settings = replace(PLAIN, phases=((3, 1e-2), (2, 1e-3)))
    assert settings.epochs == 5
    rates = [settings.learning_rate(epoch) for epoch in (0, 2.99, 3, 4.99, 5)]
    assert rates == [1e-2, 1e-2, 1e-3, 1e-3, 1e-3]


def test_polynomial_decay_runs_over_all_phases():
    settings = replace(PLAIN, phases=((3, 1e-2), (1, 1e-3)), schedule="polynomial")
    rates = [settings.learning_rate(epoch) for epoch in (0, 2, 3, 4)]
    assert rates == pytest.approx([1e-2, 1e-2 * 0.5**0.9, 1e-3 * 0.25**0.9, 0])


def test_only_the_classifier_of_a_front_learns_faster():
    front = Front(TinyEncoder(), K)
    slow, fast = make_optimizer(front, replace(PLAIN, head_rate=3.0)).param_groups
    assert (slow["rate_factor"], fast["rate_factor"]) == (1.0, 3.0)
    assert {id(value) for value in fast["params"]} == {id(value) for value in front.head.parameters()}
    assert len(make_optimizer(tiny_lrn(), replace(PLAIN, head_rate=3.0)).param_groups) == 1


@pytest.mark.parametrize(("processes", "device", "shared"), [(2, "cuda", True), (1, "cuda", False), (2, "cpu", False)])
def test_batch_norm_sees_the_whole_batch_where_several_gpus_divide_it(processes: int, device: str, shared: bool):
    front = Front(deepcopy(encoder("lite0")), K)
    names = front.state_dict().keys()
    made = synchronized(front, processes, torch.device(device))
    assert made is front
    assert any(isinstance(layer, nn.SyncBatchNorm) for layer in made.modules()) == shared
    assert any(isinstance(layer, nn.BatchNorm2d) for layer in made.modules()) != shared
    assert made.state_dict().keys() == names
    freeze_batch_norm(made.train())
    assert not any(layer.training for layer in made.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm))
