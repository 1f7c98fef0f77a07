"""Class indices as official ids, and the way there and back."""

from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from beside import beside
from rectiseg.data.ade20k import ADE20K
from rectiseg.data.cityscapes import Cityscapes
from rectiseg.data.images import read_label_map, write_label_map
from rectiseg.data.submissions import Benchmark, in_official_ids, official_ids, refuse_other_classes
from rectiseg.jobs import plan
from rectiseg.types import IGNORE_INDEX

BENCHMARKS: tuple[Benchmark, ...] = ("cityscapes", "ade20k")


def test_the_official_ids_of_the_classes():
    assert official_ids("cityscapes") == [7, 8, 11, 12, 13, 17, *range(19, 29), 31, 32, 33]
    assert official_ids("ade20k") == list(range(1, 151))


def test_the_cityscapes_ids_are_those_of_the_official_training_ids():
    official = pytest.importorskip("cityscapesscripts.helpers.labels", reason="cityscapesscripts is not installed")
    assert official_ids("cityscapes") == [official.trainId2label[index].id for index in range(19)]


def test_class_indices_become_ids_of_8_bits_whatever_their_type():
    for kind in (np.uint8, np.int32, np.int64):
        ids = in_official_ids(np.array([[0, 2, 18], [5, 5, 1]], kind), "cityscapes")
        assert ids.dtype == np.uint8
        assert ids.tolist() == [[7, 11, 33], [17, 17, 8]]


@pytest.mark.parametrize("benchmark", BENCHMARKS)
@pytest.mark.parametrize("beyond", [0, IGNORE_INDEX])
def test_what_is_no_class_is_refused(benchmark: Benchmark, beyond: int):
    count = len(official_ids(benchmark))
    for value in (-1, max(beyond, count)):
        with pytest.raises(
            ValueError, match=rf"labels .*{value}.* are outside {benchmark}'s classes 0\.\.{count - 1}:"
        ):
            in_official_ids(np.array([[0, value, 3]]), benchmark)


def test_a_model_of_other_classes_is_refused():
    refuse_other_classes(19, "cityscapes")
    with pytest.raises(ValueError, match="the model knows 11 classes, ade20k has 150"):
        refuse_other_classes(11, "ade20k")


@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_ids_are_written_as_grey_of_8_bits(benchmark: Benchmark, tmp_path: Path):
    labels = np.arange(len(official_ids(benchmark)))[np.newaxis]
    write_label_map(tmp_path / "a.png", in_official_ids(labels, benchmark))
    assert Image.open(tmp_path / "a.png").mode == "L"
    assert read_label_map(tmp_path / "a.png")[0].tolist() == official_ids(benchmark)


def test_result_files_have_the_names_that_the_official_tools_look_for(tmp_path: Path):
    for folder, name in (("city", "ulm_000003_000019_leftImg8bit.png"), ("ade", "ADE_test_00000007.jpg")):
        (tmp_path / folder).mkdir()
        Image.new("RGB", (3, 2)).save(tmp_path / folder / name)
    (city,), (ade,) = (plan([tmp_path / folder], tmp_path / "out") for folder in ("city", "ade"))
    assert fnmatch(city.labels.name, "ulm_000003_000019*.png")
    assert ade.labels.name == "ADE_test_00000007.png"


@pytest.mark.parametrize(
    ("benchmark", "reader", "folder"),
    [("cityscapes", Cityscapes, "cityscapes_sample"), ("ade20k", ADE20K, "ade20k_sample")],
)
def test_there_and_back_every_annotated_pixel_has_its_official_id(
    benchmark: Benchmark, reader: type[Cityscapes | ADE20K], folder: str
):
    samples = reader(beside("data", folder), "val")
    for index, (_, path) in enumerate(samples.pairs):
        labels = samples[index].labels.numpy()
        annotated = labels != IGNORE_INDEX
        ids = in_official_ids(np.where(annotated, labels, 0), benchmark)
        np.testing.assert_array_equal(ids[annotated], read_label_map(path)[annotated])
