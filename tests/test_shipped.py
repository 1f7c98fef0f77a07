"""The parser and the refiner that ship with the package, on real photographs."""

from pathlib import Path

import pytest
import torch

import rectiseg
from networks import random, random_logits
from rectiseg.data.datasets import CamVid, Sample
from rectiseg.inference import stages
from rectiseg.metrics import ConfusionMatrix
from rectiseg.models.checkpoint import SHIPPED, SHIPPED_REFINER, load_parser, read_training
from rectiseg.models.combine import SceneParser
from rectiseg.models.light_encoder import LightEncoder
from rectiseg.refinement import default_refiner

ROOT = Path(__file__).parent.parent
SIXTEEN_MEGABYTES, TWO_MEGABYTES = 16_000_000, 2_000_000


@pytest.fixture(scope="module")
def parser() -> SceneParser:
    return load_parser()


@pytest.fixture(scope="module")
def samples(camvid: Path) -> list[Sample]:
    """Three of val's images, far apart."""
    val = CamVid(camvid, "val")
    return [val[index] for index in (0, 50, 100)]


def test_it_is_small_and_says_how_it_was_trained():
    assert SHIPPED.stat().st_size < SIXTEEN_MEGABYTES
    assert {"recipe", "dataset", "seed", "machine", "front_seconds"} <= read_training(SHIPPED).keys()


def test_it_parses_a_photograph_of_any_size(parser: SceneParser):
    photograph = rectiseg.read_image(ROOT / "examples" / "street.jpg")[None, :, 100:231, 200:413]
    with torch.inference_mode():
        logits = parser(photograph)
    assert logits.shape == (1, 11, 131, 213)
    assert logits.isfinite().all()


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 9), (17, 5)])
def test_every_stage_answers_the_smallest_images(height: int, width: int, parser: SceneParser):
    assert isinstance(parser.refiner.refiners[0].encoder, LightEncoder)  # pyright: ignore
    with torch.inference_mode():
        said = dict(stages(parser, random(1, 3, height, width)))
    assert list(said) == ["front", "+GRN", "+BilateralLRN"]
    assert not said["+GRN"].equal(said["front"])
    for name, logits in said.items():
        assert logits.shape == (1, 11, height, width), name
        assert logits.isfinite().all(), name


def test_a_street_is_mostly_road_and_sky(parser: SceneParser):
    photograph = rectiseg.read_image(ROOT / "examples" / "street.jpg")[None]
    with torch.inference_mode():
        labels = parser(photograph).argmax(dim=1)[0]
    assert (labels[:60] == parser.classes.index("sky")).float().mean() > 0.7
    assert (labels[-100:, 300:800] == parser.classes.index("road")).float().mean() > 0.9


@pytest.mark.parametrize("refiner", ["its own", "for any classes"])
def test_refiners_mend_more_pixels_than_they_break(refiner: str, parser: SceneParser, samples: list[Sample]):
    refine = parser.refiner if refiner == "its own" else default_refiner()
    before, after = ConfusionMatrix(11), ConfusionMatrix(11)
    with torch.inference_mode():
        for sample in samples:
            image, labels = sample.image[None], sample.labels[None]
            logits = parser.front(image)
            before.update(logits.argmax(dim=1), labels)
            after.update(refine(image, logits).argmax(dim=1), labels)
    assert after.scores().pixel_accuracy > before.scores().pixel_accuracy


def test_the_refiner_for_any_classes_is_small_and_says_what_it_learned_from():
    assert SHIPPED_REFINER.stat().st_size < TWO_MEGABYTES
    assert {"parsers", "steps", "seed", "machine"} <= read_training(SHIPPED_REFINER).keys()


@pytest.mark.parametrize("classes", [2, 1000])
def test_it_follows_any_classes(classes: int):
    image, logits = random(1, 3, 9, 13), random_logits(1, classes, 9, 13)
    refined = default_refiner()(image, logits)
    assert refined.shape == logits.shape
    assert refined.isfinite().all()
