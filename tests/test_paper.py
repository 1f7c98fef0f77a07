"""Section 3 of the paper, equation by equation, with the notes' corrections."""

import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from networks import TinyEncoder, along, extent, measurable, positive, random, random_logits, tiny_grn
from rectiseg.models.front import Front
from rectiseg.models.grn import GRN
from rectiseg.models.lrn import LRN, TABLE_1
from rectiseg.models.resnet import ResNet
from rectiseg.ops.propagate import propagate


def table_1(num_classes: int, m: int) -> list[tuple[int, tuple[int, int, int, int], int]]:
    """Channel, kernel size, bias size of each layer, as printed."""
    kernels = [
        (num_classes + 3, 256, 3, 3),
        (256, 256, 3, 3),
        (256, 256, 3, 3),
        (256, 512, 3, 3),
        (512, 512, 3, 3),
        (512, 512, 3, 3),
        (512, m * m, 3, 3),
    ]
    return [(kernel[1], kernel, kernel[1]) for kernel in kernels]


def layers_of(lrn: LRN) -> list[nn.Conv2d]:
    return [module for module in lrn.modules() if isinstance(module, nn.Conv2d)]


def without_memory(num_classes: int, neighborhood: int = 7) -> LRN:
    with torch.device("meta"):
        return LRN(num_classes, neighborhood)


@pytest.mark.parametrize("num_classes", [19, 150])
def test_table_1_is_lrns_layers(num_classes: int) -> None:
    layers = layers_of(without_memory(num_classes))
    for layer, (channel, (inputs, outputs, *kernel), bias) in zip(layers, table_1(num_classes, 7), strict=True):
        assert layer.out_channels == channel
        assert layer.weight.shape == (outputs, inputs, *kernel)
        assert layer.bias is not None
        assert layer.bias.shape == (bias,)
        assert layer.stride == (1, 1)


@pytest.mark.parametrize(("num_classes", "expected"), [(19, 7_356_721), (150, 7_658_545)])
def test_table_1_is_lrns_parameters_and_batch_norm_comes_on_top(num_classes: int, expected: int) -> None:
    of_the_table = sum(math.prod(kernel) + bias for _, kernel, bias in table_1(num_classes, 7))
    of_batch_norm = sum(2 * width for width in TABLE_1)
    assert of_the_table == expected
    assert of_batch_norm == 4608
    counted = sum(parameter.numel() for parameter in without_memory(num_classes).parameters())
    assert counted == of_the_table + of_batch_norm


def test_batch_norm_comes_right_after_each_convolution_but_the_last() -> None:
    kinds = [type(module) for module in without_memory(19).body]
    assert kinds == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU] * 6


def test_eq_1_grn_sees_rgb_and_the_softmax_of_the_running_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    grn = tiny_grn(num_classes=5, iterations=3)
    image, logits = random(2, 3, 11, 14), random_logits(2, 5, 11, 14)
    seen, coarse = [], grn.network.coarse

    def spy(evidence: Tensor) -> Tensor:
        seen.append(evidence)
        return coarse(evidence)

    monkeypatch.setattr(grn.network, "coarse", spy)
    with torch.inference_mode():
        _, first, _, second, _, _ = grn.supervised(image, logits)
    for evidence, confidences in zip(seen, (logits, first, second), strict=True):
        assert evidence[:, :3].equal(image)
        exponentials = confidences.exp()
        torch.testing.assert_close(evidence[:, 3:], exponentials / exponentials.sum(dim=1, keepdim=True))


def kernels(encoder: nn.Module, head_dilation: int = 3) -> Iterator[tuple[int, int, int]]:
    """Kernel size, stride and dilation of all layers on the longest way, with the 3x3 classifier."""
    for name, module in encoder.named_modules():
        if isinstance(module, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d) and "downsample" not in name:
            values = (module.kernel_size, module.stride, getattr(module, "dilation", 1))
            yield tuple(value[0] if isinstance(value, tuple) else value for value in values)  # pyright: ignore
    yield 3, 1, head_dilation


def receptive_field(encoder: nn.Module) -> int:
    """Eq. 2 mended: T_l = T_{l-1} + (k_l - 1) d_l prod_{i<l} s_i."""
    field, stride = 1, 1
    for kernel_size, own_stride, dilation in kernels(encoder):
        field += (kernel_size - 1) * dilation * stride
        stride *= own_stride
    return field


def receptive_field_as_printed(encoder: nn.Module) -> int:
    """Eq. 2: T_l = [T_{l-1} + (k_l - 1)] s_l."""
    field = 1
    for kernel_size, stride, _ in kernels(encoder):
        field = (field + kernel_size - 1) * stride
    return field


def test_eq_2_mended_is_the_measured_field_of_resnet_18() -> None:
    front = Front(measurable("resnet18", 8), num_classes=1).double()
    positive(front.head)
    for axis, shape in enumerate([(1024, 5), (5, 1024)]):
        image = torch.ones(1, 3, *shape, dtype=torch.float64, requires_grad=True)
        scores = front.coarse(image)
        middle = scores[0, 0, 64, 0] if axis == 0 else scores[0, 0, 0, 64]
        (gradient,) = torch.autograd.grad(middle, image)
        assert extent(along(axis, gradient)) == receptive_field(front.encoder) == 483  # pyright: ignore


@pytest.mark.parametrize(("uniform_dilation", "field"), [(True, 1067), (False, 1019)])
def test_eq_2_mended_for_resnet_101(uniform_dilation: bool, field: int) -> None:
    with torch.device("meta"):
        encoder = ResNet(101, output_stride=8, uniform_dilation=uniform_dilation)
    assert receptive_field(encoder) == field
    assert receptive_field_as_printed(encoder) == 140


