"""A network that sees an image tile by tile says what it says of the whole image."""

from collections.abc import Callable
from functools import cache, partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from networks import TinyEncoder, random, random_logits, tiny_grn
from rectiseg.models.bilateral_lrn import BilateralLRN
from rectiseg.models.combine import Cascade, Parallel, SceneParser
from rectiseg.models.front import Front
from rectiseg.models.fusion import Ensemble, MultiScale
from rectiseg.models.lrn import LRN, radius_of
from rectiseg.models.tiled import GRID, OVERLAP, Surroundings, Tiled, surroundings
from rectiseg.refinement import default_refiner

K = 4
EXACT: dict[str, Callable[[], nn.Module]] = {
    "LRN": partial(LRN, K, 5, widths=(6, 7)),
    "LRN with zeros at the border": partial(LRN, K, 3, widths=(6, 6, 6), border="zeros"),
    "BilateralLRN": partial(BilateralLRN, None, 3, widths=(8, 8), dilations=(5, 2, 1), features=2),
    "BilateralLRN, m = 5": partial(BilateralLRN, K, 5, widths=(8,), dilations=(1, 3), features=2),
    "one after another": lambda: Cascade(LRN(K, 5, widths=(6,)), BilateralLRN(None, widths=(8,), dilations=(3,))),
    "side by side": lambda: Parallel(LRN(K, 5, widths=(6,)), BilateralLRN(None, widths=(8,), dilations=(3,))),
}


@cache
def lively(name: str) -> nn.Module:
    """Far from the identity, so that every pixel in reach counts; in float64, where rounding hides no pixel."""
    torch.manual_seed(5)
    network = EXACT[name]().double().eval()
    for module in network.modules():
        if isinstance(module, LRN | BilateralLRN):
            nn.init.normal_(module.head.weight, std=0.2)
    return network


def inputs(height: int, width: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    image, logits = random(1, 3, height, width, seed=seed), random_logits(1, K, height, width, seed=seed)
    return image.double(), logits.double()


@pytest.mark.parametrize("name", EXACT)
@given(height=st.integers(1, 70), width=st.integers(1, 70), size=st.integers(13, 60), seed=st.integers(0, 1000))
@settings(max_examples=8, deadline=None)
def test_refined_tiles_make_the_refined_image(name: str, height: int, width: int, size: int, seed: int):
    network, maps = lively(name), inputs(height, width, seed)
    with torch.inference_mode():
        torch.testing.assert_close(Tiled(network, size)(*maps), network(*maps), atol=1e-6, rtol=0)


def test_so_it_is_with_the_shipped_refiner_and_a_narrow_lrn():
    """Scores of colours 200 times as large as in the image are rounded, to about 1e-4 in float32."""
    torch.manual_seed(6)
    network = Cascade(default_refiner(), LRN.narrow(K)).eval()
    image, logits = random(1, 3, 131, 97), random_logits(1, K, 131, 97)
    with torch.inference_mode():
        whole, tiled = network(image, logits), Tiled(network, 41)(image, logits)
    torch.testing.assert_close(tiled, whole, atol=1e-3, rtol=0)


@pytest.mark.parametrize("name", EXACT)
def test_fewer_pixels_around_a_tile_do_not_suffice(name: str, monkeypatch: pytest.MonkeyPatch):
    """Of LRN's the convolutions' radius is needed, which is larger than the neighbourhood's here."""
    context = BilateralLRN.context.fget
    monkeypatch.setattr(LRN, "context", property(lambda network: radius_of(network) - 1))
    monkeypatch.setattr(BilateralLRN, "context", property(lambda network: context(network) - 2 * network.grid))
    network, maps = lively(name), inputs(47, 43)
    with torch.inference_mode():
        assert (Tiled(network, 13)(*maps) - network(*maps)).abs().max() > 1e-6


def test_table_1_s_lrn_looks_ten_pixels_far():
    with torch.device("meta"):
        assert surroundings(LRN(19)) == Surroundings(10)
        assert surroundings(BilateralLRN()) == Surroundings(38, grid=2)


def test_contexts_add_up_one_after_another_and_overlap_counts_once():
    lrn, bilateral = LRN(K, 7, widths=(6,)), BilateralLRN()
    front = Front(TinyEncoder(), K)
    assert surroundings(Cascade()) == Surroundings(0)
    assert surroundings(Cascade(lrn, Parallel(lrn, bilateral))) == Surroundings(5 + 38, grid=2)
    assert surroundings(SceneParser(front, lrn)) == Surroundings(OVERLAP + 5, GRID, exact=False)
    cascade = SceneParser(front, Cascade(tiny_grn(K), bilateral))
    assert surroundings(cascade, overlap=7) == Surroundings(7 + 38, GRID, exact=False)
    assert surroundings(Ensemble(cascade, SceneParser(front, lrn)), 7) == Surroundings(7 + 38, GRID, exact=False)
    assert surroundings(MultiScale(cascade, scales=(0.5, 1.0)), 7) == Surroundings(7 + 76, GRID, exact=False)
    assert surroundings(lambda image: image, 7) == Surroundings(7, GRID, exact=False)


@given(length=st.integers(1, 300), size=st.integers(1, 70), context=st.integers(0, 50), grid=st.integers(1, 32))
@settings(deadline=None)
def test_parts_cover_a_line_once_and_see_what_is_around_them(length: int, size: int, context: int, grid: int):
    spans = list(Surroundings(context, grid).spans(length, size))
    pixels = list(range(length))
    assert [pixel for span in spans for pixel in pixels[span.answered]] == pixels
    for span in spans:
        assert 0 < span.stop - span.start <= size
        assert 0 <= span.first <= max(0, span.start - context)
        assert min(length, span.stop + context) <= span.last <= length
        assert span.first % grid == 0
        assert pixels[span.seen][span.inside] == pixels[span.answered]


def test_a_front_that_looks_no_farther_than_the_overlap_says_what_it_says_of_the_whole_image():
    torch.manual_seed(7)
    parser = SceneParser(Front(TinyEncoder(), K).double().eval(), lively("LRN"))
    image = random(2, 3, 181, 203).double()
    with torch.inference_mode():
        whole = parser(image)
        torch.testing.assert_close(Tiled(parser, 97)(image), whole, atol=1e-6, rtol=0)
        assert (Tiled(parser, 97, overlap=0)(image) - whole).abs().max() > 1e-3


def test_a_tile_larger_than_the_image_is_the_image():
    parser = Front(TinyEncoder(), K).eval()
    image = random(1, 3, 33, 41)
    assert torch.equal(Tiled(parser, 64)(image), parser(image))


@pytest.mark.parametrize(("size", "overlap"), [(0, 8), (64, -1)])
def test_sizes_that_are_none_are_refused(size: int, overlap: int):
    with pytest.raises(ValueError, match="give at least 1 pixel"):
        Tiled(LRN(K, 3, widths=(4,)), size, overlap)
