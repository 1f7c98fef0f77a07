"""LRN evaluated only where it can change a label."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from networks import random, random_logits
from rectiseg.data.datasets import CamVid
from rectiseg.models.checkpoint import SHIPPED, load_parser, load_refiner
from rectiseg.models.contested import contested, label_map, multiply_adds
from rectiseg.models.lrn import LRN
from rectiseg.types import Logits


def lively(build: Callable[[], LRN]) -> LRN:
    """Far from the identity, with batch norm that does something."""
    torch.manual_seed(5)
    lrn = build()
    nn.init.normal_(lrn.head.weight, std=0.5)
    for module in lrn.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return lrn.eval()


LRNS = {
    "logits": partial(LRN, 4, 5, widths=(6, 7)),
    "probabilities": partial(LRN, 4, 5, widths=(6, 7), propagates="probabilities"),
    "zeros at the border": partial(LRN, 4, 3, widths=(6,), border="zeros"),
}


def smooth_logits(height: int, width: int, seed: int = 0) -> Logits:
    """Of regions larger than a window, so that not all of it is contested."""
    coarse = random_logits(2, 4, -(-height // 8), -(-width // 8), seed=seed)
    return coarse.repeat_interleave(8, dim=2).repeat_interleave(8, dim=3)[..., :height, :width].contiguous()


@pytest.mark.parametrize("name", LRNS)
@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 9), (26, 37)])
def test_labels_are_those_of_the_dense_network(name: str, height: int, width: int):
    lrn = lively(LRNS[name])
    image, logits = random(2, 3, height, width), smooth_logits(height, width)
    assert torch.equal(label_map(lrn, image, logits), lrn(image, logits).argmax(dim=1))


@given(seed=st.integers(0, 10_000), height=st.integers(1, 20), width=st.integers(1, 20), sharpness=st.floats(0.1, 9))
@settings(max_examples=60, deadline=None)
def test_labels_are_the_same_whatever_the_input(seed: int, height: int, width: int, sharpness: float):
    lrn = lively(LRNS["logits"])
    image, logits = random(2, 3, height, width, seed=seed), sharpness * smooth_logits(height, width, seed)
    assert torch.equal(label_map(lrn, image, logits), lrn(image, logits).argmax(dim=1))


def test_a_pixel_is_contested_where_its_window_holds_another_label():
    labels = torch.zeros(9, 11, dtype=torch.int64)
    labels[4, 8] = 3
    expected = torch.zeros(9, 11, dtype=torch.bool)
    expected[2:7, 6:11] = True
    assert torch.equal(contested(labels, 5), expected)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 9), (6, 1), (14, 17)])
@pytest.mark.parametrize("neighborhood", [1, 3, 7])
def test_that_is_so_wherever_the_largest_and_the_smallest_label_differ(neighborhood: int, height: int, width: int):
    labels = smooth_logits(height, width)[0].argmax(dim=0)
    pooled = [
        sign * F.max_pool2d(sign * labels[None].float(), neighborhood, stride=1, padding=neighborhood // 2)[0]
        for sign in (1, -1)
    ]
    assert torch.equal(contested(labels, neighborhood), pooled[0] != pooled[1])


@pytest.mark.parametrize("name", LRNS)
def test_no_other_label_ever_changes(name: str):
    lrn = lively(LRNS[name])
    image, logits = random(2, 3, 26, 37), smooth_logits(26, 37)
    before, after = logits.argmax(dim=1), lrn(image, logits).argmax(dim=1)
    assert (before != after).any()
    for labels, changed in zip(before, before != after, strict=True):
        assert not (changed & ~contested(labels, lrn.neighborhood)).any()


def test_labels_that_nothing_contests_stay_without_any_convolution(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(LRN, "evidence", None)
    logits = torch.tensor([1.0, 3.0, 2.0, 0.0]).view(1, 4, 1, 1).expand(1, 4, 6, 7)
    assert (label_map(LRNS["logits"](), random(1, 3, 6, 7), logits) == 1).all()


def test_weights_that_are_no_numbers_are_refused():
    lrn = lively(LRNS["logits"])
    lrn.head.weight.data[0, 0] = torch.nan
    with pytest.raises(ValueError, match="NaN"):
        label_map(lrn, random(1, 3, 26, 37), smooth_logits(26, 37)[:1])


def test_work_is_counted_layer_by_layer():
    """For one pixel the head is evaluated once, and the layer before it on its nine inputs."""
    lrn = LRN(2, 3, widths=(5,)).eval()
    wanted = torch.zeros(20, 30, dtype=torch.bool)
    wanted[10, 10] = True
    body, head, mean = 9 * 5 * 5, 9 * 5 * 9, 9 * 2
    assert multiply_adds(lrn, wanted, 2) == 9 * body + head + mean
    assert multiply_adds(lrn, torch.ones_like(wanted), 2) == 600 * (body + head + mean)


def test_the_shipped_lrn_s_labels_are_the_same_on_camvid(camvid: Path):
    """But for ties within rounding, of which there are fewer than one in 100,000."""
    parser, dataset = load_parser(SHIPPED), CamVid(camvid, "val")
    lrn = load_refiner(SHIPPED.with_name("camvid_lite_lrn_alone.safetensors"))
    assert isinstance(lrn, LRN)
    for index in (3, 70):
        image = dataset[index].image[None]
        with torch.inference_mode():
            logits = parser.front(image)
            dense = lrn(image, logits).argmax(dim=1)
        assert (label_map(lrn, image, logits) != dense).sum() <= dense.numel() / 100_000
