"""A mean of neighbours that look alike, in one pass over memory, against one operator after another."""

import jaxtyping
import pytest
import torch

from networks import random_logits
from rectiseg.ops.bilateral import in_one_pass, propagate_alike
from rectiseg.types import Logits


def maps(height: int, width: int, side: int = 3, batch: int = 2) -> tuple[Logits, ...]:
    """Logits, scores, features, and these' weights."""
    logits = random_logits(batch, 5, height, width)
    scores, features = (random_logits(batch, bands, height, width, seed=2) for bands in (side**2, 4))
    return logits, scores, features, torch.tensor([0.1, 0.3, 1.0, 2.0])


@pytest.mark.parametrize("dilation", [1, 2, 16])
@pytest.mark.parametrize("size", [(1, 1), (7, 9), (3, 1025)])
@pytest.mark.parametrize("side", [1, 3, 5])
def test_one_pass_gives_what_the_operators_give(side: int, size: tuple[int, int], dilation: int):
    logits, scores, features, weights = maps(*size, side)
    expected = propagate_alike(logits.double(), scores.double(), features.double(), weights.double(), dilation)
    with torch.no_grad():
        assert in_one_pass(logits, scores, features)
        result = propagate_alike(logits, scores, features, weights, dilation)
    torch.testing.assert_close(result.double(), expected, rtol=1e-5, atol=1e-5)


def test_where_something_is_learned_all_of_it_has_gradients():
    inputs = tuple(one.requires_grad_() for one in maps(6, 7))
    assert not in_one_pass(*inputs)
    gradients = torch.autograd.grad(propagate_alike(*inputs).square().sum(), inputs)
    assert all(gradient.abs().sum() > 0 for gradient in gradients)


def test_memory_can_lie_in_any_order():
    logits, scores, features, weights = maps(6, 7)
    with torch.no_grad():
        expected = propagate_alike(logits, scores, features, weights)
        strange = [one.transpose(2, 3).contiguous().transpose(2, 3) for one in (logits, scores, features)]
        assert torch.equal(propagate_alike(*strange, weights), expected)


def test_what_is_unlike_counts_nothing():
    """Two halves of other colours: each keeps its own confidences."""
    features = torch.zeros(1, 1, 4, 6)
    features[..., 3:] = 1
    logits = torch.cat([features, -features], dim=1)
    with torch.no_grad():
        result = propagate_alike(logits, torch.zeros(1, 9, 4, 6), features, torch.tensor([1000.0]))
    torch.testing.assert_close(result, logits)


def test_sizes_that_differ_are_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # a user's shapes are not checked
    logits, scores, features, weights = maps(6, 7)
    with pytest.raises(ValueError, match="differ in batch, height, width"):
        propagate_alike(logits, scores[..., :-1], features, weights)
    for wrong, own in ((features[..., :-1], weights), (features[:1], weights), (features, weights[:-1])):
        with pytest.raises(ValueError, match="every feature needs a weight"):
            propagate_alike(logits, scores, wrong, own)
