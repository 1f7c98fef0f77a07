"""The front model: any size, and every output pixel looks at its own place."""

import pytest
import torch
from torch import Tensor

from networks import ALL_ENCODERS, ENCODERS, SIZES, TinyEncoder, along, centroid, encoder, measurable, positive, random
from rectiseg.models.front import Front
from rectiseg.types import Parser

MIDDLE = 640


def front(name: str, output_stride: int = 8, num_classes: int = 3) -> Front:
    torch.manual_seed(1)
    return Front(encoder(name, output_stride), num_classes).eval()


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_any_height_and_width_works(name: str, height: int, width: int) -> None:
    parser: Parser = front(name)
    with torch.inference_mode():
        logits = parser(random(1, 3, height, width))
    assert logits.shape == (1, 3, height, width)
    assert logits.isfinite().all()


@pytest.mark.parametrize("output_stride", [16, 32])
@pytest.mark.parametrize("name", ENCODERS)
def test_any_size_works_at_any_output_stride(name: str, output_stride: int) -> None:
    with torch.inference_mode():
        assert front(name, output_stride)(random(1, 3, 33, 7)).shape == (1, 3, 33, 7)


def test_a_size_that_does_not_divide_by_the_stride_is_continued() -> None:
    image = random(1, 3, 13, 18)
    continued = torch.cat([image, image[:, :, -1:].expand(-1, -1, 3, -1)], dim=2)
    continued = torch.cat([continued, continued[..., -1:].expand(-1, -1, -1, 6)], dim=3)
    network = front("resnet18")
    with torch.inference_mode():
        torch.testing.assert_close(network(image), network(continued)[..., :13, :18])


def gaze(name: str, output_stride: int, axis: int, aligned: bool = True) -> list[float]:
    """By how much the centroid of an output pixel's evidence lies beyond it, for several places in a cell."""
    network = Front(measurable(name, output_stride), num_classes=1, aligned=aligned).double()
    positive(network.head)
    shape = (2 * MIDDLE, 5) if axis == 0 else (5, 2 * MIDDLE)
    image = torch.ones(1, 3, *shape, dtype=torch.float64, requires_grad=True)
    line = network(image)[0, 0].select(1 - axis, 2)
    pixels = [MIDDLE, MIDDLE + 3, MIDDLE + output_stride - 1]
    gradients = (torch.autograd.grad(line[pixel], image, retain_graph=True)[0] for pixel in pixels)
    return [centroid(along(axis, gradient)) - pixel for pixel, gradient in zip(pixels, gradients, strict=True)]


@pytest.mark.parametrize(
    ("name", "output_stride"),
    [(name, 8) for name in ALL_ENCODERS] + [(name, stride) for name in ENCODERS for stride in (16, 32)],
)
def test_an_output_pixels_evidence_is_centred_on_that_pixel(name: str, output_stride: int) -> None:
    assert gaze(name, output_stride, axis=1) == pytest.approx([0.0] * 3, abs=1e-6)


@pytest.mark.parametrize("name", ["resnet18", "lite0"])
def test_rows_are_as_centred_as_columns(name: str) -> None:
    assert gaze(name, 8, axis=0) == pytest.approx([0.0] * 3, abs=1e-6)


@pytest.mark.parametrize(("name", "shift"), [("resnet18", -3.5), ("lite0", 3.5)])
def test_the_literal_deconvolution_looks_beside_the_pixel(name: str, shift: float) -> None:
    assert gaze(name, 8, axis=1, aligned=False) == pytest.approx([shift] * 3, abs=1e-6)


def test_every_model_normalises_for_itself() -> None:
    network = Front(TinyEncoder(), 2).eval()
    seen: list[Tensor] = []
    network.encoder.register_forward_pre_hook(lambda _, inputs: seen.extend(inputs))  # pyright: ignore
    image = torch.tensor(TinyEncoder.MEAN).view(1, 3, 1, 1).expand(1, 3, 8, 16)
    with torch.inference_mode():
        network(image)
        network(image + torch.tensor(TinyEncoder.STD).view(1, 3, 1, 1))
    assert seen[0].eq(0).all()
    assert seen[1].eq(1).all()


@pytest.mark.parametrize("name", ["resnet18", "lite0"])
def test_a_batch_of_two_is_two_batches_of_one(name: str) -> None:
    network, images = front(name), random(2, 3, 13, 21)
    with torch.inference_mode():
        apart = torch.cat([network(images[:1]), network(images[1:])])
        torch.testing.assert_close(network(images), apart, rtol=1e-5, atol=1e-5)


def test_the_deconvolution_is_trained_only_if_asked_for() -> None:
    image = random(1, 3, 9, 14)
    for learnable in (False, True):
        torch.manual_seed(2)
        network = Front(TinyEncoder(), 2, learnable_deconvolution=learnable)
        network(image).square().sum().backward()
        assert ("kernel" in dict(network.named_parameters())) == learnable
        assert (network.kernel.grad is not None) == learnable
        assert network.coarse_suffices == (not learnable)


def test_supervised_gives_the_answer_with_weight_one() -> None:
    network, image = front("resnet18"), random(1, 3, 9, 14)
    with torch.inference_mode():
        (answer,) = network.supervised(image)
        assert answer.equal(network(image))
    assert network.loss_weights == (1.0,)
