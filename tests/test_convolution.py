"""Convolution and batch norm as one, against both after each other; the largest of many maps."""

import pytest
import torch
from torch import Tensor, nn

from networks import random_logits
from rectiseg.models.efficientnet_lite import DepthwiseConv2d, SameConv2d
from rectiseg.ops.convolution import laid_out, normalized
from rectiseg.ops.likeliest import likeliest

CONVOLUTIONS = {
    "biased": lambda: nn.Conv2d(4, 6, 3, padding=1),
    "strided": lambda: SameConv2d(4, 6, 3, stride=2, bias=False),
    "depthwise": lambda: DepthwiseConv2d(4, 5, 1, 2),
    "in phases": lambda: DepthwiseConv2d(4, 5, 1, 4),
}


def trained_norm(channels: int) -> nn.BatchNorm2d:
    """As if it had learned."""
    norm = nn.BatchNorm2d(channels, eps=1e-3)
    for tensor in (norm.weight.data, norm.bias.data, norm.running_mean, norm.running_var):
        assert tensor is not None
        tensor.uniform_(0.3, 2)
    return norm


def after_each_other(features: Tensor, convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> Tensor:
    """By torch's own operators, in double precision."""
    with torch.enable_grad():
        return norm.double()(convolution.double()(features.double())).detach()


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_it_is_the_batch_norm_of_the_convolution(name: str, last: bool):
    torch.manual_seed(0)
    convolution = CONVOLUTIONS[name]()
    norm = trained_norm(convolution.out_channels).eval()
    features = random_logits(2, 4, 13, 10)
    with torch.no_grad():
        result = normalized(laid_out(features) if last else features, convolution, norm)
    assert result.stride(1 if last else 3) == 1
    torch.testing.assert_close(result.double(), after_each_other(features, convolution, norm), rtol=1e-5, atol=1e-5)


def test_what_learns_learns_both():
    convolution, norm = nn.Conv2d(4, 6, 3), trained_norm(6)
    before = norm.running_mean.clone()
    normalized(random_logits(2, 4, 9, 8), convolution, norm).square().sum().backward()
    assert all(parameter.grad is not None for module in (convolution, norm) for parameter in module.parameters())
    with torch.no_grad():
        normalized(random_logits(2, 4, 9, 8), convolution, norm)  # the statistics are gathered without gradients, too
    assert norm.num_batches_tracked == 2
    assert not torch.equal(norm.running_mean, before)


def test_the_layout_is_left_alone_where_something_is_learned():
    assert laid_out(random_logits(1, 4, 6, 5)).is_contiguous()


def test_the_likeliest_is_the_first_of_equals():
    maps = random_logits(2, 5, 7, 6).round()
    assert torch.equal(likeliest(maps), maps.argmax(dim=1))
    assert torch.equal(likeliest(maps[0], dim=0), maps[0].argmax(dim=0))
    assert likeliest(torch.zeros(1, 3, 1, 1)).item() == 0
