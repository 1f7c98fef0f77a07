"""What is said of measurements: gains with intervals, a line a row."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from rectiseg.consistency import WRONG_REGIONS
from rectiseg.data.confidences import Confidences, View, store_confidences
from rectiseg.data.datasets import Subset
from rectiseg.measured import Measured, as_markdown, gain, gains_as_markdown, joined, measured, measures
from rectiseg.models.combine import Cascade
from rectiseg.models.context import MultiScaleContext
from rectiseg.progress import Reporter
from rectiseg.views import ConfidenceViews
from tiny_stage import Doubtful, Drawn, K

BLOCKS = [[0], [1]]


def random_measurements(seed: int) -> Measured:
    """Of two images and two classes."""
    generator = torch.Generator().manual_seed(seed)
    maps = torch.randint(2, (2, 2, 9, 14), generator=generator)
    counts = {name: torch.stack([measure.counts(*pair) for pair in maps]) for name, measure in measures(2).items()}
    return Measured(counts, 7.0)


def test_what_equals_the_front_gains_nothing():
    front = random_measurements(0)
    interval = gain(front, [front, front], "mean IoU", measures(2)["mean IoU"], BLOCKS)
    assert (interval.value, interval.low, interval.high, interval.blocks) == (0, 0, 0, 2)


def test_the_table_has_a_line_a_row_and_the_spread_of_its_seeds():
    rows = {"front": [random_measurements(0)], "LRN": [random_measurements(1), random_measurements(2)]}
    header, _, front, lrn = as_markdown(rows, 2, BLOCKS).splitlines()
    assert header.startswith("| | seeds | mean IoU | gain | pixel accuracy | gain | boundary F at 3 px | gain |")
    assert len(header.split("|")) == len(front.split("|")) == len(lrn.split("|"))
    assert front.startswith("| front | 1 | ")
    assert lrn.startswith("| +LRN | 2 | ")
    assert " ± " in lrn
    assert lrn.endswith("] | 7 |")


def test_the_table_s_figures_are_those_of_the_counts():
    front, other = random_measurements(0), random_measurements(1)
    cells = as_markdown({"front": [front], "LRN": [other]}, 2, BLOCKS).splitlines()[-1].split(" | ")
    for (name, measure), value, gained in zip(measures(2).items(), cells[2:10:2], cells[3:10:2], strict=True):
        scale = 1 if name == WRONG_REGIONS else 100
        before, after = (scale * float(measure.value(one.counts[name].sum(dim=0))) for one in (front, other))
        assert value == f"{after:.2f}"
        assert gained.startswith(f"{after - before:+.2f} [")


def test_gains_over_another_row_than_the_front_are_what_they_differ_by():
    rows = {title: [random_measurements(seed)] for seed, title in enumerate(("front", "CRF", "ensemble of 2", "LRN"))}
    header, _, *lines = gains_as_markdown(rows, "CRF", 2, BLOCKS)
    assert header == "| gain over +CRF | mean IoU | pixel accuracy | boundary F at 3 px | wrong regions an image |"
    assert [line.split(" | ")[0] for line in lines] == ["| ensemble of 2", "| +LRN"]
    for (name, measure), cell in zip(measures(2).items(), lines[1].split(" | ")[1:], strict=True):
        scale = 1 if name == WRONG_REGIONS else 100
        before, after = (
            scale * float(measure.value(rows[title][0].counts[name].sum(dim=0))) for title in ("CRF", "LRN")
        )
        assert cell.startswith(f"{after - before:+.2f} [")


class Counting(Reporter):
    images = 0

    def advance(self) -> None:
        self.images += 1


def test_a_measurement_is_taken_once_of_one_network_on_the_same_images(tmp_path: Path):
    dataset = Drawn(3)
    store_confidences(Doubtful(), dataset, tmp_path / "stored", [View()], "doubtful")

    def taken(network: nn.Module, indices: Sequence[int]) -> tuple[int, Measured]:
        views, counting = ConfidenceViews(Confidences(Subset(dataset, indices), tmp_path / "stored")), Counting()
        found = measured(network, views, tmp_path / "record.safetensors", before=2.0, reporter=counting)
        assert found.milliseconds > 2.0
        return counting.images, found

    images, first = taken(Cascade(), [0, 1])
    assert images == 2
    images, again = taken(Cascade(), [0, 1])
    assert images == 0
    assert again.milliseconds == first.milliseconds
    assert all(again.counts[name].equal(counts) for name, counts in first.counts.items())
    images, others = taken(Cascade(), [1, 2])
    assert images == 2
    assert others.counts["mean IoU"][0].equal(first.counts["mean IoU"][1])
    assert not others.counts["mean IoU"].equal(first.counts["mean IoU"])
    assert taken(MultiScaleContext(K), [1, 2])[0] == 2


def test_joined_measurements_are_of_all_their_images():
    whole = joined([random_measurements(0), random_measurements(1)])
    assert {len(counts) for counts in whole.counts.values()} == {4}
    assert torch.equal(whole.counts["mean IoU"][2:], random_measurements(1).counts["mean IoU"])
