"""File to file: which files are written, what is in them, and what happens to the others when one fails."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from torch import Tensor, nn

from heard import Heard
from networks import random
from rectiseg import inference, visualize
from rectiseg.data.images import read_image, read_label_map
from rectiseg.inference import Wanted, device_of, names_and_colors, stages
from rectiseg.jobs import plan
from rectiseg.models.combine import Cascade, Parallel, SceneParser
from rectiseg.models.fusion import Ensemble, MultiScale
from rectiseg.models.lrn import LRN
from rectiseg.prediction import predict_files

CLASSES = ("red", "green", "blue")
PALETTE = np.array([[200, 0, 0], [0, 200, 0], [0, 0, 200]], np.uint8)


class Brightest(nn.Module):
    """A front: the class of a pixel is its strongest channel."""

    calls = 0

    def forward(self, image: Tensor) -> Tensor:
        self.calls += 1
        return 5 * image


class Add(nn.Module):
    """A refiner that favours one class."""

    def __init__(self, index: int, amount: float):
        super().__init__()
        self.amounts = nn.Parameter(amount * torch.eye(3)[index].view(1, 3, 1, 1))

    def forward(self, image: Tensor, logits: Tensor) -> Tensor:
        return logits + self.amounts


class Subtract(Add):
    def forward(self, image: Tensor, logits: Tensor) -> Tensor:
        return logits - self.amounts


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def expected_labels() -> np.ndarray:
    return np.array([[0] * 7] * 3 + [[2] * 7] * 3)


def test_every_image_gets_a_label_map_below_the_same_tree(photos: Path, tmp_path: Path):
    jobs = plan([photos], tmp_path / "out")
    assert predict_files(Brightest().eval(), jobs, CLASSES, PALETTE) == []
    assert files(tmp_path / "out") == ["1.png", "may/2.png", "may/3.png"]
    for job in jobs:
        np.testing.assert_array_equal(read_label_map(job.labels), expected_labels())


def test_a_label_map_shows_its_palette(photos: Path, tmp_path: Path):
    predict_files(Brightest().eval(), plan([photos / "1.png"], tmp_path / "out"), CLASSES, PALETTE)
    shown = np.asarray(Image.open(tmp_path / "out" / "1.png").convert("RGB"))
    np.testing.assert_array_equal(shown, PALETTE[expected_labels()])


def test_what_is_asked_for_lies_beside_the_label_map(photos: Path, tmp_path: Path):
    jobs = plan([photos / "1.png"], tmp_path / "out")
    predict_files(Brightest().eval(), jobs, CLASSES, PALETTE, Wanted(overlay=True, panel=True, probabilities=True))
    assert files(tmp_path / "out") == ["1.png", "1_overlay.png", "1_panel.png", "1_probabilities.safetensors"]
    overlay, labels = np.asarray(Image.open(jobs[0].overlay)), read_label_map(jobs[0].labels)
    image = read_image(photos / "1.png")
    np.testing.assert_array_equal(overlay[:6, :7], visualize.overlay(image, labels, PALETTE))
    assert len(overlay) > 6  # the legend
    assert Image.open(jobs[0].panel).width > 200


def test_a_panel_shows_every_stage_and_what_they_changed(photos: Path, tmp_path: Path):
    parser = SceneParser(Brightest(), Cascade(Add(0, 6.0), Subtract(0, 12.0))).eval()
    (job,) = plan([photos / "1.png"], tmp_path / "out")
    assert predict_files(parser, [job], CLASSES, PALETTE, Wanted(panel=True)) == []
    halves = {"front": (0, 2), "+Add": (0, 0), "+Subtract": (1, 2)}  # the labels of the upper and of the lower one
    stages = [(name, np.repeat(labels, 3)[:, np.newaxis].repeat(7, axis=1)) for name, labels in halves.items()]
    picture = np.asarray(Image.open(job.panel))
    np.testing.assert_array_equal(picture, visualize.panel(read_image(job.image), stages, CLASSES, PALETTE))
    colors, counts = np.unique(picture.reshape(-1, 3), axis=0, return_counts=True)
    half = 3 * 7 * 29**2  # a pixel is enlarged 29 times
    found = dict(zip(map(tuple, colors.tolist()), (counts // half).tolist(), strict=True))
    image = {(255, 0, 0): 1, (0, 0, 255): 1}
    mixtures = {(228, 0, 0): 2, (0, 0, 228): 2, (100, 0, 128): 1, (128, 100, 0): 1}
    changes = {(0, 200, 0): 1, (74, 74, 74): 1}
    assert found.items() >= (image | mixtures | changes).items()


def test_probabilities_are_half_precision_with_the_classes_names(photos: Path, tmp_path: Path):
    jobs = plan([photos / "1.png"], tmp_path / "out")
    predict_files(Brightest().eval(), jobs, CLASSES, PALETTE, Wanted(probabilities=True))
    with safe_open(jobs[0].probabilities, "pt") as file:
        probabilities = file.get_tensor("probabilities")
        assert json.loads(file.metadata()["classes"]) == list(CLASSES)
    assert probabilities.dtype == torch.float16
    assert probabilities.shape == (3, 6, 7)
    expected = torch.tensor([5.0, 0, 0]).softmax(dim=0).half()
    torch.testing.assert_close(probabilities[:, 0, 0], expected)


def test_labels_are_the_same_whether_probabilities_are_wanted_or_not():
    """Without them LRN, where it comes last, is only evaluated where it can change a label."""
    torch.manual_seed(1)
    lrn = LRN(3, 5, widths=(6, 7)).eval()
    nn.init.normal_(lrn.head.weight, std=0.5)
    image = torch.rand(3, 13, 17, generator=torch.Generator().manual_seed(0)).round()
    with_probabilities, labels_only = (
        inference.predict(SceneParser(Brightest(), lrn), image, confidences) for confidences in (True, False)
    )
    np.testing.assert_array_equal(labels_only.labels, with_probabilities.labels)
    assert (labels_only.labels != labels_only.stages[0][1]).any()
    assert labels_only.logits is None


def test_more_classes_than_a_palette_holds_are_written_without_one(photos: Path, tmp_path: Path):
    def parser(image: Tensor) -> Tensor:
        return torch.arange(300.0).view(1, 300, 1, 1).expand(1, 300, *image.shape[-2:])

    palette = np.zeros((300, 3), np.uint8)
    jobs = plan([photos / "1.png"], tmp_path / "out")
    assert predict_files(parser, jobs, [str(index) for index in range(300)], palette) == []
    assert (read_label_map(jobs[0].labels) == 299).all()


def test_a_broken_image_is_named_and_the_others_are_done(photos: Path, tmp_path: Path):
    broken = photos / "may" / "2.jpg"
    broken.write_bytes(b"no image")
    reporter = Heard()
    failures = predict_files(Brightest().eval(), plan([photos], tmp_path / "out"), CLASSES, PALETTE, reporter=reporter)
    assert [failure.image for failure in failures] == [broken]
    assert failures[0].sentence.startswith(f"{broken}: empty, broken or not one of")
    assert files(tmp_path / "out") == ["1.png", "may/3.png"]
    assert reporter.done == 3


def fails_with(error: Exception):
    def parser(image: Tensor) -> Tensor:
        raise error

    return parser


@pytest.mark.parametrize(
    ("parser", "sentence"),
    [
        (fails_with(ValueError("too thin")), "too thin"),
        (fails_with(MemoryError()), "does not fit in memory; cut it into smaller images"),
        (fails_with(torch.OutOfMemoryError()), "does not fit in memory; cut it into smaller images"),
        (lambda image: torch.empty(1, 2**50), "does not fit in memory; cut it into smaller images"),
        (lambda image: image * torch.nan, "gave confidences that are not numbers (NaN)"),
        (lambda image: image[:, :, ::2], "gave confidence maps of (3, 7) for an image of (6, 7)"),
    ],
)
def test_an_image_that_the_parser_cannot_do_is_named(parser, sentence: str, photos: Path, tmp_path: Path):
    image = photos / "1.png"
    (failure,) = predict_files(parser, plan([image], tmp_path / "out"), CLASSES, PALETTE)
    assert failure.image == image
    assert failure.sentence.startswith(f"{image}: ")
    assert sentence in failure.sentence
    assert not (tmp_path / "out").exists()


def test_a_mistake_of_ours_is_not_hidden(photos: Path, tmp_path: Path):
    with pytest.raises(RuntimeError, match="shapes"):
        predict_files(fails_with(RuntimeError("shapes")), plan([photos], tmp_path / "out"), CLASSES, PALETTE)


def test_an_error_while_writing_leaves_no_part_of_a_file(photos: Path, tmp_path: Path, monkeypatch):
    def full_disk(self, path, *arguments, **options):
        Path(path).write_bytes(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full_disk)
    with pytest.raises(ValueError, match=r"1\.png: cannot be written .*No space left"):
        predict_files(Brightest().eval(), plan([photos], tmp_path / "out"), CLASSES, PALETTE, Wanted(overlay=True))
    assert files(tmp_path / "out") == []


def test_the_label_map_is_written_last(photos: Path, tmp_path: Path, monkeypatch):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(inference.visualize, "panel", interrupted)
    (job,) = plan([photos / "1.png"], tmp_path / "out")
    with pytest.raises(KeyboardInterrupt):
        predict_files(Brightest().eval(), [job], CLASSES, PALETTE, Wanted(overlay=True, panel=True))
    assert job.overlay.exists()
    assert not job.labels.exists()


@pytest.mark.parametrize(
    ("classes", "palette", "sentence"),
    [
        (CLASSES, PALETTE[:2], "3 classes and a palette of 2 colours"),
        (CLASSES[:2], PALETTE[:2], "the parser knows 3 classes, 2 were named"),
    ],
)
def test_classes_that_do_not_match_stop_the_work(classes, palette, sentence: str, photos: Path, tmp_path: Path):
    with pytest.raises(ValueError, match=sentence):
        predict_files(Brightest().eval(), plan([photos], tmp_path / "out"), classes, palette)
    assert not (tmp_path / "out").exists()


def test_a_parser_in_training_mode_is_refused(photos: Path, tmp_path: Path):
    with pytest.raises(ValueError, match=r"call parser\.eval\(\) first"):
        predict_files(Brightest().train(), plan([photos], tmp_path / "out"), CLASSES, PALETTE)


def test_stages_name_what_came_last_and_end_in_the_parser_s_answer():
    parser = SceneParser(Brightest(), Cascade(Add(1, 2.0), Cascade(Subtract(0, 1.0), Add(2, 3.0))))
    image = torch.rand(1, 3, 6, 7)
    found = dict(enumerate(stages(parser, image)))
    assert [name for name, _ in found.values()] == ["front", "+Add", "+Subtract", "+Add"]
    torch.testing.assert_close(found[0][1], 5 * image)
    torch.testing.assert_close(found[3][1], parser(image))


def test_each_stage_is_computed_once():
    front = Brightest()
    list(stages(SceneParser(front, Cascade(Add(1, 2.0), Add(2, 3.0))), torch.rand(1, 3, 6, 7)))
    assert front.calls == 1


def test_a_parser_with_a_refiner_may_be_a_front():
    parser = SceneParser(SceneParser(Brightest(), Add(1, 2.0)), Subtract(0, 1.0))
    assert [name for name, _ in stages(parser, torch.rand(1, 3, 6, 7))] == ["front", "+Add", "+Subtract"]


def test_refiners_side_by_side_are_one_stage():
    parser = SceneParser(Brightest(), Parallel(Add(1, 2.0), Add(2, 3.0)))
    assert [name for name, _ in stages(parser, torch.rand(1, 3, 6, 7))] == ["front", "+Parallel"]


def test_any_function_is_a_parser_of_one_stage():
    ((name, logits),) = stages(lambda image: 2 * image, torch.ones(1, 3, 6, 7))
    assert name == "front"
    assert (logits == 2).all()


def test_confidences_that_are_not_numbers_are_refused_at_every_stage():
    parser = SceneParser(Brightest(), Cascade(Add(1, 2.0), Add(2, torch.nan)))
    image = random(1, 3, 6, 7)
    found = stages(parser, image)
    assert [next(found)[0], next(found)[0]] == ["front", "+Add"]
    with pytest.raises(ValueError, match=r"not numbers \(NaN\)"):
        next(found)
    with pytest.raises(ValueError, match=r"not numbers \(NaN\)"):
        inference.predict(parser, image[0])


def named(front: nn.Module) -> SceneParser:
    return SceneParser(front, Cascade(), CLASSES, tuple(map(tuple, PALETTE.tolist())))


@pytest.mark.parametrize(
    "parser",
    [
        named(Brightest()),
        SceneParser(named(Brightest()), LRN(3)),
        MultiScale(named(Brightest())),
        Ensemble(Brightest(), named(Brightest())),
        SceneParser(MultiScale(named(Brightest())), Cascade()),
    ],
    ids=["named", "refined", "scales", "several", "scales, refined"],
)
def test_names_and_colours_are_those_of_the_parser_inside(parser: nn.Module):
    classes, palette = names_and_colors(parser)
    assert classes == CLASSES
    np.testing.assert_array_equal(palette, PALETTE)


def test_classes_without_names_are_numbered():
    for parser in (SceneParser(Brightest(), LRN(3)), MultiScale(SceneParser(Brightest(), LRN(3)))):
        classes, palette = names_and_colors(parser)
        assert classes == ("class 0", "class 1", "class 2")
        np.testing.assert_array_equal(palette, visualize.default_palette(3))
    with pytest.raises(ValueError, match="does not say which classes it knows"):
        names_and_colors(SceneParser(Brightest(), Cascade()))


def test_images_go_where_the_parser_is():
    assert device_of(Add(1, 2.0)) == torch.device("cpu")
    assert device_of(Add(1, 2.0).to("meta")) == torch.device("meta")
    assert device_of(lambda image: image) == torch.device("cpu")
