"""What a stage trains on: views of images and of stored confidences."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rectiseg.settings import generator_of
from rectiseg.types import IGNORE_INDEX
from rectiseg.views import ImageViews
from tiny_stage import SCENES, SETTINGS, stored


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
    with pytest.raises(ValueError, match=f"{tmp_path}: no confidences at scale 2 are stored"):
        views.view(0, replace(SETTINGS, scales=(2.0,)), generator_of(0))


def test_a_fronts_images_are_jittered_on_request_and_labels_and_crops_stay():
    plain, jittered = (replace(SETTINGS, jitter=amount) for amount in (0.0, 0.5))
    (before,), labels = ImageViews(SCENES).view(0, plain, generator_of(1))
    (after,), labels_after = ImageViews(SCENES).view(0, jittered, generator_of(1))
    assert torch.equal(labels, labels_after)
    assert not torch.allclose(before, after, atol=0.02)
    brightness = torch.stack([image.mean(dim=0).flatten() for image in (before, after)])
    assert torch.corrcoef(brightness)[0, 1] > 0.9  # the same picture in another light
