"""`rectiseg report`: the numbers, the pictures and the page."""

import base64
import json
import re
import sys
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from rectiseg import cli
from rectiseg.data.datasets import Sample
from rectiseg.data.files import save_file
from rectiseg.data.scenes import SCENE_CLASSES, SCENE_PALETTE
from rectiseg.models.combine import Cascade, SceneParser
from rectiseg.models.efficientnet_lite import EfficientNetLite
from rectiseg.models.front import Front
from rectiseg.models.grn import GRN
from rectiseg.models.lrn import LRN
from rectiseg.progress import Reporter
from rectiseg.report.calibration import curve, expected_calibration_error, reliability
from rectiseg.report.cases import Answer, Case, Insight, ModelCases
from rectiseg.report.figures import plot_trainings
from rectiseg.report.measure import measure, worst_and_best
from rectiseg.report.page import page
from rectiseg.types import IGNORE_INDEX

VOID = {"img", "input", "meta"}
TRUTH = torch.tensor([[0, 0, 0, 1, 1, 1, IGNORE_INDEX]] * 6)
BEFORE = TRUTH.where(TRUTH != IGNORE_INDEX, 2).clone()
BEFORE[0, :2] = 1  # two mistakes


class Told:
    """Images 6 x 7 with planted mistakes: the first gains, the second loses, the third stays."""

    classes = ("road", "<car>", "ghost")
    palette = ((200, 0, 0), (0, 200, 0), (0, 0, 200))
    titles = ("front", "front +LRN")

    def __init__(self, sure: bool = True, labelled: bool = True):
        self.sure, self.labelled = sure, labelled

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> Case:
        before, after = [(BEFORE, TRUTH.clamp(max=2)), (TRUTH.clamp(max=2), BEFORE), (BEFORE, BEFORE)][index]
        truth = TRUTH if self.labelled else torch.full_like(TRUTH, IGNORE_INDEX)
        confidence = torch.full(TRUTH.shape, 0.75) if self.sure else None
        image = torch.full((3, 6, 7), 0.5)
        return Case(f"<{index}>", image, Answer(before, confidence), Answer(after, confidence), truth)

    def insights(self, index: int) -> list[Insight]:
        return [("weights", Image.new("RGB", (5, 4), "red"))]


