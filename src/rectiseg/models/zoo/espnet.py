"""ESPNet (Mehta et al., "ESPNet: Efficient Spatial Pyramid of Dilated Convolutions", ECCV 2018) at p = 2, q = 8.

Parameter names are those of its published weights. These were trained on BGR and have one more output, the last, for
pixels that nobody annotated.
"""

from collections import OrderedDict
from itertools import accumulate
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rectiseg.models.encoder import load_encoder_weights, read_weights
from rectiseg.models.front import per_band
from rectiseg.types import Image, Logits

PerBand = tuple[float, float, float]
"""Blue, green, red in 0..255."""


class ESPNet(nn.Module):
    """ESPNet-C and its light decoder: a parser.

    Any height and width works: the image is continued to the next multiple of 8 and the result cut. The last step of
    the decoder sees level 1, with ``image_in_decoder`` together with the image at half its size: the published networks
    differ in this. Fewer than four classes raise ValueError.
    """

    def __init__(self, num_classes: int, mean: PerBand, std: PerBand, image_in_decoder: bool):
        super().__init__()
        if num_classes < 4:
            raise ValueError(f"an ESP module splits the classes and one more in five: four or more, not {num_classes}")
        self.num_classes = num_classes
        self.mean = tuple(mean)
        self.std = tuple(std)
        self.image_in_decoder = image_in_decoder
        self.offset: Tensor
        self.scale: Tensor
        self.register_buffer("offset", per_band(mean) / 255, persistent=False)
        self.register_buffer("scale", per_band(std), persistent=False)
        outputs = num_classes + 1
        self.encoder = ESPNetC(outputs)
        self.br = batch_norm(outputs)
        self.up_l3 = nn.Sequential(doubling(outputs))
        self.level3_C = nn.Sequential(OrderedDict(conv=convolution(131, outputs, 1)))
        self.combine_l2_l3 = nn.Sequential(activation(2 * outputs), ESP(2 * outputs, outputs))
        self.up_l2 = nn.Sequential(doubling(outputs), activation(outputs))
        self.conv = activated_convolution(outputs + (16 + 3 if image_in_decoder else 16), outputs)
        self.classifier = doubling(outputs)

    @classmethod
    def camvid(cls) -> "ESPNet":
        """The architecture of the published CamVid weights; mean and std, which are not published, are estimates."""
        return cls(11, (110.9, 109.7, 106.9), (72.2, 72.8, 70.1), image_in_decoder=True)

    @classmethod
    def cityscapes(cls) -> "ESPNet":
        """The architecture of the published Cityscapes weights, which know its images at half their size."""
        return cls(19, (72.39, 82.91, 73.16), (45.32, 46.15, 44.91), image_in_decoder=False)

    def forward(self, image: Image) -> Logits:
        height, width = image.shape[-2:]
        padded = F.pad(image, (0, -width % 8, 0, -height % 8), mode="replicate")
        # As published, (255 x - mean) / std / 255, with x in [0, 1].
        level1, level1_and_image, level2, level3 = self.encoder((padded.flip(1) - self.offset) / self.scale)
        detail = level1_and_image if self.image_in_decoder else level1
        scores = self.up_l3(self.br(level3))
        scores = self.up_l2(self.combine_l2_l3(torch.cat([self.level3_C(level2), scores], dim=1)))
        scores = self.classifier(self.conv(torch.cat([scores, detail], dim=1)))
        return scores[:, : self.num_classes, :height, :width]


