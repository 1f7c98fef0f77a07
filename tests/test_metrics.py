"""Measures of label maps, against going from pixel to pixel."""

import math
import sys
from types import SimpleNamespace

import jaxtyping
import numpy as np
import pytest
import torch
from torch import Tensor

from oracles import mend_torchvision
from rectiseg.metrics import (
    ConfusionMatrix,
    FrequencyWeightedIoU,
    MeanIoU,
    Measure,
    PixelAccuracy,
    class_weights,
    scores_of,
)
from rectiseg.types import IGNORE_INDEX

NUM_CLASSES = 5


def label_maps(seed: int = 0, classes: tuple[int, ...] = tuple(range(NUM_CLASSES))) -> tuple[Tensor, Tensor]:
    """A prediction and labels of 2 x 6 x 7 pixels; about a sixth of them is ignored."""
    generator = torch.Generator().manual_seed(seed)
    choices = torch.tensor([*classes, IGNORE_INDEX])
    prediction = torch.randint(NUM_CLASSES, (2, 6, 7), generator=generator)
    return prediction, choices[torch.randint(len(choices), (2, 6, 7), generator=generator)]


def pairs_of(prediction: Tensor, labels: Tensor) -> list[tuple[int, int]]:
    """True and predicted class of every annotated pixel."""
    every = zip(labels.flatten().tolist(), prediction.flatten().tolist(), strict=True)
    return [(label, guess) for label, guess in every if label != IGNORE_INDEX]


def measured(prediction: Tensor, labels: Tensor) -> ConfusionMatrix:
    matrix = ConfusionMatrix(NUM_CLASSES)
    matrix.update(prediction, labels)
    return matrix


def test_rows_are_true_classes_and_columns_predicted_ones():
    prediction, labels = label_maps()
    pairs = pairs_of(prediction, labels)
    counted = [[pairs.count((row, column)) for column in range(NUM_CLASSES)] for row in range(NUM_CLASSES)]
    assert measured(prediction, labels).counts.tolist() == counted


def test_iou_and_accuracy_agree_with_going_from_pixel_to_pixel():
    prediction, labels = label_maps()
    pairs = pairs_of(prediction, labels)
    iou = []
    for index in range(NUM_CLASSES):
        either = [pair for pair in pairs if index in pair]
        iou.append(either.count((index, index)) / len(either))
    scores = measured(prediction, labels).scores()
    assert scores.iou == pytest.approx(iou)
    assert scores.mean_iou == pytest.approx(sum(iou) / NUM_CLASSES)
    assert scores.pixel_accuracy == pytest.approx(sum(label == guess for label, guess in pairs) / len(pairs))
    expected = sum(iou[label] for label, _ in pairs) / len(pairs)  # each annotated pixel votes with its class's
    assert scores.frequency_weighted_iou == pytest.approx(expected)


def test_iou_agrees_with_torchmetrics():
    mend_torchvision()
    jaccard = pytest.importorskip("torchmetrics.functional.classification").multiclass_jaccard_index
    prediction, labels = label_maps()
    for average, expected in (("none", "iou"), ("macro", "mean_iou"), ("weighted", "frequency_weighted_iou")):
        theirs = jaccard(prediction, labels, NUM_CLASSES, average, IGNORE_INDEX).tolist()
        assert getattr(measured(prediction, labels).scores(), expected) == pytest.approx(theirs, abs=1e-6)


def test_iou_agrees_with_cityscapes_own_script(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "pyquaternion", SimpleNamespace(Quaternion=None))  # for boxes in space only
    script = pytest.importorskip("cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling")
    prediction, labels = label_maps()
    identifiers = np.zeros(IGNORE_INDEX + 1, np.int64)  # 0 is theirs for unlabelled
    identifiers[:NUM_CLASSES] = [script.trainId2label[index].id for index in range(NUM_CLASSES)]
    matrix = np.zeros((34, 34), np.int64)
    np.add.at(matrix, (identifiers[labels], identifiers[prediction]), 1)
    arguments = SimpleNamespace(evalLabels=list(range(34)))
    theirs = [script.getIouScoreForLabel(int(index), matrix, arguments) for index in identifiers[:NUM_CLASSES]]
    assert measured(prediction, labels).scores().iou == pytest.approx(theirs, abs=1e-6)


@pytest.mark.parametrize(
    ("measure", "score"),
    [(PixelAccuracy, "pixel_accuracy"), (MeanIoU, "mean_iou"), (FrequencyWeightedIoU, "frequency_weighted_iou")],
)
def test_measures_of_single_images_add_up_to_the_scores_of_all(measure: type[MeanIoU], score: str):
    prediction, labels = label_maps()
    images = torch.stack([measure(NUM_CLASSES).counts(*maps) for maps in zip(prediction, labels, strict=True)])
    assert isinstance(measure(NUM_CLASSES), Measure)
    assert float(measure(NUM_CLASSES).value(images.sum(dim=0))) == getattr(measured(prediction, labels).scores(), score)
    alone = [
        getattr(measured(*(maps[None] for maps in pair)).scores(), score)
        for pair in zip(prediction, labels, strict=True)
    ]
    assert measure(NUM_CLASSES).value(images).tolist() == pytest.approx(alone)


