"""Palettes, overlays and panels."""

import jaxtyping
import numpy as np
import pytest
import torch

from rectiseg.types import IGNORE_INDEX
from rectiseg.visualize import (
    VERDICT_COLORS,
    VERDICTS,
    colorize,
    default_palette,
    error_delta,
    overlay,
    overlay_with_legend,
    panel,
    verdicts,
)
from rectiseg.visualize.panels import GAP, LARGEST_TILE, LINE, SMALLEST_TILE

PALETTE = np.array([[200, 0, 0], [0, 200, 0], [0, 0, 200]], np.uint8)
CLASSES = ("wall", "floor", "sky")


def maps(height: int, width: int) -> tuple[torch.Tensor, list[tuple[str, np.ndarray]]]:
    generator = np.random.default_rng(0)
    image = torch.from_numpy(generator.random((3, height, width), dtype=np.float32))
    return image, [(name, generator.integers(0, 3, (height, width))) for name in ("front", "+GRN", "+LRN")]


def colors_of(picture) -> set[tuple[int, ...]]:
    return {tuple(color) for color in np.unique(np.asarray(picture).reshape(-1, 3), axis=0).tolist()}


def test_a_default_palette_has_distinct_colours_none_of_them_black_or_white():
    colors = colors_of(default_palette(256))
    assert len(colors) == 256
    assert not colors & {(0, 0, 0), (255, 255, 255)}


def test_a_class_keeps_its_colour_when_classes_are_added():
    np.testing.assert_array_equal(default_palette(150)[:11], default_palette(11))


@pytest.mark.parametrize("num_classes", [0, 100_000])
def test_a_palette_of_impossible_length_is_refused(num_classes: int):
    with pytest.raises(ValueError, match=f"not {num_classes}; give your own"):
        default_palette(num_classes)


def test_labels_get_their_colours_and_the_ignored_black():
    colors = colorize(np.array([[2, 0, IGNORE_INDEX]], np.uint8), PALETTE)
    assert colors.dtype == np.uint8
    assert colors.tolist() == [[[0, 0, 200], [200, 0, 0], [0, 0, 0]]]


@pytest.mark.parametrize("label", [-1, 3])
def test_a_label_without_a_colour_is_refused(label: int):
    with pytest.raises(ValueError, match=r"outside the palette's 0\.\.2"):
        colorize(np.array([[0, label]]), PALETTE)


@pytest.mark.parametrize(("opacity", "expected"), [(0.0, [255, 0, 102]), (0.5, [228, 0, 51]), (1.0, [200, 0, 0])])
def test_opacity_goes_from_the_image_to_the_colours(opacity: float, expected: list[int]):
    image = torch.tensor([1, 0, 0.4]).view(3, 1, 1)
    assert overlay(image, np.array([[0]]), PALETTE, opacity).tolist() == [[expected]]