class ESPNetC(nn.Module):
    """The encoder. What a level gives on is joined to the image at that size, and to what entered its ESP modules."""

    def __init__(self, outputs: int):
        super().__init__()
        self.level1 = activated_convolution(3, 16, stride=2)
        self.b1 = activation(16 + 3)
        self.level2_0 = Downsampling(16 + 3, 64)
        self.level2 = nn.Sequential(*[ESP(64, 64) for _ in range(2)])
        self.b2 = activation(64 + 64 + 3)
        self.level3_0 = Downsampling(64 + 64 + 3, 128)
        self.level3 = nn.Sequential(*[ESP(128, 128) for _ in range(8)])
        self.b3 = activation(128 + 128)
        self.classifier = nn.Sequential(OrderedDict(conv=convolution(128 + 128, outputs, 1)))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Features of 16 and 19 channels at half the image's size, of 131 at a quarter; class scores at an eighth."""
        half = F.avg_pool2d(image, 3, stride=2, padding=1)
        quarter = F.avg_pool2d(half, 3, stride=2, padding=1)
        level1 = self.level1(image)
        level1_and_image = self.b1(torch.cat([level1, half], dim=1))
        entry2 = self.level2_0(level1_and_image)
        level2 = self.b2(torch.cat([self.level2(entry2), entry2, quarter], dim=1))
        entry3 = self.level3_0(level2)
        level3 = self.b3(torch.cat([entry3, self.level3(entry3)], dim=1))
        return level1, level1_and_image, level2, self.classifier(level3)


class SpatialPyramid(nn.Module):
    """Section 3.1: reduce to a fifth of the channels, split into five dilations, fuse hierarchically, concatenate."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int):
        super().__init__()
        width = out_channels // 5

        def dilated(dilation: int, channels: int = width) -> nn.Sequential:
            return nn.Sequential(OrderedDict(conv=convolution(width, channels, 3, dilation=dilation)))

        self.c1 = nn.Sequential(OrderedDict(conv=convolution(in_channels, width, kernel_size, stride)))
        self.d1 = dilated(1, out_channels - 4 * width)  # what five do not divide goes to the undilated branch
        self.d2, self.d4, self.d8, self.d16 = dilated(2), dilated(4), dilated(8), dilated(16)

    def pyramid(self, features: Tensor) -> Tensor:
        reduced = self.c1(features)
        # Hierarchical feature fusion, against the grid that a large dilation shows. The undilated branch stays out of
        # the sums: in the published weights it has more channels than the others.
        fused = accumulate(branch(reduced) for branch in (self.d2, self.d4, self.d8, self.d16))
        return torch.cat([self.d1(reduced), *fused], dim=1)


class ESP(SpatialPyramid):
    """An ESP module; its input is added where the channels allow."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__(in_channels, out_channels, kernel_size=1, stride=1)
        self.adds_input = in_channels == out_channels
        self.bn = activation(out_channels)

    def forward(self, features: Tensor) -> Tensor:
        merged = self.pyramid(features)
        return self.bn(features + merged if self.adds_input else merged)


class Downsampling(SpatialPyramid):
    """A strided ESP module, which halves height and width."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__(in_channels, out_channels, kernel_size=3, stride=2)
        self.bn = batch_norm(out_channels)
        self.act = nn.PReLU(out_channels)

    def forward(self, features: Tensor) -> Tensor:
        return self.act(self.bn(self.pyramid(features)))


def convolution(
    in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, dilation: int = 1, groups: int = 1
) -> nn.Conv2d:
    """Without a bias; height and width stay, or are divided by the stride."""
    padding = dilation * (kernel_size // 2)
    return nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias=False)


def activated_convolution(in_channels: int, out_channels: int, stride: int = 1) -> nn.Sequential:
    convolved = convolution(in_channels, out_channels, 3, stride)
    return nn.Sequential(OrderedDict(conv=convolved, bn=batch_norm(out_channels), act=nn.PReLU(out_channels)))


def activation(channels: int) -> nn.Sequential:
    return nn.Sequential(OrderedDict(bn=batch_norm(channels), act=nn.PReLU(channels)))


def batch_norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3)


def doubling(channels: int) -> nn.ConvTranspose2d:
    """Learned upsampling to twice the height and width."""
    return nn.ConvTranspose2d(channels, channels, 2, stride=2, bias=False)


def load_espnet(path: str | Path) -> ESPNet:
    """ESPNet with its published weights, in eval mode: for Cityscapes' 19 classes or CamVid's 11, as the file has it.

    A file that is missing, damaged or does not fit raises ValueError.
    """
    outputs = read_weights(path).get("classifier.weight", torch.empty(0)).shape[:1]
    network = ESPNet.cityscapes() if outputs == (20,) else ESPNet.camvid()
    load_encoder_weights(network, path, classifier=())
    return network.eval()
