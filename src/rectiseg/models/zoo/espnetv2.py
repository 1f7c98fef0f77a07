"""ESPNetv2 (Mehta et al., "ESPNetv2: A light-weight, power efficient, and general purpose convolutional neural
network", CVPR 2019) at s = 2.0, with the decoder of its published Cityscapes weights.

The decoder follows the authors' later code, which the paper does not describe; parameter names are those of the
weights. These know Cityscapes' images at half their size, and have one more output, the last, for pixels that nobody
annotated.
"""

from collections import OrderedDict
from collections.abc import Iterator
from itertools import accumulate
from math import ceil, gcd
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rectiseg.models.encoder import load_encoder_weights
from rectiseg.models.front import per_band
from rectiseg.models.zoo.espnet import convolution
from rectiseg.types import Image, Logits

BRANCHES = 4  # K of the paper
SCALES = (2.0, 1.5, 1.0, 0.5, 0.1)
SMALLEST = 5
"""Rows and columns that a scale of the decoder's pyramids has at least."""
SCALE_CHANNELS = 10


class ESPNetv2(nn.Module):
    """The encoder down to a sixteenth of the image's height and width, and a decoder back up from there: a parser.

    Any height and width works: the image is continued to the next multiple of 16 and the result cut. Whoever calls it
    resizes: `MultiScale(parser, scales=(0.5,), flip=False)` shows Cityscapes as the published weights know it.
    """

    MEAN = (0.485, 0.456, 0.406)
    STD = (0.229, 0.224, 0.225)
    """ImageNet's: with the published weights the best of five normalisations on Cityscapes' training images."""

    def __init__(self, num_classes: int):
        super().__init__()
        self.num_classes = num_classes
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", per_band(self.MEAN), persistent=False)
        self.register_buffer("std", per_band(self.STD), persistent=False)
        self.base_net = Encoder()
        self.bu_dec_l1 = EfficientPyramid(512, 64)
        self.merge_enc_dec_l2 = GatedProjection(256, 64)
        self.bu_br_l2 = activation(64)
        self.bu_dec_l2 = EfficientPyramid(64, 48)
        self.merge_enc_dec_l3 = GatedProjection(128, 48)
        self.bu_br_l3 = activation(48)
        self.bu_dec_l3 = EfficientPyramid(48, 32)
        self.merge_enc_dec_l4 = GatedProjection(32, 32)
        self.bu_br_l4 = activation(32)
        self.bu_dec_l4 = EfficientPyramid(32, num_classes + 1, classifies=True)

    def forward(self, image: Image) -> Logits:
        height, width = image.shape[-2:]
        padded = F.pad(image, (0, -width % 16, 0, -height % 16), mode="replicate")
        level1, level2, level3, level4 = self.base_net((padded - self.mean) / self.std)
        decoded = doubled(self.bu_dec_l1(level4)) + self.merge_enc_dec_l2(level3)
        decoded = doubled(self.bu_dec_l2(self.bu_br_l2(decoded))) + self.merge_enc_dec_l3(level2)
        decoded = doubled(self.bu_dec_l3(self.bu_br_l3(decoded))) + self.merge_enc_dec_l4(level1)
        scores = doubled(self.bu_dec_l4(self.bu_br_l4(decoded)))
        return scores[:, : self.num_classes, :height, :width]


class Encoder(nn.Module):
    """The network for ImageNet without its last level."""

    def __init__(self):
        super().__init__()
        self.level1 = activated(convolution(3, 32, 3, stride=2))
        self.level2_0 = Downsampling(32, 128)
        self.level3_0 = Downsampling(128, 256)
        self.level3 = nn.Sequential(*[EESP(256, 256, (1, 2, 3, 4)) for _ in range(3)])
        self.level4_0 = Downsampling(256, 512)
        # Here dilation 4 sees farther than the paper lets this level see, and falls back to 1.
        self.level4 = nn.Sequential(*[EESP(512, 512, (1, 1, 2, 3)) for _ in range(7)])

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Features of 32, 128, 256 and 512 channels at a half, quarter, eighth and sixteenth of the image's size."""
        quarter = halved(halved(image))
        eighth = halved(quarter)
        level1 = self.level1(image)
        level2 = self.level2_0(level1, quarter)
        level3 = self.level3(self.level3_0(level2, eighth))
        return level1, level2, level3, self.level4(self.level4_0(level3, halved(eighth)))


class EESP(nn.Module):
    """Reduce, split into depth-wise dilated convolutions, fuse hierarchically, merge; its input is added."""

    def __init__(self, in_channels: int, out_channels: int, dilations: tuple[int, ...], stride: int = 1):
        super().__init__()
        width = out_channels // BRANCHES
        self.proj_1x1 = activated(convolution(in_channels, width, 1, groups=BRANCHES))
        self.spp_dw = nn.ModuleList(
            nn.Sequential(OrderedDict(conv=convolution(width, width, 3, stride, dilation, groups=width)))
            for dilation in dilations
        )
        self.br_after_cat = nn.Sequential(OrderedDict(bn=nn.BatchNorm2d(out_channels), act=nn.PReLU(out_channels)))
        self.conv_1x1_exp = normalized(convolution(out_channels, out_channels, 1, groups=BRANCHES))
        self.module_act = nn.PReLU(out_channels)

    def pyramid(self, features: Tensor) -> Tensor:
        reduced = self.proj_1x1(features)
        fused = accumulate(branch(reduced) for branch in self.spp_dw)  # against the grid that a dilation shows
        return self.conv_1x1_exp(self.br_after_cat(torch.cat(list(fused), dim=1)))

    def forward(self, features: Tensor) -> Tensor:
        return self.module_act(features + self.pyramid(features))