def field_after(iterations: int, kernel_size: int, pixel: int) -> int:
    """Columns of the image that one column of a GRN's result depends on, measured."""
    encoder = TinyEncoder(kernel_size)
    grn = GRN(encoder, 2, iterations, full_backpropagation=True).double()
    for convolution in (encoder.stem, grn.network.head):
        positive(convolution)
    grn.network.head.weight.data[1] = 0  # one class gains on the other, else the softmax hides all
    encoder.stem.weight.data[:, 4] = 0
    image = torch.ones(1, 3, 3, 240, dtype=torch.float64, requires_grad=True)
    refined = grn(image, torch.zeros(1, 2, 3, 240, dtype=torch.float64))
    (gradient,) = torch.autograd.grad(refined[0, 0, 1, pixel], image)
    return extent(along(1, gradient))


@pytest.mark.parametrize("iterations", [1, 2, 3])
def test_eq_3_each_iteration_adds_a_whole_field(iterations: int) -> None:
    """From the centre of a cell, by a field whose ends are centres of cells: the deconvolution adds nothing."""
    field = receptive_field(TinyEncoder(kernel_size=17))
    assert field == 17 + 2 * 3 * 8
    assert field_after(iterations, kernel_size=17, pixel=120) == (field - 1) * iterations + 1


@pytest.mark.parametrize("iterations", [1, 2, 3])
def test_eq_3_the_deconvolution_adds_8_a_pass(iterations: int) -> None:
    """From between two cells, by a field whose ends are half way between cells."""
    field = receptive_field(TinyEncoder(kernel_size=9))
    assert field_after(iterations, kernel_size=9, pixel=124) == (field - 1 + 8) * iterations + 1


def lively_lrn(num_classes: int = 5, neighborhood: int = 3) -> LRN:
    torch.manual_seed(5)
    lrn = LRN(num_classes, neighborhood, widths=(6, 7)).eval()
    nn.init.normal_(lrn.head.weight, std=0.5)
    return lrn


def test_eq_4_the_coefficients_are_the_softmax_of_the_scores() -> None:
    lrn, image, logits = lively_lrn(), random(2, 3, 6, 7), random_logits(2, 5, 6, 7)
    with torch.inference_mode():
        scores = lrn.head(lrn.body(torch.cat([image, logits.softmax(dim=1)], dim=1)))
        coefficients = lrn.coefficients(image, logits)
    exponentials = scores.exp()
    expected = exponentials / exponentials.sum(dim=1, keepdim=True)
    torch.testing.assert_close(coefficients[..., 1:-1, 1:-1], expected[..., 1:-1, 1:-1])
    torch.testing.assert_close(coefficients.sum(dim=1), torch.ones(2, 6, 7))


def test_eq_4_the_neighbours_outside_the_image_share_no_weight() -> None:
    lrn, image, logits = lively_lrn(), random(1, 3, 6, 7), random_logits(1, 5, 6, 7)
    with torch.inference_mode():
        scores = lrn.head(lrn.body(torch.cat([image, logits.softmax(dim=1)], dim=1)))
        corner = lrn.coefficients(image, logits)[0, :, 0, 6]
    inside = [3, 4, 6, 7]  # of the 3 x 3 neighbours of the upper right corner: left, centre, below left, below
    torch.testing.assert_close(corner[inside], scores[0, inside, 0, 6].softmax(dim=0))
    assert corner.count_nonzero() == len(inside)


@pytest.mark.parametrize("m", [3, 5])
def test_eq_5_is_a_sum_over_the_neighbours_shared_by_all_classes(m: int) -> None:
    height, width, classes = 4, 3, 2
    logits = random_logits(1, classes, height, width, dtype=torch.float64)
    coefficients = random(1, m * m, height, width, dtype=torch.float64)
    expected = torch.zeros_like(logits)
    for y in range(height):
        for x in range(width):
            for p in range(m * m):
                neighbor_y, neighbor_x = y + p // m - m // 2, x + p % m - m // 2
                if 0 <= neighbor_y < height and 0 <= neighbor_x < width:
                    for k in range(classes):
                        expected[0, k, y, x] += coefficients[0, p, y, x] * logits[0, k, neighbor_y, neighbor_x]
    torch.testing.assert_close(propagate(logits, coefficients), expected)


@pytest.mark.parametrize("center_bias", [None, 1.0])
def test_eq_6_only_the_last_layers_centre_has_a_bias(center_bias: float | None) -> None:
    m = 7
    *others, last = layers_of(LRN(19, m, widths=(8,) * 6, center_bias=center_bias))
    expected = torch.zeros(m * m)
    expected[(m * m + 1) // 2 - 1] = math.log(9 * 48) if center_bias is None else center_bias
    assert last.bias is not None
    assert last.bias.equal(expected)
    for layer in others:
        assert layer.bias is not None
        assert not layer.bias.any()


def test_eq_6_sigma_is_a_thousandth_in_the_last_layer() -> None:
    torch.manual_seed(0)
    weight = LRN(19).head.weight
    assert weight.std().item() == pytest.approx(0.001, rel=0.01)
    assert weight.mean().item() == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize(("center_bias", "expected"), [(None, 0.9), (1.0, math.e / (math.e + 48))])
def test_eq_6_the_paper_s_bias_keeps_little_of_the_centre(center_bias: float | None, expected: float) -> None:
    """In the limit of small kernels; e / (e + 48) is 0.054."""
    lrn = LRN(5, 7, widths=(4, 4), center_bias=center_bias).eval()
    nn.init.zeros_(lrn.head.weight)
    with torch.inference_mode():
        coefficients = lrn.coefficients(random(1, 3, 9, 8), random_logits(1, 5, 9, 8))
    assert coefficients[0, 24, 4, 4].item() == pytest.approx(expected)
