"""ESPNet: the network of the paper, and its published weights on photographs."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from beside import beside
from networks import SIZES, random
from rectiseg.data.datasets import CamVid
from rectiseg.metrics import ConfusionMatrix
from rectiseg.models.zoo.espnet import ESP, Downsampling, ESPNet, load_espnet
from rectiseg.types import Parser

ROOT = Path(__file__).parent.parent
MEAN, STD = (72.0, 83.0, 73.0), (45.0, 46.0, 44.0)
PUBLISHED = {"camvid": ESPNet.camvid, "cityscapes": ESPNet.cityscapes}


@pytest.fixture(scope="module")
def weights() -> Path:
    """The published weights' folder beside the repository."""
    return beside("weights")


def untrained(image_in_decoder: bool = True) -> ESPNet:
    torch.manual_seed(0)
    return ESPNet(5, MEAN, STD, image_in_decoder).eval()


@pytest.mark.parametrize("image_in_decoder", [True, False])
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_any_height_and_width_works(height: int, width: int, image_in_decoder: bool) -> None:
    parser: Parser = untrained(image_in_decoder)
    with torch.inference_mode():
        logits = parser(random(2, 3, height, width))
    assert logits.shape == (2, 5, height, width)
    assert logits.isfinite().all()


def test_a_size_that_does_not_divide_by_eight_is_continued() -> None:
    image = random(1, 3, 13, 18)
    continued = torch.cat([image, image[:, :, -1:].expand(-1, -1, 3, -1)], dim=2)
    continued = torch.cat([continued, continued[..., -1:].expand(-1, -1, -1, 6)], dim=3)
    network = untrained()
    with torch.inference_mode():
        torch.testing.assert_close(network(image), network(continued)[..., :13, :18])


def inputs_of(network: nn.Module) -> list[Tensor]:
    """What the network gets from now on."""
    seen: list[Tensor] = []
    network.register_forward_pre_hook(lambda _, inputs: seen.extend(inputs))  # pyright: ignore
    return seen


def test_it_sees_blue_first_and_normalised_as_published() -> None:
    network = untrained()
    seen = inputs_of(network.encoder)
    image = random(1, 3, 8, 16)
    with torch.inference_mode():
        network(image)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    torch.testing.assert_close(seen[0], (255 * image[:, [2, 1, 0]] - mean) / std / 255)


def test_the_output_for_unannotated_pixels_is_left_out() -> None:
    network, image = untrained(), random(1, 3, 8, 16)
    whole: list[Tensor] = []
    network.classifier.register_forward_hook(lambda _, inputs, output: whole.append(output))  # pyright: ignore
    with torch.inference_mode():
        logits = network(image)
    assert whole[0].shape[1] == 6
    assert logits.equal(whole[0][:, :5])


def test_a_pyramid_adds_dilations_up_from_the_second_on() -> None:
    module, features = ESP(1, 5).double(), random(1, 1, 6, 7, dtype=torch.float64)
    for name in ("c1", "d1", "d2", "d4", "d8", "d16"):
        nn.init.dirac_(module.get_submodule(f"{name}.conv").weight)  # pyright: ignore[reportArgumentType]
    with torch.inference_mode():
        torch.testing.assert_close(module.pyramid(features), features * torch.tensor([1, 1, 2, 3, 4]).view(5, 1, 1))


def test_a_module_adds_its_input_where_channels_allow() -> None:
    features = random(1, 10, 6, 7) - 0.5
    with torch.inference_mode():
        for module in (ESP(10, 10).eval(), ESP(10, 5).eval()):
            nn.init.zeros_(module.c1.get_submodule("conv").weight)  # pyright: ignore[reportArgumentType]
            expected = module.bn(features) if module.adds_input else torch.zeros(1, 5, 6, 7)
            torch.testing.assert_close(module(features), expected)


def test_a_strided_module_halves_height_and_width() -> None:
    assert Downsampling(19, 64)(random(2, 19, 6, 10)).shape == (2, 64, 3, 5)


def test_it_has_the_papers_0_36_million_parameters() -> None:
    counts = [sum(parameter.numel() for parameter in make().parameters()) for make in PUBLISHED.values()]
    assert counts == [354_517, 364_569]


def test_fewer_classes_than_an_esp_module_can_split_are_refused() -> None:
    assert ESPNet(4, MEAN, STD, image_in_decoder=True).num_classes == 4
    with pytest.raises(ValueError, match="not 3"):
        ESPNet(3, MEAN, STD, image_in_decoder=True)


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_published_tensor_finds_its_place(weights: Path, name: str) -> None:
    path = weights / f"espnet_p2q8_{name}.safetensors"
    network, published = load_espnet(path), load_file(path)
    loaded = {key: value for key, value in network.state_dict().items() if "num_batches_tracked" not in key}
    assert loaded.keys() == published.keys()
    assert all(loaded[key].equal(value) for key, value in published.items())
    assert sum(value.numel() for value in loaded.values()) == sum(value.numel() for value in published.values())
    assert (network.num_classes, network.mean) == (PUBLISHED[name]().num_classes, PUBLISHED[name]().mean)
    assert not network.training


@pytest.mark.parametrize("make", [*PUBLISHED.values(), untrained])
def test_a_file_that_does_not_fit_is_refused_with_its_name(tmp_path: Path, make: Callable[[], ESPNet]) -> None:
    tensors = dict(make().state_dict())
    del tensors["br.bias"]
    path = tmp_path / "other.safetensors"
    save_file(tensors, path)
    with pytest.raises(ValueError, match=r"other\.safetensors does not fit this ESPNet by its keys, 1 missing"):
        load_espnet(path)


def pixel_accuracy(prediction: Tensor, labels: Tensor) -> float:
    matrix = ConfusionMatrix(11)
    matrix.update(prediction, labels)
    return matrix.scores().pixel_accuracy


def test_the_published_camvid_network_knows_streets_in_rgb(weights: Path, camvid: Path) -> None:
    network, val = load_espnet(weights / "espnet_p2q8_camvid.safetensors"), CamVid(camvid, "val")
    samples = [val[index] for index in range(4)]
    images = torch.stack([sample.image for sample in samples])
    labels = torch.stack([sample.labels for sample in samples])
    with torch.inference_mode():
        prediction, swapped = network(images).argmax(dim=1), network(images[:1].flip(1)).argmax(dim=1)
    assert pixel_accuracy(prediction, labels) > 0.9
    assert pixel_accuracy(swapped, labels[:1]) < pixel_accuracy(prediction[:1], labels[:1])