def test_maps_may_come_in_parts():
    matrix = ConfusionMatrix(NUM_CLASSES)
    both = [label_maps(seed) for seed in (0, 1)]
    for prediction, labels in both:
        matrix.update(prediction, labels)
    together = measured(*(torch.cat(maps) for maps in zip(*both, strict=True)))
    assert torch.equal(matrix.counts, together.counts)


def test_a_perfect_prediction_scores_one():
    _, labels = label_maps()
    scores = measured(labels.where(labels != IGNORE_INDEX, 0), labels).scores()
    assert (scores.pixel_accuracy, scores.mean_iou, scores.iou) == (1.0, 1.0, (1.0,) * NUM_CLASSES)
    assert scores.frequency_weighted_iou == 1.0


def test_ignored_pixels_are_never_counted():
    prediction, labels = label_maps()
    ignored = labels == IGNORE_INDEX
    assert ignored.any()
    before = measured(prediction, labels)
    assert before.counts.sum() == (~ignored).sum()
    for guess in (0, NUM_CLASSES - 1, IGNORE_INDEX):
        assert torch.equal(measured(prediction.masked_fill(ignored, guess), labels).counts, before.counts)


def test_an_absent_class_leaves_the_mean_and_the_count_of_classes():
    prediction, labels = label_maps(classes=(0, 1, 3))
    scores = measured(prediction, labels).scores()
    assert [math.isnan(value) for value in scores.iou] == [False, False, True, False, True]
    assert scores.classes_counted == 3
    assert scores.mean_iou == pytest.approx((scores.iou[0] + scores.iou[1] + scores.iou[3]) / 3)


def test_pixels_lost_to_an_absent_class_still_cost():
    labels = torch.zeros(1, 2, 2, dtype=torch.int64)
    prediction = torch.tensor([[[0, 0], [0, 4]]])
    scores = measured(prediction, labels).scores()
    assert (scores.pixel_accuracy, scores.mean_iou, scores.classes_counted) == (0.75, 0.75, 1)


def test_a_class_that_is_never_found_scores_zero_and_counts():
    labels = torch.tensor([[[0, 0, 1]]])
    scores = measured(torch.zeros_like(labels), labels).scores()
    assert scores.iou[:2] == (2 / 3, 0.0)
    assert scores.mean_iou == pytest.approx(1 / 3)


@pytest.mark.filterwarnings("error")
def test_where_all_is_ignored_scores_are_nan():
    labels = torch.full((1, 3, 5), IGNORE_INDEX)
    for scores in (measured(torch.zeros_like(labels), labels).scores(), ConfusionMatrix(NUM_CLASSES).scores()):
        assert math.isnan(scores.pixel_accuracy)
        assert math.isnan(scores.mean_iou)
        assert math.isnan(scores.frequency_weighted_iou)
        assert len(scores.iou) == NUM_CLASSES
        assert scores.classes_counted == 0


def test_counts_of_several_processes_add_up():
    parts = [measured(*label_maps(seed)) for seed in (0, 1)]
    total = ConfusionMatrix(NUM_CLASSES)
    for seed in (0, 1):
        total.update(*label_maps(seed))
    assert scores_of(parts[0].counts + parts[1].counts) == total.scores()


def test_maps_of_other_sizes_are_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # a user's shapes are not checked
    with pytest.raises(ValueError, match=r"\[1, 2, 3\] cannot be held against \[1, 3, 2\]"):
        measured(torch.zeros(1, 2, 3, dtype=torch.int64), torch.zeros(1, 3, 2, dtype=torch.int64))


@pytest.mark.parametrize("outside", [-1, NUM_CLASSES, 200])
def test_classes_that_do_not_exist_are_refused_and_not_counted_elsewhere(outside: int):
    inside, wrong = torch.ones(1, 2, 3, dtype=torch.int64), torch.tensor([[[1, 1, outside], [1, 1, 1]]])
    for name, maps in {"prediction": (wrong, inside), "label": (inside, wrong)}.items():
        with pytest.raises(ValueError, match=rf"{name} {outside} is outside 0\.\.4"):
            measured(*maps)


def test_weights_balance_frequencies_against_their_median():
    assert class_weights((10, 20, 40)) == (2.0, 1.0, 0.5)
    assert class_weights((10, 30)) == (2.0, pytest.approx(2 / 3))


def test_a_smaller_power_balances_less():
    assert class_weights((10, 40, 160), power=0.5) == (2.0, 1.0, 0.5)
    assert class_weights((10, 40, 0), power=0.0) == (1.0, 1.0, 0.0)


def test_a_class_that_never_occurs_weighs_nothing_and_leaves_the_median():
    assert class_weights((10, 0, 20, 40, 0)) == (2.0, 0.0, 1.0, 0.5, 0.0)


def test_an_absent_class_can_count_as_zero():
    matrix = ConfusionMatrix(4)
    matrix.update(torch.tensor([[[0, 0, 1]]]), torch.tensor([[[0, 1, 1]]]))
    assert matrix.scores().mean_iou == pytest.approx(1 / 2)
    assert matrix.scores(absent="zero").mean_iou == pytest.approx(1 / 4)
    assert matrix.scores(absent="zero").classes_counted == 2
