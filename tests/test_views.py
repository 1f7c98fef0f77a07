"""What a stage trains on: views of images and of stored confidences."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rectiseg.data.confidences import Confidences, View, store_confidences
from rectiseg.ops.resize import resized
from rectiseg.settings import generator_of
from rectiseg.types import IGNORE_INDEX
from rectiseg.views import ConfidenceViews, ImageViews
from tiny_stage import SCENES, SETTINGS, Doubtful, stored


def test_a_refiner_sees_the_stored_views_of_its_scales_only(tmp_path: Path):
    views = stored(tmp_path)
    assert {view.scale for view in views.confidences.views} == {0.75, 1.0}
    for scale in (0.75, 1.0):
        settings = replace(SETTINGS, scales=(scale,), crop=(40, 40))  # larger than any view: the rest is padding
        for seed in range(8):
            (image, logits), labels = views.view(0, settings, generator_of(seed))
            rows = int(21 * scale + 0.5)
            assert labels[:rows].ne(IGNORE_INDEX).any()
            assert labels[rows:].eq(IGNORE_INDEX).all()
            assert image[:, rows:].eq(0).all()
            assert logits[:, rows:].eq(0).all()


def test_a_scale_that_is_not_stored_is_made_from_full_size(tmp_path: Path):
    views = stored(tmp_path)
    crop = (80, 80)  # larger than any view: the rest is padding
    (image, logits), labels = views.view(0, replace(SETTINGS, scales=(2.0,), crop=crop), generator_of(0))
    (small_image, small_logits), small_labels = views.view(
        0, replace(SETTINGS, scales=(1.0,), crop=crop), generator_of(0)
    )
    rows, columns = (2 * side for side in SCENES[0].labels.shape)
    for large, small in ((image, small_image), (logits, small_logits)):
        known = small[:, : rows // 2, : columns // 2]
        assert torch.allclose(large[:, :rows, :columns], resized(known[None], (rows, columns))[0])
    assert torch.equal(labels[:rows:2, :columns:2], small_labels[: rows // 2, : columns // 2])
    assert labels[rows:].eq(IGNORE_INDEX).all()


def test_a_store_without_full_size_cannot_give_another_scale(tmp_path: Path):
    store_confidences(Doubtful(), SCENES, tmp_path, [View(0.75)], "doubtful")
    views = ConfidenceViews(Confidences(SCENES, tmp_path))
    with pytest.raises(ValueError, match=f"{tmp_path}: no confidences at full size or at scale 2 here"):
        views.view(0, replace(SETTINGS, scales=(2.0,)), generator_of(0))


def test_a_fronts_images_are_jittered_on_request_and_labels_and_crops_stay():
    plain, jittered = (replace(SETTINGS, jitter=amount) for amount in (0.0, 0.5))
    (before,), labels = ImageViews(SCENES).view(0, plain, generator_of(1))
    (after,), labels_after = ImageViews(SCENES).view(0, jittered, generator_of(1))
    assert torch.equal(labels, labels_after)
    assert not torch.allclose(before, after, atol=0.02)
    brightness = torch.stack([image.mean(dim=0).flatten() for image in (before, after)])
    assert torch.corrcoef(brightness)[0, 1] > 0.9  # the same picture in another light


def test_a_refiner_s_image_is_jittered_on_request_and_not_what_was_said_of_it(tmp_path: Path):
    views = stored(tmp_path)
    plain, jittered = (replace(SETTINGS, jitter=amount) for amount in (0.0, 0.5))
    (before, logits), labels = views.view(0, plain, generator_of(1))
    (after, logits_after), labels_after = views.view(0, jittered, generator_of(1))
    assert torch.equal(labels, labels_after)
    assert torch.equal(logits, logits_after)
    assert not torch.allclose(before, after, atol=0.02)


def test_what_was_said_is_moved_on_request_in_half_of_the_views_and_the_image_stays(tmp_path: Path):
    views = stored(tmp_path)
    plain, moving = (replace(SETTINGS, displacement=amount) for amount in (0.0, 4.0))
    moved = []
    for seed in range(40):
        (image, logits), labels = views.view(0, plain, generator_of(seed))
        (image_after, logits_after), labels_after = views.view(0, moving, generator_of(seed))
        assert torch.equal(image, image_after)
        assert torch.equal(labels, labels_after)
        pixels = {tuple(pixel.tolist()) for pixel in logits.flatten(1).T}
        assert all(tuple(pixel.tolist()) in pixels for pixel in logits_after.flatten(1).T)  # from somewhere else
        moved.append(not torch.equal(logits, logits_after))
    assert 10 <= sum(moved) <= 30
