"""Section 3.1: the Global-residual Refinement Network."""

from collections.abc import Iterator

import torch
from torch import nn

from rectiseg.models.encoder import Encoder
from rectiseg.models.front import Front
from rectiseg.models.light_encoder import LightEncoder
from rectiseg.ops.upsample import CoarseLogits
from rectiseg.types import Image, Logits


class GRN(nn.Module):
    """Add what is missing: a network of the front's shape sees image and confidences and predicts their residual.

    It runs ``iterations`` times on its own result with shared weights (Fig. 2). The last convolution starts at zero,
    so an untrained GRN returns its input. The encoder is taken over: its first convolution is widened for the K
    confidence maps, with small random filters beside the pretrained ones.
    ``full_backpropagation`` lets gradients pass from an iteration into those before it; without it each is a step of
    its own. ``auxiliary_weight`` weighs the cross-entropy of the residuals alone (0 switches it off), and
    ``every_iteration=False`` supervises the last iteration only. Fewer than one iteration raises ValueError.
    """

    def __init__(
        self,
        encoder: Encoder,
        num_classes: int,
        iterations: int = 3,
        auxiliary_weight: float = 0.4,
        every_iteration: bool = True,
        full_backpropagation: bool = False,
        head_dilation: int = 3,
        aligned: bool = True,
        learnable_deconvolution: bool = False,
    ):
        super().__init__()
        if iterations < 1:
            raise ValueError(f"GRN runs at least once: {iterations} iterations were asked for")
        self.num_classes = num_classes
        self.iterations = iterations
        self.auxiliary_weight = auxiliary_weight
        self.auxiliary_share = 1.0  # what a training that anneals the weight has left of it
        self.every_iteration = every_iteration
        self.full_backpropagation = full_backpropagation
        self.head_dilation = head_dilation
        self.aligned = aligned
        self.learnable_deconvolution = learnable_deconvolution
        widen(encoder.first_convolution, num_classes)
        self.network = Front(encoder, num_classes, head_dilation, aligned, learnable_deconvolution)
        nn.init.zeros_(self.network.head.weight)

    @classmethod
    def light(cls, num_classes: int, iterations: int = 1) -> "GRN":
        """The preset for a CPU: a quarter of EfficientNet-Lite0's work an iteration, and no pretrained weights."""
        grn = cls(LightEncoder(), num_classes, iterations, head_dilation=1)
        nn.init.normal_(grn.encoder.first_convolution.weight[:, 3:], std=0.1)  # about as those for the colours
        return grn

    @property
    def encoder(self) -> Encoder:
        return self.network.encoder

    @property
    def output_stride(self) -> int:
        return self.network.output_stride

    @property
    def center(self) -> float:
        return self.network.center

    @property
    def coarse_suffices(self) -> bool:
        return self.network.coarse_suffices

    @property
    def loss_weights(self) -> tuple[float, ...]:
        """Of `supervised`'s maps: later iterations weigh more, n / (1 + .. + N) for the sum and its part for r_n."""
        last = self.iterations
        sums = [n / (last * (last + 1) / 2) if self.every_iteration else float(n == last) for n in range(1, last + 1)]
        auxiliary_weight = self.auxiliary_weight * self.auxiliary_share
        return tuple(weight for total in sums for weight in (auxiliary_weight * total, total))

    def iterate(self, image: Image, logits: Logits) -> Iterator[tuple[CoarseLogits, Logits, Logits]]:
        """Yield each iteration's residual, coarse and at the image's size, and the running sum of confidences."""
        for _ in range(self.iterations):
            evidence = torch.cat([image, logits.softmax(dim=1)], dim=1)  # Eq. 1
            coarse = self.network.coarse(evidence)
            residual = self.network.upsample(coarse, *image.shape[-2:])
            logits = logits + residual
            yield coarse, residual, logits
            if not self.full_backpropagation:
                logits = logits.detach()

    def supervised(self, image: Image, logits: Logits) -> list[Logits]:
        """Every map that the loss looks at, [r1, s1, ..., rN, sN]; the last one is the answer."""
        maps: list[Logits] = []
        for _, residual, refined in self.iterate(image, logits):
            maps += [residual, refined]
        return maps

    def coarse(self, image: Image, logits: Logits) -> CoarseLogits:
        """The sum of all residuals before their upsampling: what a store of confidences keeps of GRN."""
        total = None
        for coarse, _, _ in self.iterate(image, logits):
            total = coarse if total is None else total + coarse
        assert total is not None
        return total

    def forward(self, image: Image, logits: Logits) -> Logits:
        *_, (_, _, refined) = self.iterate(image, logits)
        return refined


def widen(convolution: nn.Conv2d, bands: int, std: float = 0.01) -> None:
    """Let a pretrained first convolution take further input bands through new filters of N(0, std^2)."""
    old = convolution.weight.detach()
    new = torch.empty(old.shape[0], bands, *old.shape[2:], dtype=old.dtype, device=old.device).normal_(std=std)
    convolution.weight = nn.Parameter(torch.cat([old, new], dim=1))
    convolution.in_channels += bands
