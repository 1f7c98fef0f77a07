"""Networks for tests: small ones, and real ones made linear so that it can be measured where they look."""

from collections.abc import Callable
from functools import cache, partial

import torch
from torch import Tensor, nn

from rectiseg.models.efficientnet_lite import EfficientNetLite
from rectiseg.models.encoder import Encoder
from rectiseg.models.grn import GRN
from rectiseg.models.resnet import ResNet

ENCODERS: dict[str, Callable[[int], ResNet | EfficientNetLite]] = {
    "resnet18": lambda output_stride: ResNet(18, output_stride),
    "resnet50": lambda output_stride: ResNet(50, output_stride),
    "lite0": lambda output_stride: EfficientNetLite(0, output_stride),
}
"""One of each kind."""

ALL_ENCODERS = {
    **{f"resnet{depth}": partial(ResNet, depth) for depth in (18, 34, 50, 101, 152, 200)},
    **{f"lite{variant}": partial(EfficientNetLite, variant) for variant in (0, 1, 2)},
}
SIZES = ((1, 1), (1, 9), (13, 7), (33, 41))


class TinyEncoder(nn.Module):
    """One convolution whose cell i is centred on pixel 8i."""

    MEAN = (0.5, 0.25, 0.125)
    STD = (0.5, 0.5, 0.25)
    output_stride = 8
    center = 0.0

    def __init__(self, kernel_size: int = 9, out_channels: int = 4):
        super().__init__()
        self.kernel_size, self.out_channels = kernel_size, out_channels
        self.stem = nn.Conv2d(3, out_channels, kernel_size, stride=8, padding=kernel_size // 2)

        self.blocks = nn.Sequential(nn.ReLU())

    @property
    def first_convolution(self) -> nn.Conv2d:
        return self.stem

    def forward(self, image: Tensor) -> Tensor:
        return self.blocks(self.stem(image))


@cache
def encoder(name: str, output_stride: int = 8) -> Encoder:
    """A real one in eval mode, made once: not to be changed."""
    torch.manual_seed(0)
    return ENCODERS[name](output_stride).eval()


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Uniform in [0, 1], as an image is."""
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def random_logits(*shape: int, seed: int = 1, dtype: torch.dtype = torch.float32) -> Tensor:
    return 3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def tiny_grn(num_classes: int = 5, iterations: int = 3, **options: bool) -> GRN:
    """With a head that is not zero: it changes what it gets."""
    torch.manual_seed(3)
    grn = GRN(TinyEncoder(), num_classes, iterations, **options).eval()
    nn.init.normal_(grn.network.head.weight)
    return grn


def measurable(name: str, output_stride: int) -> ResNet | EfficientNetLite:
    """Positive constant kernels, average for max pooling, batch norm without effect, float64: no gradient cancels.

    What it sees stays so small that ReLU6 does not clip.
    """
    with torch.device("meta"):
        network = ALL_ENCODERS[name](output_stride)
    if isinstance(network, ResNet):
        network.maxpool = nn.AvgPool2d(3, stride=2, padding=1)
    network = network.to_empty(device="cpu").double().eval()
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.constant_(module.weight, 1 / module.weight[0].numel())
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
    network.first_convolution.weight.data *= 1e-6
    return network


def positive(convolution: nn.Conv2d) -> None:
    assert convolution.bias is not None
    nn.init.constant_(convolution.weight, 1 / convolution.weight[0].numel())
    nn.init.zeros_(convolution.bias)


def along(axis: int, gradient: Tensor) -> Tensor:
    """What an output owes to each row (axis 0) or column (axis 1) of the image."""
    return gradient.sum(dim=(0, 1, 3 - axis))


def extent(profile: Tensor) -> int:
    reached = profile.nonzero()
    return int(reached.max() - reached.min()) + 1


def centroid(profile: Tensor) -> float:
    return float((profile * torch.arange(len(profile))).sum() / profile.sum())


def randomized(encoder: ResNet) -> ResNet:
    """In evaluation mode and float64, with batch norm that does something."""
    generator = torch.Generator().manual_seed(1)
    for module in encoder.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values in (module.weight, module.running_var):
                assert values is not None
                nn.init.uniform_(values, 0.5, 1.5, generator=generator)
            for values in (module.bias, module.running_mean):
                assert values is not None
                nn.init.normal_(values, 0, 0.1, generator=generator)
    return encoder.double().eval()