class Downsampling(nn.Module):
    """The strided EESP unit beside average pooling, with a shortcut from the image; height and width are halved.

    ``eesp.module_act`` is in the weights and never used.
    """

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.eesp = EESP(in_channels, out_channels - in_channels, (1, 2, 3, 4), stride=2)
        self.inp_reinf = nn.Sequential(activated(convolution(3, 3, 3)), normalized(convolution(3, out_channels, 1)))
        self.act = nn.PReLU(out_channels)

    def forward(self, features: Tensor, image: Tensor) -> Tensor:
        """``image`` has the size of the result."""
        merged = torch.cat([halved(features), self.eesp.pyramid(features)], dim=1)
        return self.act(merged + self.inp_reinf(image))


class EfficientPyramid(nn.Module):
    """The decoder's module: a depth-wise convolution at each scale, and what they see merged."""

    def __init__(self, in_channels: int, out_channels: int, classifies: bool = False):
        super().__init__()
        joined = len(SCALES) * SCALE_CHANNELS
        self.projection_layer = decoder_convolution(in_channels, SCALE_CHANNELS, 1)
        self.stages = nn.ModuleList(
            convolution(SCALE_CHANNELS, SCALE_CHANNELS, 3, groups=SCALE_CHANNELS) for _ in SCALES
        )
        self.merge_layer = nn.Sequential(
            nn.Sequential(OrderedDict(br=activation(joined))),
            nn.ChannelShuffle(len(SCALES)),  # a group of the next convolution is one channel at every scale
            decoder_convolution(joined, SCALE_CHANNELS, 3, groups=SCALE_CHANNELS),
            nn.Conv2d(SCALE_CHANNELS, out_channels, 1, bias=classifies),
        )
        self.br = nn.Identity() if classifies else nn.Sequential(OrderedDict(br=activation(out_channels)))

    def forward(self, features: Tensor) -> Tensor:
        reduced = self.projection_layer(features)
        return self.br(self.merge_layer(torch.cat(list(self.views(reduced)), dim=1)))

    def views(self, features: Tensor) -> Iterator[Tensor]:
        """What each scale sees, at the size of the features."""
        height, width = features.shape[-2:]
        for scale, stage in zip(SCALES, self.stages, strict=True):
            rows, columns = (max(SMALLEST, ceil(scale * side)) for side in (height, width))
            if scale > 1:
                seen = stage(stretched(features, rows, columns))
                yield F.adaptive_avg_pool2d(seen, (height, width))
            elif scale < 1:
                seen = stage(F.adaptive_avg_pool2d(features, (rows, columns)))
                yield stretched(seen, height, width)
            else:
                yield stage(features)


class GatedProjection(nn.Module):
    """What the encoder gives to the decoder: projected, and each channel weighed by the whole image."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.wt_layer = nn.Sequential(nn.AdaptiveAvgPool2d(1), convolution(in_channels, out_channels, 1), nn.Sigmoid())
        groups = gcd(in_channels, out_channels)
        self.expansion_layer = decoder_convolution(in_channels, out_channels, 3, groups)

    def forward(self, features: Tensor) -> Tensor:
        return self.expansion_layer(features) * self.wt_layer(features)


def normalized(convolved: nn.Conv2d) -> nn.Sequential:
    return nn.Sequential(OrderedDict(conv=convolved, bn=nn.BatchNorm2d(convolved.out_channels)))


def activated(convolved: nn.Conv2d) -> nn.Sequential:
    channels = convolved.out_channels
    return nn.Sequential(OrderedDict(conv=convolved, bn=nn.BatchNorm2d(channels), act=nn.PReLU(channels)))


def activation(channels: int) -> nn.Sequential:
    return nn.Sequential(nn.BatchNorm2d(channels), nn.PReLU(channels))


def decoder_convolution(in_channels: int, out_channels: int, kernel_size: int, groups: int = 1) -> nn.Sequential:
    """The same as `activated`, under the decoder's names."""
    convolved = convolution(in_channels, out_channels, kernel_size, groups=groups)
    return nn.Sequential(OrderedDict(cbr=nn.Sequential(convolved, *activation(out_channels))))


def halved(maps: Tensor) -> Tensor:
    return F.avg_pool2d(maps, 3, stride=2, padding=1)


def doubled(maps: Tensor) -> Tensor:
    height, width = maps.shape[-2:]
    return stretched(maps, 2 * height, 2 * width)


def stretched(maps: Tensor, height: int, width: int) -> Tensor:
    """Bilinear, corners on corners."""
    return F.interpolate(maps, (height, width), mode="bilinear", align_corners=True)


def load_espnetv2(path: str | Path) -> ESPNetv2:
    """ESPNetv2 with its published weights for Cityscapes' 19 classes, in eval mode.

    A file that is missing, damaged or does not fit raises ValueError.
    """
    network = ESPNetv2(19)
    load_encoder_weights(network, path, classifier=())
    return network.eval()
