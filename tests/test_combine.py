"""Parsers with refiners, refiners one after another and side by side."""

import pytest
import torch
from torch import Tensor, nn

from networks import TinyEncoder, random, random_logits, tiny_grn
from rectiseg.models.combine import Cascade, Parallel, SceneParser
from rectiseg.models.front import Front
from rectiseg.types import Parser, Refiner


class Add(nn.Module):
    def forward(self, image: Tensor, logits: Tensor) -> Tensor:
        return logits + image[:, :1]


class Double(nn.Module):
    def forward(self, image: Tensor, logits: Tensor) -> Tensor:
        return 2 * logits


def tiny_front() -> Front:
    torch.manual_seed(4)
    front = Front(TinyEncoder(), 5)
    nn.init.normal_(front.head.weight)
    return front.eval()


def test_a_cascade_runs_its_refiners_in_order() -> None:
    image, logits = random(1, 3, 6, 7), random_logits(1, 5, 6, 7)
    assert Cascade(Add(), Double())(image, logits).equal(2 * (logits + image[:, :1]))
    assert Cascade(Double(), Add())(image, logits).equal(2 * logits + image[:, :1])


def test_an_empty_cascade_changes_nothing() -> None:
    logits = random_logits(1, 5, 6, 7)
    assert Cascade()(random(1, 3, 6, 7), logits).equal(logits)


def test_parallel_is_the_logarithm_of_the_mean_probability() -> None:
    image, logits = random(1, 3, 6, 7), random_logits(1, 5, 6, 7, dtype=torch.float64)
    side_by_side: Refiner = Parallel(Double(), Cascade())
    mean = (logits.softmax(dim=1) + (2 * logits).softmax(dim=1)) / 2
    torch.testing.assert_close(side_by_side(image, logits), mean.log())


def test_parallel_stays_finite_where_probabilities_vanish() -> None:
    logits = 1000 * random_logits(1, 5, 6, 7)
    assert Parallel(Double(), Cascade())(random(1, 3, 6, 7), logits).isfinite().all()


def test_parallel_without_refiners_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one refiner"):
        Parallel()


def test_a_scene_parser_is_its_front_and_then_its_refiner() -> None:
    front, grn, image = tiny_front(), tiny_grn(), random(1, 3, 9, 14)
    parser: Parser = SceneParser(front, Cascade(grn, Double()), classes=("a", "b", "c", "d", "e"))
    with torch.inference_mode():
        assert parser(image).equal(2 * grn(image, front(image)))
