"""A small encoder for GRN, which learns without ImageNet: a quarter of the resolution, and far apart neighbours."""

from torch import nn

from rectiseg.models.efficientnet_lite import EfficientNetLite, InvertedResidual, relu6
from rectiseg.models.encoder import Features, Normalized
from rectiseg.ops.convolution import laid_out, normalized

STRIDE = 4


class LightEncoder(nn.Module):
    """Cells of 4x4 pixels, then MobileNetV2's blocks, one for each dilation: a cell sees 93x93 of them by default.

    It is made for confidences: what they say already need not be found out from the image again. Input: normalised
    image (batch, in_channels, height, width), sides divisible by 4; output: (batch, out_channels, height / 4,
    width / 4).
    """

    MEAN, STD = EfficientNetLite.MEAN, EfficientNetLite.STD
    output_stride = STRIDE
    center = (STRIDE - 1) / 2

    def __init__(
        self,
        width: int = 64,
        expansion: int = 2,
        dilations: tuple[int, ...] = (1, 2, 4, 8, 16, 8, 4, 2, 1),
        in_channels: int = 3,
    ):
        super().__init__()
        self.width = self.out_channels = width
        self.expansion = expansion
        self.dilations = tuple(dilations)
        self.in_channels = in_channels
        self.conv_stem = nn.Conv2d(in_channels, width, STRIDE, stride=STRIDE, bias=False)
        self.bn0 = nn.BatchNorm2d(width)
        self.blocks = nn.Sequential(*[InvertedResidual(width, width, 3, 1, one, expansion) for one in dilations])
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 0.1  # EfficientNet's 0.01 is for trainings of many more steps

    @property
    def first_convolution(self) -> nn.Conv2d:
        return self.conv_stem

    def forward(self, image: Normalized) -> Features:
        return self.blocks(relu6(normalized(laid_out(image), self.conv_stem, self.bn0)))
