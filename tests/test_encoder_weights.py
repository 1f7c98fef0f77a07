"""Weights of an encoder from a file: all or nothing, and every refusal by its sentence."""

import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from networks import randomized
from rectiseg.models.encoder import load_encoder_weights
from rectiseg.models.resnet import ResNet


def weights_of(encoder: nn.Module) -> dict[str, Tensor]:
    return dict(encoder.state_dict())


def write(weights: object, path: Path) -> Path:
    if path.suffix == ".pth":
        torch.save(weights, path)
    else:
        assert isinstance(weights, dict)
        save_file(weights, path)
    return path


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_come_back_from_a_file_without_its_classifier(tmp_path: Path, suffix: str) -> None:
    trained, encoder = randomized(ResNet(18)).float(), ResNet(18)
    path = write({**trained.state_dict(), "fc.weight": torch.zeros(7, 512)}, tmp_path / f"resnet18{suffix}")
    load_encoder_weights(encoder, str(path))
    for key, value in trained.state_dict().items():
        torch.testing.assert_close(
            encoder.state_dict()[key], value, rtol=0, atol=0, msg=lambda m, key=key: f"{key}: {m}"
        )


class Stem(nn.Module):
    """The smallest encoder that has what the loader looks at."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(2)


def test_batch_norms_counters_may_be_missing_or_more(tmp_path: Path) -> None:
    weights = weights_of(Stem())
    del weights["bn1.num_batches_tracked"]
    weights["bn2.num_batches_tracked"] = torch.tensor(3)
    load_encoder_weights(Stem(), write(weights, tmp_path / "old.pth"))


def test_names_of_another_library_are_translated_before_the_classifier_is_left_out(tmp_path: Path) -> None:
    trained, encoder = Stem(), Stem()
    weights = {f"net.{key}": value for key, value in trained.state_dict().items()} | {"net.head.bias": torch.zeros(1)}
    path = write(weights, tmp_path / "other.safetensors")
    load_encoder_weights(encoder, path, classifier=("head.",), rename=lambda key: key.removeprefix("net."))
    assert encoder.conv1.weight.equal(trained.conv1.weight)


def test_weights_that_do_not_fit_are_refused_whole(tmp_path: Path) -> None:
    weights = weights_of(Stem())
    del weights["bn1.bias"]
    weights["conv1.weight"] = torch.zeros(2, 5, 1, 1)
    weights["conv9.weight"] = torch.zeros(1)
    weights["bn1.weight"] = torch.full((2,), 8.0)
    path, encoder = write(weights, tmp_path / "odd.safetensors"), Stem()
    with pytest.raises(ValueError, match="architecture") as refused:
        load_encoder_weights(encoder, path)
    assert str(refused.value) == (
        f"{path} does not fit this Stem by its keys, 1 missing (bn1.bias), 1 unexpected (conv9.weight), 1 of another "
        "shape (conv1.weight of [2, 5, 1, 1] for [2, 3, 1, 1]): give the weights of the same architecture, depth and "
        "number of input channels"
    )
    assert encoder.bn1.weight.eq(1).all()


def test_only_the_first_keys_are_named(tmp_path: Path) -> None:
    path = write({f"module.{key}": value for key, value in Stem().state_dict().items()}, tmp_path / "parallel.pth")
    with pytest.raises(ValueError, match=r"5 missing \(conv1.weight, bn1.weight, bn1.bias, \.\.\.\)"):
        load_encoder_weights(Stem(), path)


def test_a_path_without_weights_is_refused_with_its_name(tmp_path: Path) -> None:
    for name, fault in [("none.pth", "is not there"), (".", "by its name"), ("weights.npz", "by its name")]:
        with pytest.raises(ValueError, match=fault) as refused:
            load_encoder_weights(Stem(), tmp_path / name)
        assert str(tmp_path / name) in str(refused.value)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("content", [b"", b"<html>404</html>", struct.pack("<Q", 1 << 40), None])
def test_a_damaged_file_is_refused_with_its_name(tmp_path: Path, suffix: str, content: bytes | None) -> None:
    path = write(weights_of(Stem()), tmp_path / f"damaged{suffix}")
    path.write_bytes(path.read_bytes()[:-7] if content is None else content)
    with pytest.raises(ValueError, match=f"damaged{suffix} cannot be read as weights"):
        load_encoder_weights(Stem(), path)


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}, {0: torch.zeros(1)}, torch.zeros(1)])
def test_a_file_that_holds_more_than_a_state_dict_is_refused(tmp_path: Path, content: object) -> None:
    with pytest.raises(ValueError, match="holds more than a state dict: save"):
        load_encoder_weights(Stem(), write(content, tmp_path / "training.pth"))


class Payload:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("this ran",)


def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="cannot be read as weights"):
        load_encoder_weights(Stem(), write({"conv1.weight": Payload()}, tmp_path / "harmful.pth"))
    assert "this ran" not in capsys.readouterr().out


def test_weights_that_are_not_finite_are_refused_by_name(tmp_path: Path) -> None:
    weights = weights_of(Stem())
    weights["bn1.bias"] = torch.tensor([0.0, torch.nan])
    with pytest.raises(ValueError, match=r"broken\.pth holds NaN or infinite numbers \(bn1\.bias\): copy"):
        load_encoder_weights(Stem(), write(weights, tmp_path / "broken.pth"))
