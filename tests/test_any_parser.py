"""Confidences made into another parser's."""

from dataclasses import replace

import pytest
import torch

from networks import random_logits
from rectiseg.any_parser import Changes, coarse, imagined, merged, split, varied
from rectiseg.data.transforms import smooth_noise
from rectiseg.settings import generator_of
from rectiseg.types import IGNORE_INDEX

NONE = Changes(imagining=0, merging=0, splitting=0, coarsening=0, temperature=1, label_maps=0)
LOGITS = random_logits(5, 13, 7)
LABELS = LOGITS.argmax(dim=0)
LABELS[0] = IGNORE_INDEX
KNOWN = LABELS != IGNORE_INDEX


def test_without_changes_only_an_unused_class_comes_along():
    logits, labels = varied(LOGITS, LABELS, NONE, generator_of(0))
    torch.testing.assert_close(logits.softmax(dim=0)[:5], LOGITS.softmax(dim=0), atol=1e-5, rtol=0)
    assert logits.softmax(dim=0)[5].max() < 1e-5
    assert torch.equal(labels, LABELS)


@pytest.mark.parametrize("seed", range(8))
def test_merged_classes_have_the_probability_of_both_and_keep_what_was_right(seed: int):
    probabilities, labels = merged(LOGITS.softmax(dim=0), LABELS, generator_of(seed))
    torch.testing.assert_close(probabilities.sum(dim=0), torch.ones(13, 7))
    assert torch.equal(labels == IGNORE_INDEX, ~KNOWN)
    used = probabilities.amax(dim=(1, 2)) > 0
    assert 2 <= used.sum() <= 5
    own = probabilities.gather(0, labels.where(KNOWN, 0)[None])[0]
    before = LOGITS.softmax(dim=0).gather(0, LABELS.where(KNOWN, 0)[None])[0]
    assert (own[KNOWN] >= before[KNOWN] - 1e-6).all()


@pytest.mark.parametrize("seed", range(8))
def test_a_sibling_takes_at_most_half_of_one_class(seed: int):
    before = LOGITS.softmax(dim=0)
    after, labels = split(before, LABELS, generator_of(seed))
    torch.testing.assert_close(after.sum(dim=0), torch.ones(13, 7))
    (one,) = (after[:5] != before).flatten(1).any(dim=1).nonzero().flatten().tolist()
    assert (after[5] <= after[one]).all()
    assert torch.equal(labels, LABELS)


def test_coarse_probabilities_are_of_the_same_size_and_still_add_up():
    probabilities = coarse(LOGITS.softmax(dim=0), 4)
    torch.testing.assert_close(probabilities.sum(dim=0), torch.ones(13, 7))
    assert probabilities.var() < LOGITS.softmax(dim=0).var()


def test_coarse_probabilities_stay_where_they_were():
    """A ramp from left to right is one afterwards: its middle has not moved."""
    ramp = torch.linspace(0, 1, 16).expand(1, 8, 16)
    torch.testing.assert_close(coarse(ramp, 2)[..., 2:-2], ramp[..., 2:-2])


def test_a_label_map_names_what_was_likeliest():
    logits, _ = varied(LOGITS, LABELS, replace(NONE, label_maps=1), generator_of(0))
    assert torch.equal(logits.argmax(dim=0), LOGITS.argmax(dim=0))
    assert len(logits.unique()) < 100


REGIONS = torch.arange(41 * 57).view(41, 57) // (57 * 14) * 2 + (torch.arange(57) > 28)  # 3 x 2 of them
REGIONS[:4, :4] = IGNORE_INDEX


def test_imagined_confidences_without_mistakes_are_the_labels():
    """But for the regions' corners, which are rounded."""
    logits = imagined(REGIONS, 6, Changes(displacement=0, mistaken=0, favor=0), generator_of(0))
    labels = logits.argmax(dim=0)
    inner = REGIONS != IGNORE_INDEX
    assert (labels == REGIONS)[inner].float().mean() > 0.98
    torch.testing.assert_close(logits[:, 0, 0], logits[0, 0, 0].expand(6))


@pytest.mark.parametrize("seed", range(4))
def test_imagined_boundaries_miss_and_regions_are_mistaken(seed: int):
    logits = imagined(REGIONS, 6, Changes(), generator_of(seed))
    right = (logits.argmax(dim=0) == REGIONS)[REGIONS != IGNORE_INDEX].float().mean()
    assert logits.isfinite().all()
    assert 0.6 < right < 1


def test_smooth_noise_has_neighbours_alike():
    noise = smooth_noise(2, (41, 57), 12, generator_of(0))
    assert noise.shape == (2, 41, 57)
    assert 0.3 < noise.std() < 2
    assert noise.diff(dim=-1).abs().max() < 0.5


def test_the_same_generator_gives_the_same_change():
    everything = Changes(merging=1, splitting=1, coarsening=1)
    first, second = (varied(LOGITS, LABELS, everything, generator_of(7)) for _ in range(2))
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])
