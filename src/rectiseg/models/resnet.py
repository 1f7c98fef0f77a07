"""ResNet-18 to -200 (He et al., "Deep Residual Learning for Image Recognition", 2016) as section 3.3 dilates them.

Parameter names and layout are torchvision's (a bottleneck's stride is in its 3x3 convolution, "v1.5"), so that its
ImageNet weights load with ``load_encoder_weights``. ResNet-200, which torchvision lacks, is timm's.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from rectiseg.models.encoder import Features, Normalized
from rectiseg.ops.convolution import laid_out, normalized


class BasicBlock(nn.Module):
    """He et al., figure 5, left: two 3x3 convolutions beside the shortcut."""

    expansion = 1

    def __init__(self, in_channels: int, width: int, stride: int, dilations: tuple[int, int]):
        super().__init__()
        self.conv1 = convolution3x3(in_channels, width, stride, dilations[0])
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = convolution3x3(width, width, 1, dilations[1])
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = shortcut(in_channels, width, stride)

    def forward(self, features: Tensor) -> Tensor:
        residual = F.relu(normalized(features, self.conv1, self.bn1), inplace=True)
        residual = normalized(residual, self.conv2, self.bn2)
        return F.relu(residual + self.downsample(features), inplace=True)


class Bottleneck(nn.Module):
    """He et al., figure 5, right: one 3x3 convolution on a quarter of the channels, beside the shortcut."""

    expansion = 4

    def __init__(self, in_channels: int, width: int, stride: int, dilations: tuple[int, int]):
        super().__init__()
        out_channels = width * self.expansion
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = convolution3x3(width, width, stride, dilations[0])
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.downsample = shortcut(in_channels, out_channels, stride)

    def forward(self, features: Tensor) -> Tensor:
        residual = F.relu(normalized(features, self.conv1, self.bn1), inplace=True)
        residual = F.relu(normalized(residual, self.conv2, self.bn2), inplace=True)
        residual = normalized(residual, self.conv3, self.bn3)
        return F.relu(residual + self.downsample(features), inplace=True)


BLOCKS = {
    18: (BasicBlock, (2, 2, 2, 2)),
    34: (BasicBlock, (3, 4, 6, 3)),
    50: (Bottleneck, (3, 4, 6, 3)),
    101: (Bottleneck, (3, 4, 23, 3)),
    152: (Bottleneck, (3, 8, 36, 3)),
    200: (Bottleneck, (3, 24, 36, 3)),
}
"""He et al., table 1: the kind of block and its repeats in layer1 to layer4, by depth."""

DILATIONS = {8: (2, 4), 16: (1, 2), 32: (1, 1)}
"""Of layer3 and layer4, by output stride: a stage whose stride is removed dilates in its place."""


class ResNet(nn.Module):
    """A residual network (He et al., CVPR 2016) without its pooling and classifier; depths 18, 34, 50, 101, 152, 200.

    The first 3x3 convolution of a dilated stage keeps the dilation before it, as in torchvision: in the original
    network it saw the finer grid. ``uniform_dilation`` gives it the stage's. Another depth, or an output stride other
    than 8, 16 and 32, raises ValueError.
    """

    MEAN = (0.485, 0.456, 0.406)
    STD = (0.229, 0.224, 0.225)

    def __init__(self, depth: int = 101, output_stride: int = 8, in_channels: int = 3, uniform_dilation: bool = False):
        super().__init__()
        if depth not in BLOCKS:
            raise ValueError(f"there is no ResNet-{depth}: choose a depth of {', '.join(map(str, BLOCKS))}")
        if output_stride not in DILATIONS:
            raise ValueError(f"output stride {output_stride} is not supported: choose 8, 16 or 32")
        block, repeats = BLOCKS[depth]
        dilation3, dilation4 = DILATIONS[output_stride]
        first3, first4 = (dilation3, dilation4) if uniform_dilation else (1, dilation3)

        self.depth = depth
        self.output_stride = output_stride
        self.in_channels = in_channels
        self.uniform_dilation = uniform_dilation
        self.out_channels = 512 * block.expansion
        self.center = 0.0  # every strided kernel is odd and padded by its half
        self.conv1 = nn.Conv2d(in_channels, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = stage(block, repeats[0], 64, 64, stride=1)
        self.layer2 = stage(block, repeats[1], 64 * block.expansion, 128, stride=2)
        self.layer3 = stage(
            block,
            repeats[2],
            128 * block.expansion,
            256,
            stride=2 if dilation3 == 1 else 1,
            first_dilation=first3,
            dilation=dilation3,
        )
        self.layer4 = stage(
            block,
            repeats[3],
            256 * block.expansion,
            512,
            stride=2 if dilation4 == 1 else 1,
            first_dilation=first4,
            dilation=dilation4,
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):  # He et al., "Delving Deep into Rectifiers", 2015
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    @property
    def first_convolution(self) -> nn.Conv2d:
        return self.conv1

    @property
    def blocks(self) -> nn.Sequential:
        return nn.Sequential(*self.layer1, *self.layer2, *self.layer3, *self.layer4)

    def forward(self, image: Normalized) -> Features:
        features = self.maxpool(F.relu(normalized(laid_out(image), self.conv1, self.bn1), inplace=True))
        return self.layer4(self.layer3(self.layer2(self.layer1(features))))


def stage(
    block: type[BasicBlock] | type[Bottleneck],
    repeats: int,
    in_channels: int,
    width: int,
    stride: int,
    first_dilation: int = 1,
    dilation: int = 1,
) -> nn.Sequential:
    """Blocks of one resolution; the first one strides."""
    first = block(in_channels, width, stride, (first_dilation, dilation))
    others = [block(width * block.expansion, width, 1, (dilation, dilation)) for _ in range(repeats - 1)]
    return nn.Sequential(first, *others)


def shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    """He et al., option B: the identity, or a projection where the shape changes."""
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False), nn.BatchNorm2d(out_channels)
    )


def convolution3x3(in_channels: int, out_channels: int, stride: int, dilation: int) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=dilation, dilation=dilation, bias=False)
