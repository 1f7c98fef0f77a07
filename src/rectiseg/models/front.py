"""Section 3.3: the front model, a dilated encoder with a classifier and a deconvolution back to the image's size."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from rectiseg.models.encoder import Encoder
from rectiseg.ops.upsample import CoarseLogits, Side, bilinear_kernel, upsample
from rectiseg.types import Image, Logits

Evidence = Float[Tensor, "batch bands height width"]
"""What a network sees: RGB in [0, 1], and for GRN one more band a class."""


class Front(nn.Module):
    """Encoder, 3x3 classifier with dilation 3, deconvolution. GRN is the same network with more input bands.

    Any height and width works: the image is continued to the next multiple of the output stride and the result cut.
    ``aligned=False`` is the literal deconvolution (at stride 8 kernel 16, padding 4), which shifts the confidence maps
    against the image, by 3.5 pixels at stride 8; ``learnable_deconvolution`` trains its bilinear kernels.
    """

    loss_weights = (1.0,)

    def __init__(
        self,
        encoder: Encoder,
        num_classes: int,
        head_dilation: int = 3,
        aligned: bool = True,
        learnable_deconvolution: bool = False,
    ):
        super().__init__()
        self.encoder = encoder
        self.num_classes = num_classes
        self.head_dilation = head_dilation
        self.aligned = aligned
        self.learnable_deconvolution = learnable_deconvolution
        self.head = nn.Conv2d(encoder.out_channels, num_classes, 3, padding=head_dilation, dilation=head_dilation)
        nn.init.normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)  # pyright: ignore[reportArgumentType]
        self.output_stride = encoder.output_stride
        self.center = encoder.center if aligned else (encoder.output_stride - 1) / 2
        self.kernel: Tensor
        kernel = bilinear_kernel(num_classes, self.output_stride, self.center)
        if learnable_deconvolution:
            self.kernel = nn.Parameter(kernel)
        else:
            self.register_buffer("kernel", kernel, persistent=False)
        self.mean: Tensor
        self.std: Tensor
        others = encoder.first_convolution.in_channels - 3
        self.register_buffer("mean", per_band((*encoder.MEAN, *[0.0] * others)), persistent=False)
        self.register_buffer("std", per_band((*encoder.STD, *[1.0] * others)), persistent=False)

    @property
    def coarse_suffices(self) -> bool:
        """Whether the coarse scores and where their cells lie say all there is to know of the result."""
        return not self.learnable_deconvolution

    def coarse(self, evidence: Evidence) -> CoarseLogits:
        """What the deconvolution upsamples."""
        height, width = evidence.shape[-2:]
        stride = self.output_stride
        rows, columns = (height + stride - 1) // stride, (width + stride - 1) // stride
        padded = F.pad(evidence, (0, columns * stride - width, 0, rows * stride - height), mode="replicate")
        return self.head(self.encoder((padded - self.mean) / self.std))

    def upsample(self, scores: CoarseLogits, height: Side, width: Side) -> Logits:
        """Bring coarse scores to the size of their image."""
        return upsample(scores, self.kernel, self.output_stride, self.center, height, width)

    def supervised(self, image: Evidence) -> list[Logits]:
        """Every map that the loss looks at; the last one is the answer."""
        return [self.upsample(self.coarse(image), *image.shape[-2:])]

    def forward(self, image: Image) -> Logits:
        return self.supervised(image)[-1]


def per_band(values: tuple[float, ...]) -> Tensor:
    return torch.tensor(values).view(-1, 1, 1)
