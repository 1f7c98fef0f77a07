"""Multi-scale and mirrored views of one parser, and several parsers, fused into one answer."""

import jaxtyping
import pytest
import torch
from torch import Tensor, nn

from networks import random
from rectiseg.models.combine import Cascade, SceneParser
from rectiseg.models.fusion import Ensemble, MultiScale
from rectiseg.types import Parser


class Brightness(nn.Module):
    """Two classes: how dark and how bright a pixel is. Remembers the sizes that it saw."""

    def __init__(self, slope: float = 4.0):
        super().__init__()
        self.slope = slope
        self.seen: list[tuple[int, int]] = []

    def forward(self, image: Tensor) -> Tensor:
        self.seen.append((image.shape[-2], image.shape[-1]))
        return self.slope * torch.cat([-image[:, :1], image[:, :1]], dim=1)


class Column(nn.Module):
    """Two classes: how far a pixel is from the left."""

    def forward(self, image: Tensor) -> Tensor:
        column = torch.arange(float(image.shape[-1])).expand(len(image), 1, *image.shape[-2:])
        return torch.cat([column, -column], dim=1)


def test_one_scale_without_the_mirror_is_the_parser_itself():
    image = random(2, 3, 6, 7)
    fused: Parser = MultiScale(Brightness(), scales=(1.0,), flip=False)
    torch.testing.assert_close(fused(image), Brightness()(image).log_softmax(dim=1))
    assert MultiScale(Brightness(), scales=(1.0,), flip=False, mean="logits")(image).equal(Brightness()(image))


def test_the_parser_sees_every_size_and_its_mirror_image():
    parser = Brightness()
    MultiScale(parser, scales=(0.5, 1.0, 1.25))(random(1, 3, 9, 14))
    assert parser.seen == [(4, 7), (4, 7), (9, 14), (9, 14), (11, 18), (11, 18)]


def test_a_mirrored_answer_is_turned_back():
    image = random(1, 3, 6, 7)
    brightness = MultiScale(Brightness(), scales=(1.0,), flip=True)
    torch.testing.assert_close(brightness(image), Brightness()(image).log_softmax(dim=1))
    column = MultiScale(Column(), scales=(1.0,), flip=True)(image).exp()
    torch.testing.assert_close(column, column.flip(-1))


def test_the_mean_is_of_probabilities_or_on_request_of_logits():
    image = random(1, 3, 6, 7)
    logits = Column()(image), Column()(image.flip(-1)).flip(-1)
    probabilities = (logits[0].softmax(dim=1) + logits[1].softmax(dim=1)) / 2
    torch.testing.assert_close(MultiScale(Column(), (1.0,))(image).exp(), probabilities)
    assert MultiScale(Column(), (1.0,), mean="logits")(image).equal((logits[0] + logits[1]) / 2)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (13, 7)])
def test_any_size_works_and_the_answer_is_a_distribution(size: tuple[int, int]):
    fused = MultiScale(Brightness())(random(1, 3, *size))
    assert fused.shape == (1, 2, *size)
    torch.testing.assert_close(fused.exp().sum(dim=1), torch.ones(1, *size))


def test_a_flat_image_is_the_same_at_every_scale():
    image = torch.full((1, 3, 9, 14), 0.25)
    torch.testing.assert_close(MultiScale(Brightness())(image), Brightness()(image).log_softmax(dim=1))


@pytest.mark.parametrize("scales", [(), (1.0, 0.0), (-0.5,)])
def test_no_scale_or_one_that_is_not_positive_is_refused(scales: tuple[float, ...]):
    with pytest.raises(ValueError, match="one positive scale or more"):
        MultiScale(Brightness(), scales)


def test_a_misspelt_mean_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # outside the tests nothing checks types
    with pytest.raises(ValueError, match="mean='logit' is none of probabilities, logits"):
        MultiScale(Brightness(), mean="logit")  # pyright: ignore


def test_an_ensemble_is_the_logarithm_of_the_mean_probability():
    image = random(1, 3, 6, 7)
    three = [Brightness(slope) for slope in (1.0, 2.0, 500.0)]
    ensemble: Parser = Ensemble(*three)
    mean = torch.stack([parser(image).softmax(dim=1) for parser in three]).mean(dim=0)
    torch.testing.assert_close(ensemble(image).exp(), mean)
    assert ensemble(image).isfinite().all()


def test_an_ensemble_needs_parsers_and_all_of_the_same_classes():
    parsers = [SceneParser(Brightness(), Cascade(), classes) for classes in (("dark", "bright"), ("bright", "dark"))]
    Ensemble(parsers[0], parsers[0], Brightness())
    for refused in (parsers, []):
        with pytest.raises(ValueError, match="all of the same classes in the same order"):
            Ensemble(*refused)
