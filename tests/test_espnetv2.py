"""ESPNetv2: the network of the paper, and its published weights on photographs."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from beside import beside
from networks import SIZES, random
from rectiseg.data.cityscapes import Cityscapes
from rectiseg.data.datasets import Sample
from rectiseg.metrics import ConfusionMatrix
from rectiseg.models.checkpoint import load_parser, save
from rectiseg.models.zoo.espnetv2 import EESP, Downsampling, EfficientPyramid, ESPNetv2, GatedProjection, load_espnetv2
from rectiseg.types import Parser


@pytest.fixture(scope="module")
def published() -> Path:
    """The published weights beside the repository."""
    return beside("weights") / "espnetv2_s2.0_cityscapes.safetensors"


@pytest.fixture(scope="module")
def street() -> Sample:
    """Cityscapes' sample of a validation image."""
    return Cityscapes(beside("data", "cityscapes_sample"), "val")[0]


def untrained() -> ESPNetv2:
    torch.manual_seed(0)
    return ESPNetv2(5).eval()


def inputs_of(network: nn.Module) -> list[Tensor]:
    """What the network gets from now on."""
    seen: list[Tensor] = []
    network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    return seen


def pass_on(module: nn.Module) -> None:
    """Make every convolution in it the identity of each of its groups."""
    for convolution in module.modules():
        if isinstance(convolution, nn.Conv2d):
            nn.init.dirac_(convolution.weight, convolution.groups)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_any_height_and_width_works(height: int, width: int) -> None:
    parser: Parser = untrained()
    with torch.inference_mode():
        logits = parser(random(2, 3, height, width))
    assert logits.shape == (2, 5, height, width)
    assert logits.isfinite().all()


def test_a_size_that_does_not_divide_by_sixteen_is_continued() -> None:
    image = random(1, 3, 13, 26)
    continued = torch.cat([image, image[:, :, -1:].expand(-1, -1, 3, -1)], dim=2)
    continued = torch.cat([continued, continued[..., -1:].expand(-1, -1, -1, 6)], dim=3)
    network = untrained()
    with torch.inference_mode():
        torch.testing.assert_close(network(image), network(continued)[..., :13, :26])


def test_it_sees_red_first_and_normalised_as_for_imagenet() -> None:
    network, image = untrained(), random(1, 3, 16, 32)
    seen = inputs_of(network.base_net)
    with torch.inference_mode():
        network(image)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    torch.testing.assert_close(seen[0], (image - mean) / std)


def test_the_output_for_unannotated_pixels_is_left_out() -> None:
    network, image = untrained(), random(1, 3, 16, 32)
    whole: list[Tensor] = []
    network.bu_dec_l4.register_forward_hook(lambda _, inputs, output: whole.append(output))
    with torch.inference_mode():
        logits = network(image)
    assert whole[0].shape == (1, 6, 8, 16)
    torch.testing.assert_close(logits, F.interpolate(whole[0], (16, 32), mode="bilinear", align_corners=True)[:, :5])


def test_a_unit_adds_its_dilations_up() -> None:
    module, features = EESP(4, 16, (1, 2, 3, 4)).eval(), random(1, 4, 6, 7)
    pass_on(module)
    with torch.inference_mode():
        merged = module.pyramid(features)
    torch.testing.assert_close(
        merged, torch.cat([times * features for times in (1, 2, 3, 4)], dim=1), rtol=1e-4, atol=0
    )


def test_a_unit_adds_its_input() -> None:
    module, features = EESP(16, 16, (1, 1, 2, 3)).eval(), random(1, 16, 6, 7) - 0.5
    nn.init.zeros_(module.conv_1x1_exp.get_submodule("conv").weight)  # pyright: ignore[reportArgumentType]
    with torch.inference_mode():
        torch.testing.assert_close(module(features), module.module_act(features))


