"""The encoder of the light GRN: where its cells lie, how far they see, and what they cost."""

from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from networks import SIZES, random, random_logits
from rectiseg.models.checkpoint import load, save
from rectiseg.models.efficientnet_lite import EfficientNetLite
from rectiseg.models.front import Front
from rectiseg.models.grn import GRN
from rectiseg.models.light_encoder import LightEncoder


def multiply_adds(network: torch.nn.Module, *inputs: torch.Tensor) -> int:
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        network.eval()(*inputs)
    return counter.get_total_flops() // 2


def test_an_iteration_takes_less_than_a_quarter_of_the_front_s_work():
    image, logits = random(1, 3, 96, 128), random_logits(1, 11, 96, 128)
    front = multiply_adds(Front(EfficientNetLite(0), 11), image)
    assert multiply_adds(GRN.light(11), image, logits) < front / 4


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_untrained_it_returns_its_input_at_any_size(height: int, width: int):
    logits = random_logits(1, 5, height, width)
    with torch.inference_mode():
        assert GRN.light(5).eval()(random(1, 3, height, width), logits).equal(logits)


def test_a_cell_stands_for_the_pixels_around_its_center():
    encoder = LightEncoder()
    image = random(1, 3, 48, 48).requires_grad_()
    encoder.conv_stem(image)[0, :, 5, 7].sum().backward()
    assert image.grad is not None
    touched = image.grad[0].abs().sum(dim=0).nonzero().float().mean(dim=0)
    assert touched.tolist() == [encoder.output_stride * cell + encoder.center for cell in (5, 7)]


def test_it_sees_as_far_as_its_dilations_say():
    encoder = LightEncoder(width=8, dilations=(1, 2, 4)).eval().double()
    image = random(1, 3, 80, 80).double().requires_grad_()
    encoder(image)[0, :, 10, 10].sum().backward()
    assert image.grad is not None
    places = image.grad[0].abs().sum(dim=0).nonzero()
    cells = (1 + 2 + 4) * 2 + 1
    assert (places.max(dim=0).values - places.min(dim=0).values + 1).tolist() == [4 * cells, 4 * cells]


def test_it_is_saved_and_loaded(tmp_path: Path):
    grn = GRN.light(4, iterations=2).eval()
    torch.nn.init.normal_(grn.network.head.weight)
    save(grn, tmp_path / "grn.safetensors")
    loaded = load(tmp_path / "grn.safetensors")
    assert isinstance(loaded, GRN)
    assert isinstance(loaded.encoder, LightEncoder)
    inputs = random(1, 3, 9, 14), random_logits(1, 4, 9, 14)
    with torch.inference_mode():
        assert loaded(*inputs).equal(grn(*inputs))