def test_an_overlay_needs_equal_sizes(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # a user's shapes are not checked
    with pytest.raises(ValueError, match=r"\(6, 7\) and its label map \(6, 8\)"):
        overlay(torch.zeros(3, 6, 7), np.zeros((6, 8), int), PALETTE)


@pytest.mark.parametrize("size", [(1, 1), (6, 7), (3, 3000), (3000, 3), (360, 480)])
def test_a_panel_is_readable_at_any_size(size: tuple[int, int]):
    image, stages = maps(*size)
    picture = panel(image, stages, CLASSES, PALETTE, truth=stages[0][1])
    assert 100 < picture.width <= 6 * (LARGEST_TILE + GAP) + GAP
    assert 100 < picture.height <= 6 * (LARGEST_TILE + GAP + LINE) + 3 * LINE


def test_small_images_are_enlarged_pixel_by_pixel():
    image = torch.zeros(3, 1, 2)
    image[0, 0, 1] = 1
    tile = np.asarray(panel(image, [("front", np.zeros((1, 2), int))], CLASSES, PALETTE))
    first_tile = tile[GAP // 2 + LINE :][: SMALLEST_TILE // 2, GAP : GAP + SMALLEST_TILE]
    assert colors_of(first_tile[:, : SMALLEST_TILE // 2]) == {(0, 0, 0)}
    assert colors_of(first_tile[:, SMALLEST_TILE // 2 :]) == {(255, 0, 0)}


def test_the_legend_names_the_classes_that_occur_and_no_others():
    image = torch.ones(3, 4, 5)
    labels = np.zeros((4, 5), int)
    picture = panel(image, [("front", labels)], CLASSES, PALETTE)
    assert (200, 0, 0) in colors_of(picture)  # overlays are mixed with the image: pure colours are the legend's
    assert not {(0, 200, 0), (0, 0, 200)} & colors_of(picture)


def test_changed_pixels_show_their_new_class():
    image = torch.ones(3, 4, 5)
    before, after = np.zeros((4, 5), int), np.zeros((4, 5), int)
    after[0, 0] = 2
    unchanged = panel(image, [("front", before), ("+LRN", before)], CLASSES, PALETTE)
    changed = panel(image, [("front", before), ("+LRN", after)], CLASSES, PALETTE)
    assert (0, 0, 200) not in colors_of(unchanged)
    assert (np.asarray(changed) == (0, 0, 200)).all(axis=-1).sum() >= (SMALLEST_TILE / 5) ** 2


def test_a_long_legend_takes_more_lines():
    image, labels = torch.ones(3, 100, 300), np.arange(150).repeat(200).reshape(100, 300)
    short = panel(image, [("front", labels % 2)], [f"class {index}" for index in range(150)], default_palette(150))
    long = panel(image, [("front", labels)], [f"class {index}" for index in range(150)], default_palette(150))
    assert long.width == short.width
    assert long.height > short.height + 5 * LINE


def test_a_name_longer_than_the_panel_widens_it():
    image, stages = maps(1, 1)
    picture = panel(image, stages[:1], ["a very long name " * 10] * 3, PALETTE)
    assert picture.width > 800


def test_every_class_needs_a_colour():
    image, stages = maps(2, 3)
    with pytest.raises(ValueError, match="2 classes and a palette of 3 colours"):
        panel(image, stages, CLASSES[:2], PALETTE)


def test_a_pixels_verdict_is_its_colour_and_what_stayed_right_is_the_dim_image():
    truth = np.array([[0, 0, 1, 2, 1, IGNORE_INDEX]])
    before = np.array([[0, 1, 1, 0, 0, 0]])
    after = np.array([[0, 0, 2, 0, 2, 1]])
    picture = error_delta(torch.ones(3, 1, 6), before, after, truth)
    names = [VERDICTS[kind] for kind in verdicts(before, after, truth)[0]]
    assert names == ["right as before", "mended", "broken", "still wrong", "still wrong", "not annotated"]
    assert picture[0].tolist() == [[142, 142, 142], *VERDICT_COLORS[[1, 2, 3, 3, 4]].tolist()]
    green, red = VERDICT_COLORS[1].astype(int), VERDICT_COLORS[2].astype(int)
    assert (green.argmax(), red.argmax()) == (1, 0)


def test_verdicts_need_maps_of_one_size(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # a user's shapes are not checked
    labels = np.zeros((6, 7), int)
    with pytest.raises(ValueError, match=r"\(6, 7\), \(6, 7\) and \(6, 8\): sizes must agree"):
        verdicts(labels, labels, np.zeros((6, 8), int))


def test_a_panel_with_the_truth_shows_what_was_mended_and_broken():
    image, before = torch.ones(3, 4, 5), np.zeros((4, 5), int)
    after, truth = before.copy(), before.copy()
    truth[0, 0] = after[0, 0] = after[3, 4] = 2
    stages = [("front", before), ("+LRN", after)]
    mended, broken = tuple(VERDICT_COLORS[1].tolist()), tuple(VERDICT_COLORS[2].tolist())
    assert {mended, broken} <= colors_of(panel(image, stages, CLASSES, PALETTE, truth))
    assert not {mended, broken} & colors_of(panel(image, stages, CLASSES, PALETTE))


def test_an_overlay_with_a_legend_has_the_pure_colours_of_the_classes_that_occur():
    labels = np.array([[0, 0, 2, 2, IGNORE_INDEX]])
    picture = overlay_with_legend(torch.ones(3, 1, 5), labels, CLASSES, PALETTE)
    assert {(200, 0, 0), (0, 0, 200), (0, 0, 0)} <= colors_of(picture)
    assert (0, 200, 0) not in colors_of(picture)