def test_downsampling_keeps_the_pooled_features_first_and_adds_the_image_to_all() -> None:
    module, features, image = Downsampling(4, 20).eval(), random(1, 4, 6, 10), random(1, 3, 3, 5)
    nn.init.zeros_(module.eesp.conv_1x1_exp.get_submodule("conv").weight)  # pyright: ignore[reportArgumentType]
    with torch.inference_mode():
        pooled = F.avg_pool2d(features, 3, stride=2, padding=1)
        without_image = torch.cat([pooled, torch.zeros(1, 16, 3, 5)], dim=1)
        torch.testing.assert_close(module(features, image), module.act(without_image + module.inp_reinf(image)))


def test_the_decoder_looks_at_five_scales_of_five_cells_or_more() -> None:
    module = EfficientPyramid(6, 3).eval()
    seen = [inputs_of(stage) for stage in module.stages]
    with torch.inference_mode():
        assert module(random(2, 6, 9, 61)).shape == (2, 3, 9, 61)
    assert [tuple(maps.shape[-2:]) for (maps,) in seen] == [(18, 122), (14, 92), (9, 61), (5, 31), (5, 7)]


def test_the_decoder_merges_each_channel_over_all_scales() -> None:
    module = EfficientPyramid(10, 10, classifies=True).eval()
    pass_on(module)
    merging = module.merge_layer.get_submodule("2.cbr.0")
    assert isinstance(merging, nn.Conv2d)
    nn.init.zeros_(merging.weight)
    merging.weight.data[:, :, 1, 1] = torch.tensor([10000.0, 1000.0, 100.0, 10.0, 1.0])
    nn.init.zeros_(module.merge_layer.get_submodule("3").bias)  # pyright: ignore[reportArgumentType]
    flat = torch.arange(10.0).view(1, 10, 1, 1).expand(1, 10, 6, 7)
    with torch.inference_mode():
        torch.testing.assert_close(module(flat), 11111 * flat, rtol=1e-4, atol=0)


def test_the_encoders_features_are_weighed_channel_by_channel() -> None:
    module, features = GatedProjection(8, 6).eval(), random(1, 8, 5, 7)
    gate = module.wt_layer.get_submodule("1")
    assert isinstance(gate, nn.Conv2d)
    with torch.inference_mode():
        weights = (gate.weight[:, :, 0, 0] @ features.mean(dim=(2, 3))[0]).sigmoid()
        torch.testing.assert_close(module(features), module.expansion_layer(features) * weights.view(6, 1, 1))


def test_a_saved_network_is_loaded_as_a_parser_that_nothing_refines(tmp_path: Path) -> None:
    network, image = untrained(), random(1, 3, 17, 21)
    save(network, tmp_path / "espnetv2.safetensors")
    with torch.inference_mode():
        assert load_parser(tmp_path / "espnetv2.safetensors")(image).equal(network(image))


def test_a_file_that_does_not_fit_is_refused_with_its_name(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_file({"classifier.weight": torch.zeros(20, 5)}, path)
    with pytest.raises(ValueError, match=r"other\.safetensors does not fit this ESPNetv2 by its keys, \d+ missing"):
        load_espnetv2(path)


def test_every_published_tensor_finds_its_place(published: Path) -> None:
    network, tensors = load_espnetv2(published), load_file(published)
    assert network.state_dict().keys() == tensors.keys()
    assert all(network.state_dict()[key].equal(value) for key, value in tensors.items())
    assert network.num_classes == 19
    assert not network.training


def pixel_accuracy(prediction: Tensor, labels: Tensor) -> float:
    matrix = ConfusionMatrix(19)
    matrix.update(prediction[None], labels[None])
    return matrix.scores().pixel_accuracy


def test_the_published_network_knows_streets_at_half_their_size_in_rgb(published: Path, street: Sample) -> None:
    image, labels = F.avg_pool2d(street.image[None], 2), street.labels[::2, ::2]
    with torch.inference_mode():
        prediction, swapped = load_espnetv2(published)(torch.cat([image, image.flip(1)])).argmax(dim=1)
    assert pixel_accuracy(prediction, labels) > 0.9
    assert pixel_accuracy(swapped, labels) < pixel_accuracy(prediction, labels)
