"""What `rectiseg evaluate` prints and writes, from the pixels to the last digit."""

import json
import math
from io import StringIO

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

from rectiseg.boundaries import BoundaryF
from rectiseg.consistency import WRONG_REGIONS, Inconsistency
from rectiseg.data.datasets import Sample
from rectiseg.evaluate import as_json, as_table, evaluate_parser
from rectiseg.metrics import Scores
from rectiseg.models.combine import Cascade, SceneParser
from rectiseg.progress import Reporter
from rectiseg.types import IGNORE_INDEX

CLASSES = ("road", "car", "ghost")
SAID_AND_TRUE = (
    ([[0, 1, 1], [1, 1, 0]], [[0, 0, 1], [1, 1, IGNORE_INDEX]]),
    ([[0, 0, 0, 0]], [[0, 0, 0, 1]]),
)
MATRICES = {  # true class by predicted class, counted by hand
    "front": [[4, 1, 0], [1, 3, 0], [0, 0, 0]],
    "front +Mirror": [[3, 2, 0], [3, 1, 0], [0, 0, 0]],
    "front +road": [[5, 0, 0], [4, 0, 0], [0, 0, 0]],
}


class Told:
    """Two small images, whose channels are what the front shall say of them."""

    classes = CLASSES
    palette = ((128, 64, 128), (0, 0, 142), (0, 0, 0))
    names = ("first", "second")

    def __len__(self) -> int:
        return len(SAID_AND_TRUE)

    def __getitem__(self, index: int) -> Sample:
        said, true = map(torch.tensor, SAID_AND_TRUE[index])
        return Sample(torch.eye(3)[said].movedim(-1, 0), true, self.names[index])


class Echo(nn.Module):
    """A front that says its image."""

    def forward(self, image: Tensor) -> Tensor:
        return image


class Mirror(nn.Module):
    """A refiner that takes left for right."""

    def forward(self, image: Tensor, logits: Tensor) -> Tensor:
        return logits.flip(-1)


def all_road(image: Tensor, logits: Tensor) -> Tensor:
    """A refiner that takes nothing but the front's own word, which is the image."""
    assert logits.equal(image)
    return logits + torch.tensor([2.0, 0, 0]).view(1, 3, 1, 1)


@pytest.fixture(scope="module")
def rows() -> dict[str, Scores]:
    return evaluate_parser(SceneParser(Echo(), Mirror(), CLASSES), {"road": all_road}, Told(), Reporter())


@pytest.mark.parametrize("name", MATRICES)
def test_every_row_has_the_figures_of_its_own_confusion_matrix(name: str, rows: dict[str, Scores]):
    matrix = np.array(MATRICES[name])
    hits, true, predicted = matrix.diagonal()[:2], matrix.sum(axis=1)[:2], matrix.sum(axis=0)[:2]
    iou = hits / (true + predicted - hits)
    assert rows[name].pixel_accuracy == pytest.approx(hits.sum() / matrix.sum())
    assert rows[name].iou == pytest.approx((*iou, math.nan), nan_ok=True)
    assert rows[name].mean_iou == pytest.approx(iou.mean())
    assert rows[name].frequency_weighted_iou == pytest.approx((true * iou).sum() / true.sum())


def test_the_rows_are_the_front_its_refiners_and_the_further_ones(rows: dict[str, Scores]):
    assert list(rows) == list(MATRICES)


def test_the_table_has_these_percentages(rows: dict[str, Scores]):
    console = Console(file=StringIO(), width=200)
    console.print(as_table(rows, CLASSES))
    printed = console.file.getvalue()  # pyright: ignore
    body = [[cell.strip() for cell in line.split("│")[1:-1]] for line in printed.splitlines() if line[0] == "│"]
    assert body == [
        ["mean IoU", "63.33", "27.08", "27.78"],
        ["pixel accuracy", "77.78", "44.44", "55.56"],
        ["frequency-weighted IoU", "63.70", "28.24", "30.86"],
        ["road", "66.67", "37.50", "55.56"],
        ["car", "60.00", "16.67", "0.00"],
        ["ghost", "-", "-", "-"],
    ]
    (header,) = (line for line in printed.splitlines() if line[0] == "┃")
    assert [cell.strip() for cell in header.split("┃")[1:-1]] == ["", *MATRICES]
    assert "mean over the 2 of 3 classes that occur" in printed


def test_the_json_has_fractions_and_null_where_there_is_no_figure(rows: dict[str, Scores]):
    written = json.loads(json.dumps(as_json(rows, CLASSES), allow_nan=False))
    assert list(written) == list(MATRICES)
    assert written["front +Mirror"] == {
        "mean_iou": pytest.approx(13 / 48),
        "pixel_accuracy": pytest.approx(4 / 9),
        "frequency_weighted_iou": pytest.approx((5 * 3 / 8 + 4 / 6) / 9),
        "classes_counted": 2,
        "iou": {"road": pytest.approx(3 / 8), "car": pytest.approx(1 / 6), "ghost": None},
    }
    assert written["front"]["iou"] == {"road": pytest.approx(4 / 6), "car": pytest.approx(3 / 5), "ghost": None}


def test_further_measures_are_the_sums_over_images_and_stand_between_means_and_classes():
    further = {"boundary F at 1 px": BoundaryF(3, 1), WRONG_REGIONS: Inconsistency(3, least_pixels=1)}
    parser = SceneParser(Echo(), Cascade(), CLASSES)
    scores = evaluate_parser(parser, {}, Told(), Reporter(), further)["front"]
    maps = [[torch.tensor(classes) for classes in pair] for pair in SAID_AND_TRUE]
    for title, measure in further.items():
        counts = torch.stack([measure.counts(*pair) for pair in maps]).sum(dim=0)
        assert scores.further[title] == float(measure.value(counts))
    assert scores.further[WRONG_REGIONS] == 0.0
    console = Console(file=StringIO(), width=200)
    console.print(as_table({"front": scores}, CLASSES))
    printed = console.file.getvalue()  # pyright: ignore
    titles = [line.split("│")[1].strip() for line in printed.splitlines() if line[0] == "│"]
    assert titles == ["mean IoU", "pixel accuracy", "frequency-weighted IoU", *further, *CLASSES]
    assert as_json({"front": scores}, CLASSES)["front"]["further"] == scores.further


def test_without_any_annotated_pixel_every_figure_is_null():
    nothing = {"front": Scores(math.nan, math.nan, (math.nan,) * 3, math.nan)}
    written = json.loads(json.dumps(as_json(nothing, CLASSES), allow_nan=False))["front"]
    assert written["mean_iou"] is written["pixel_accuracy"] is written["frequency_weighted_iou"] is None
