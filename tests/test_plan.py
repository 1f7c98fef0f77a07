"""Which file goes where, before anything is done."""

from pathlib import Path

import pytest

from rectiseg.inference import Job, plan


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
