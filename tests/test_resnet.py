"""The dilated ResNets: torchvision's parameters, timm's features, and weights from a file."""

import pytest
import torch
from torch import Tensor, nn

from networks import randomized
from oracles import import_timm
from rectiseg.models.encoder import Encoder
from rectiseg.models.resnet import ResNet

PARAMETERS_WITH_CLASSIFIER = {  # as torchvision's documentation has them; 200 as timm's
    18: 11_689_512,
    34: 21_797_672,
    50: 25_557_032,
    101: 44_549_160,
    152: 60_192_808,
    200: 64_673_832,
}


def without_memory(depth: int, output_stride: int = 8, uniform_dilation: bool = False) -> ResNet:
    with torch.device("meta"):
        return ResNet(depth, output_stride, uniform_dilation=uniform_dilation)


def random_image(height: int, width: int, channels: int = 3) -> Tensor:
    return torch.randn(2, channels, height, width, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("depth", PARAMETERS_WITH_CLASSIFIER)
def test_every_depth_has_the_published_number_of_parameters(depth: int) -> None:
    encoder = without_memory(depth)
    classifier = (encoder.out_channels + 1) * 1000
    assert (
        sum(parameter.numel() for parameter in encoder.parameters()) + classifier == PARAMETERS_WITH_CLASSIFIER[depth]
    )


@pytest.mark.parametrize("depth", PARAMETERS_WITH_CLASSIFIER)
def test_parameters_have_the_names_and_shapes_of_timm(depth: int) -> None:
    timm = import_timm()
    with torch.device("meta"):
        theirs = timm.create_model(f"resnet{depth}").state_dict()
    ours = without_memory(depth).state_dict()
    assert {key: value.shape for key, value in ours.items()} == {
        key: value.shape for key, value in theirs.items() if not key.startswith("fc.")
    }


@pytest.mark.parametrize("output_stride", [8, 16, 32])
@pytest.mark.parametrize("depth", [18, 50])
def test_features_equal_those_of_timm(depth: int, output_stride: int) -> None:
    timm = import_timm()
    ours = randomized(ResNet(depth, output_stride))
    theirs = timm.create_model(f"resnet{depth}", output_stride=output_stride).double().eval()
    theirs.load_state_dict(ours.state_dict(), strict=False)
    image = random_image(43, 58)
    with torch.inference_mode():
        torch.testing.assert_close(ours(image), theirs.forward_features(image))


@pytest.mark.parametrize("output_stride", [8, 16, 32])
def test_the_features_are_smaller_by_the_output_stride(output_stride: int) -> None:
    encoder: Encoder = ResNet(18, output_stride, in_channels=5).eval()
    features = encoder(torch.zeros(1, 5, 3 * output_stride, 2 * output_stride))
    assert features.shape == (1, encoder.out_channels, 3, 2)
    assert encoder.output_stride == output_stride


@pytest.mark.parametrize("output_stride", [8, 32])
def test_cell_i_is_centred_at_pixel_output_stride_times_i(output_stride: int) -> None:
    """A mirrored network sees in a mirrored image the mirrored features, if the outer pixels are cells' centres."""
    encoder = randomized(ResNet(18, output_stride))
    image = random_image(2 * output_stride + 1, 3 * output_stride + 1)
    with torch.inference_mode():
        features = encoder(image)
        for module in encoder.modules():
            if isinstance(module, nn.Conv2d):
                module.weight.copy_(module.weight.flip(2, 3))
        torch.testing.assert_close(encoder(image.flip(2, 3)).flip(2, 3), features)
    assert ResNet(18, output_stride).center == 0.0


def receptive_field(encoder: ResNet) -> int:
    """Eq. 2 with its stride mended (notes' errata): T_l = T_(l-1) + (k_l - 1) d_l prod of s_i, i < l."""
    field, stride = 1, 1
    for name, module in encoder.named_modules():
        if isinstance(module, nn.Conv2d | nn.MaxPool2d) and "downsample" not in name:
            kernel_size, dilation, own_stride = (
                value[0] if isinstance(value, tuple) else value
                for value in (module.kernel_size, module.dilation, module.stride)
            )
            field += (kernel_size - 1) * dilation * stride
            stride *= own_stride
    return field


@pytest.mark.parametrize(("uniform_dilation", "expected"), [(False, 1019), (True, 1067)])
def test_uniform_dilation_widens_the_receptive_field(uniform_dilation: bool, expected: int) -> None:
    head = (3 - 1) * 3 * 8  # the paper's 3x3 classifier with dilation 3
    assert receptive_field(without_memory(101, uniform_dilation=uniform_dilation)) + head == expected


def test_uniform_dilation_changes_no_parameter() -> None:
    assert without_memory(50).state_dict().keys() == without_memory(50, uniform_dilation=True).state_dict().keys()


def test_the_first_convolution_can_be_widened_in_place() -> None:
    encoder = randomized(ResNet(18))
    image = random_image(16, 24, channels=5)
    with torch.inference_mode():
        features = encoder(image[:, :3])
    convolution = encoder.first_convolution
    convolution.weight = nn.Parameter(nn.functional.pad(convolution.weight.detach(), (0, 0, 0, 0, 0, 2)))
    convolution.in_channels = 5
    with torch.inference_mode():
        torch.testing.assert_close(encoder(image), features)


@pytest.mark.parametrize("uniform_dilation", [False, True])
def test_every_parameter_gets_a_gradient(uniform_dilation: bool) -> None:
    encoder = ResNet(18, uniform_dilation=uniform_dilation)
    encoder(torch.randn(2, 3, 24, 16)).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in encoder.parameters())


def test_an_unknown_depth_or_output_stride_is_refused() -> None:
    with pytest.raises(ValueError, match="ResNet-19: choose a depth of 18, 34, 50, 101, 152, 200"):
        ResNet(19)
    with pytest.raises(ValueError, match="output stride 4 is not supported: choose 8, 16 or 32"):
        ResNet(18, output_stride=4)