class Parsed(HTMLParser):
    """The elements of a page in which every tag is closed."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def written(cases: Told, count: int = 4) -> str:
    return page(cases, measure(cases, Reporter()), "a test", count)


def picture_of(image: dict[str, str | None]) -> np.ndarray:
    _, data = (image["src"] or "").split("base64,")
    return np.asarray(Image.open(BytesIO(base64.b64decode(data))).convert("RGB"))


def test_gains_and_changes_are_of_each_image():
    first, second, third = measure(Told(), Reporter()).outcomes
    assert first.gain == -second.gain > 0
    assert third.gain == third.changed == 0
    assert first.changed == pytest.approx(2 / 42)


def test_both_sides_have_the_sums_of_all_images():
    measured = measure(Told(), Reporter())
    assert measured.before.scores.pixel_accuracy == pytest.approx((34 + 36 + 34) / 108)
    assert measured.before.reliability[:, 0].sum() == 108


@pytest.mark.parametrize("labelled", [True, False])
def test_the_worst_come_first_by_gain_or_else_by_change(labelled: bool):
    measured = measure(Told(labelled=labelled), Reporter())
    low, high = worst_and_best(measured, 1).values()
    assert [one.index for one in low] == [1 if labelled else 0]
    assert [one.index for one in high] == [0 if labelled else 2]
    (everything,) = worst_and_best(measured, 2).values()
    assert [one.index for one in everything] == ([1, 2, 0] if labelled else [0, 1, 2])


def test_who_is_surer_than_right_has_the_difference_as_calibration_error():
    labels = torch.tensor([[0, 0, 1, IGNORE_INDEX]])
    counts = reliability(torch.zeros_like(labels), torch.tensor([[0.9, 0.9, 0.6, 0.1]]), labels)
    assert expected_calibration_error(counts) == pytest.approx((2 * 0.1 + 0.6) / 3)
    np.testing.assert_allclose(curve(counts), [(0.6, 0.0), (0.9, 1.0)], rtol=1e-6)


def test_the_page_needs_nothing_from_outside():
    text = written(Told())
    assert not re.search(r"https?:|//[a-z]|@import|url\(", re.sub('base64,[^"]+', "", text))
    parsed = Parsed(text)
    assert all((image["src"] or "").startswith("data:image/") for image in parsed.all("img"))
    assert not parsed.all("link")
    assert all("src" not in script for script in parsed.all("script"))


def test_every_picture_plot_and_slider_says_what_it_is():
    parsed = Parsed(written(Told()))
    assert all(image["alt"] for image in parsed.all("img"))
    assert all(plot["aria-label"] for plot in parsed.all("svg"))
    ranges = [one for one in parsed.all("input") if one["type"] == "range"]
    assert len(ranges) == 2 * 3
    assert all(one["aria-label"] for one in ranges)


def test_the_page_has_the_plots_and_the_figures():
    text = written(Told())
    titles = [plot["aria-label"] for plot in Parsed(text).all("svg")]
    assert len(titles) == 4
    assert "Reliability" in titles
    accuracy = 100 * measure(Told(), Reporter()).before.scores.pixel_accuracy
    assert f"pixel accuracy</th><td>{accuracy:.2f}</td>" in text
    assert "&lt;car&gt;" in text
    assert "<car>" not in text


def test_planted_mistakes_have_their_colours():
    images = [one for one in Parsed(written(Told())).all("img") if "mended" in (one["alt"] or "")]
    lost, same, gained = (picture_of(one).astype(int) for one in images)
    red, green = lost[0, 0], gained[0, 0]
    assert red.argmax() == 0
    assert green.argmax() == 1
    assert np.ptp(same[5, 0]) < 20  # what stayed right is grey


def test_a_slider_lies_over_the_label_maps_themselves():
    images = {one["alt"]: one for one in Parsed(written(Told())).all("img")}
    before = picture_of(images["<0>: labels of front"])
    expected = np.array(Told.palette)[BEFORE]
    np.testing.assert_array_equal(before, expected)


def test_label_maps_have_no_calibration_and_the_page_says_so():
    text = written(Told(sure=False))
    assert "Reliability" not in [plot["aria-label"] for plot in Parsed(text).all("svg")]
    assert "calibration cannot be measured" in text


def test_without_annotation_the_page_shows_what_changed():
    text = written(Told(labelled=False))
    assert not Parsed(text).all("svg")
    assert "Nothing is annotated" in text
    assert "Share of the pixels" in text
    assert "the truth" not in text


def tiny_parser() -> SceneParser:
    torch.manual_seed(0)
    classes = len(SCENE_CLASSES)
    cascade = Cascade(GRN(EfficientNetLite(0), classes, iterations=2), LRN.narrow(classes, 3))
    return SceneParser(Front(EfficientNetLite(0), classes), cascade, SCENE_CLASSES, SCENE_PALETTE).eval()


class OneScene:
    classes, palette, names = SCENE_CLASSES, SCENE_PALETTE, ("scene",)

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> Sample:
        return Sample(torch.rand(3, 33, 45), torch.zeros(33, 45, dtype=torch.int64), "scene")


def test_a_models_case_is_its_front_and_its_last_refiner_with_what_happens_inside():
    cases = ModelCases(tiny_parser(), OneScene())
    assert cases.titles == ("front", "front +GRN +LRN")
    case = cases[0]
    assert case.before.labels.shape == case.after.labels.shape == case.truth.shape == (33, 45)
    (grn, _), (lrn, _) = cases.insights(0)
    assert grn.startswith("GRN: how much each iteration adds")
    assert lrn.startswith("LRN: the weights of row ")


def test_a_model_that_nothing_refines_is_refused():
    parser = tiny_parser()
    with pytest.raises(ValueError, match="no refiner, hence no before and after"):
        ModelCases(SceneParser(parser.front, Cascade()), OneScene())


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """images, labels, predictions (probabilities) and refined (label maps) of three images 6 x 7, and classes.json."""
    for name in ("images", "labels", "predictions", "refined"):
        (tmp_path / name).mkdir()
    told = Told()
    for index in range(3):
        case = told[index]
        Image.new("RGB", (7, 6), "grey").save(tmp_path / "images" / f"{index}.png")
        Image.fromarray(case.truth.numpy().astype(np.uint8)).save(tmp_path / "labels" / f"{index}.png")
        Image.fromarray(case.after.labels.numpy().astype(np.uint8)).save(tmp_path / "refined" / f"{index}.png")
        maps = 0.1 + 0.7 * torch.nn.functional.one_hot(case.before.labels, 3).permute(2, 0, 1)
        path = tmp_path / "predictions" / f"{index}_probabilities.safetensors"
        save_file({"probabilities": maps}, path)
    entries = [{"name": name, "color": color} for name, color in zip(told.classes, told.palette, strict=True)]
    (tmp_path / "classes.json").write_text(json.dumps(entries))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def status_of(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["rectiseg", "report", *arguments])
    with pytest.raises(SystemExit) as exit:
        cli.main()
    return int(exit.value.code or 0)


PAGE = (Path(__file__).parent.parent / "docs" / "report.md").read_text(encoding="utf-8")
((*FILES,),) = (command.split() for command in re.findall(r"^    rectiseg report (refined .+)$", PAGE, re.MULTILINE))


def test_two_folders_of_predictions_make_a_page(folders: Path, monkeypatch):
    arguments = (*FILES, "--labels", "labels", "--classes", "classes.json", "--json", "report.json")
    assert status_of(monkeypatch, *arguments) == 0
    told = json.loads((folders / "report.json").read_text())
    assert [image["image"] for image in told["images"]] == ["0", "1", "2"]
    gained, lost, same = (image["mean_iou_gained"] for image in told["images"])
    assert gained == -lost > same == 0
    assert told["after"] == {**told["before"], "further": told["after"]["further"]}  # each map is there twice
    text = (folders / "report.html").read_text(encoding="utf-8")
    assert "&lt;car&gt;" in text
    assert "Images: 3. Before: predictions. After: refined." in text
    titles = [plot["aria-label"] for plot in Parsed(text).all("svg")]
    assert "Reliability" in titles  # of the predictions, which say how sure they are


def test_without_labels_and_names_classes_are_numbered(folders: Path, monkeypatch):
    assert status_of(monkeypatch, *FILES) == 0
    text = (folders / "report.html").read_text(encoding="utf-8")
    assert "class 2" in text
    assert "Nothing is annotated" in text


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("-o", "report.pdf"), "report.pdf: a report is a web page"),
        (("-o", "a.html", "--show", "0"), "--show 0"),
        (("-o", "a.html"), "name it with --data"),
        (("-o", "a.html", "--data", "x", "--images", "images"), "--data names a whole data set"),
        (("-o", "a.html", "--data", "x", "--labels", "labels"), "name the folder of their --images"),
        (("-o", "a.html", "--images", "images", "--predictions", "predictions"), "go with a folder of refined"),
        (("refined", "-o", "a.html", "--images", "images"), "refined: no parser is in here"),
        (("labels", *FILES[1:], "--classes", "missing.json"), "missing.json"),
        (("missing.safetensors", "-o", "a.html", "--dataset", "scenes"), "missing.safetensors"),
        (("refined", "--images", "images", "--predictions", "gone", "-o", "a.html"), "gone: no such folder"),
    ],
)
def test_wrong_use_is_one_sentence(arguments, sentence: str, folders: Path, monkeypatch, capsys):
    assert status_of(monkeypatch, *arguments) == 2
    said = capsys.readouterr().err
    assert sentence in said
    assert len(said.strip().splitlines()) == 1


def test_an_image_without_a_prediction_is_named(folders: Path, monkeypatch, capsys):
    (folders / "refined" / "1.png").unlink()
    assert status_of(monkeypatch, *FILES) == 2
    assert "1 images have no prediction in refined, the first is 1" in capsys.readouterr().err


def test_a_stage_that_is_trained_gets_a_picture_of_its_curves(tmp_path: Path):
    for stage in ("front", "lrn"):
        (tmp_path / stage).mkdir()
        rows = "step,loss,learning_rate,mean_iou,pixel_accuracy\n1,0.9,0.1,,\n2,0.5,0.1,0.61,0.9\n"
        (tmp_path / stage / "curves.csv").write_text(rows)
    (tmp_path / "front.safetensors").touch()
    plot_trainings(tmp_path)
    assert Image.open(tmp_path / "front" / "curves.png").size == (960, 1200)
    assert not (tmp_path / "lrn" / "curves.png").exists()  # its training is not done
