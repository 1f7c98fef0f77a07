"""MS-Dilation, a baseline of Table 2: the context module of Yu and Koltun, "Multi-scale context aggregation by dilated
convolutions", ICLR 2016."""

import torch.nn.functional as F
from torch import Tensor, nn

from rectiseg.ops.upsample import CoarseLogits, bilinear_kernel, upsample
from rectiseg.types import Image, Logits

OUTPUT_STRIDE = 8
CENTER = (OUTPUT_STRIDE - 1) / 2  # a cell is the mean of its 8 x 8 pixels
DILATIONS = (1, 1, 2, 4, 8, 16, 1)
"""Of the 3 x 3 convolutions in Table 1 (basic) there; a 1 x 1 convolution without ReLU follows."""


class MultiScaleContext(nn.Module):
    """Add what the confidences of 67 x 67 cells of 8 x 8 pixels say about each other; the image is not looked at.

    The module sees the mean probabilities of every cell. As they are not negative, ReLU leaves them alone and the
    authors' identity initialisation is exact: an untrained module returns its input. What it changes of the
    probabilities is upsampled and added to the logits. Any height and width works: the confidences are continued to
    the next multiple of 8. Outside the image every layer sees zeros, as in the authors' code.
    """

    loss_weights = (1.0,)

    def __init__(self, num_classes: int):
        super().__init__()
        self.num_classes = num_classes
        dilated = [layer for dilation in DILATIONS for layer in (dilated_convolution(num_classes, dilation), nn.ReLU())]
        self.context = nn.Sequential(*dilated, nn.Conv2d(num_classes, num_classes, 1))
        for module in self.context:
            if isinstance(module, nn.Conv2d):
                nn.init.dirac_(module.weight)
                nn.init.zeros_(module.bias)  # pyright: ignore[reportArgumentType]
        self.kernel: Tensor
        self.register_buffer("kernel", bilinear_kernel(num_classes, OUTPUT_STRIDE, CENTER), persistent=False)

    def supervised(self, image: Image, logits: Logits) -> list[Logits]:
        """Every map that the loss looks at; the last one is the answer."""
        probabilities = pooled(logits)
        difference = self.context(probabilities) - probabilities
        return [logits + upsample(difference, self.kernel, OUTPUT_STRIDE, CENTER, *logits.shape[-2:])]

    def forward(self, image: Image, logits: Logits) -> Logits:
        return self.supervised(image, logits)[-1]


def dilated_convolution(channels: int, dilation: int) -> nn.Conv2d:
    return nn.Conv2d(channels, channels, 3, padding=dilation, dilation=dilation)


def pooled(logits: Logits) -> CoarseLogits:
    """The mean probabilities of every cell."""
    height, width = logits.shape[-2:]
    continued = F.pad(logits, (0, -width % OUTPUT_STRIDE, 0, -height % OUTPUT_STRIDE), mode="replicate")
    return F.avg_pool2d(continued.softmax(dim=1), OUTPUT_STRIDE)
