"""Which file goes where, before anything is done."""

from pathlib import Path

import numpy as np
import pytest

from heard import Heard
from rectiseg.jobs import Failure, Job, plan
from rectiseg.prediction import predict_files


def test_files_of_one_name_from_two_folders_are_refused(photos: Path, tmp_path: Path):
    (photos / "may" / "1.jpg").write_bytes((photos / "may" / "2.jpg").read_bytes())
    with pytest.raises(
        ValueError, match=r"photos/1\.png and .*photos/may/1\.jpg: both would be written to .*out/1\.png"
    ):
        plan([photos / "1.png", photos / "may" / "1.jpg"], tmp_path / "out")
    assert len(plan([photos], tmp_path / "out")) == 4  # below their folder they are apart


def test_an_overlay_s_name_does_not_meet_a_label_map_s(photos: Path, tmp_path: Path):
    (photos / "1_overlay.jpg").write_bytes((photos / "may" / "2.jpg").read_bytes())
    with pytest.raises(ValueError, match=r"both would be written to .*1_overlay\.png"):
        plan([photos], tmp_path / "out")


def test_a_result_never_replaces_an_input(photos: Path):
    with pytest.raises(ValueError, match=r"1\.png: an input, which .*1\.png's result would replace"):
        plan([photos], photos)


def test_results_do_not_become_inputs_of_the_next_run(photos: Path):
    with pytest.raises(ValueError, match=r"photos/out: lies in .*photos, where images are searched for"):
        plan([photos], photos / "out")


def test_an_output_that_is_a_file_is_refused(photos: Path):
    with pytest.raises(ValueError, match=r"1\.png: is a file; name a folder"):
        plan([photos / "may"], photos / "1.png")


def test_a_file_given_twice_is_one_job(photos: Path, tmp_path: Path):
    assert plan([photos / "1.png", photos], tmp_path)[0] == Job(photos / "1.png", tmp_path / "1.png")
    assert len(plan([photos / "1.png", photos], tmp_path)) == 3


def test_a_dot_in_a_name_is_no_suffix(photos: Path, tmp_path: Path):
    (photos / "1.png").rename(photos / "v1.2.png")
    (job,) = plan([photos / "v1.2.png"], tmp_path)
    assert (job.labels.name, job.overlay.name) == ("v1.2.png", "v1.2_overlay.png")


def test_what_is_missing_or_empty_is_named_and_the_others_are_planned(photos: Path, tmp_path: Path):
    (tmp_path / "empty").mkdir()
    bad = [tmp_path / "nowhere.jpg", tmp_path / "empty", tmp_path / ("long" * 99)]
    *failures, job = plan([*bad, photos / "1.png", bad[0]], tmp_path / "out")
    assert job == Job(photos / "1.png", tmp_path / "out" / "1.png")
    assert [failure.image for failure in failures] == bad
    for failure, why in zip(failures, ("no such file or folder", "holds no images", ""), strict=True):
        assert f"{failure.image}" in failure.sentence
        assert why in failure.sentence


def test_a_folder_that_may_not_be_read_does_not_stop_the_others(photos: Path, tmp_path: Path, monkeypatch):
    read = Path.iterdir

    def locked(folder: Path):
        if folder.name == "may":
            raise PermissionError(13, "Permission denied")
        return read(folder)

    monkeypatch.setattr(Path, "iterdir", locked)
    failure, job = plan([photos, photos / "1.png"], tmp_path / "out")
    assert failure == Failure(photos, f"{photos / 'may'}: may not be read; change its permissions or leave it out")
    assert job == Job(photos / "1.png", tmp_path / "out" / "1.png")


def test_without_any_image_nothing_is_begun_and_every_path_is_named(tmp_path: Path):
    with pytest.raises(ValueError, match=r"nowhere: no such file or folder; .*nothing: no such file or folder"):
        plan([tmp_path / "nowhere", tmp_path / "nothing"], tmp_path / "out")


def test_what_was_planned_as_a_failure_is_reported_with_those_that_became_one(photos: Path, tmp_path: Path):
    (photos / "may" / "2.jpg").write_bytes(b"no image")
    jobs = plan([photos, photos / "nowhere.jpg"], tmp_path / "out")
    reporter = Heard()
    palette = np.zeros((3, 3), np.uint8)
    failures = predict_files(lambda image: image, jobs, ("r", "g", "b"), palette, reporter=reporter)
    assert [failure.image.name for failure in failures] == ["nowhere.jpg", "2.jpg"]
    assert sorted(path.name for path in (tmp_path / "out").rglob("*.png")) == ["1.png", "3.png"]
    assert reporter.done == len(jobs) == 4
