"""Files that appear whole or not at all, and the search for images."""

import os
from pathlib import Path

import pytest

from rectiseg.data import files
from rectiseg.data.files import atomic_path
from rectiseg.data.images import find_images


def test_a_file_appears_when_its_block_ends(tmp_path: Path):
    with atomic_path(tmp_path / "a.png") as temporary:
        temporary.write_bytes(b"new")
        assert temporary.suffix == ".png"
        assert not (tmp_path / "a.png").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_error_in_the_middle_leaves_the_old_file_alone(error: type[BaseException], tmp_path: Path):
    (tmp_path / "a.png").write_bytes(b"old")

    def write_half() -> None:
        with atomic_path(tmp_path / "a.png") as temporary:
            temporary.write_bytes(b"ne")
            raise error

    with pytest.raises(error):
        write_half()
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"old"]


def test_a_file_is_on_the_disk_before_it_appears(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    synced = []

    def fsync(descriptor: int) -> None:
        assert not (tmp_path / "a.png").exists()
        synced.append(os.fstat(descriptor))

    monkeypatch.setattr(files.os, "fsync", fsync)
    with atomic_path(tmp_path / "a.png") as temporary:
        temporary.write_bytes(b"new")
    (status,) = synced
    assert os.path.samestat(status, (tmp_path / "a.png").stat())
    assert status.st_size == 3


def write(path: Path, content: bytes) -> None:
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def test_what_a_killed_process_left_of_a_file_vanishes_when_that_file_is_written(tmp_path: Path):
    killed = atomic_path(tmp_path / "a.png")
    remains = killed.__enter__()
    remains.write_bytes(b"half")
    os.utime(remains, (files.STARTED - 1,) * 2)
    write(tmp_path / "b.png", b"new")
    assert remains.read_bytes() == b"half"
    write(tmp_path / "a.png", b"new")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a.png": b"new", "b.png": b"new"}


def test_who_writes_the_same_file_at_the_same_time_is_not_disturbed(tmp_path: Path):
    with atomic_path(tmp_path / "a.png") as temporary:
        temporary.write_bytes(b"first")
        write(tmp_path / "a.png", b"second")
        assert (tmp_path / "a.png").read_bytes() == b"second"
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a.png": b"first"}


def test_folders_are_searched_to_the_bottom_and_sorted(tmp_path: Path):
    names = ["b/c/2.JPG", "b/1.png", "a.webp", "b/notes.txt", ".hidden/3.png", "b/._1.png"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = [path.relative_to(tmp_path).as_posix() for path in find_images([tmp_path])]
    assert found == ["a.webp", "b/1.png", "b/c/2.JPG"]


def test_files_are_taken_as_given_and_once(tmp_path: Path):
    names = [tmp_path / "z.dat", tmp_path / "a.png"]
    for name in names:
        name.touch()
    assert find_images([*names, tmp_path]) == names


def test_links_are_followed_but_not_in_circles(tmp_path: Path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "1.png").touch()
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "photos")
    (tmp_path / "photos" / "self").symlink_to(tmp_path / "photos" / "self")
    assert find_images([tmp_path / "photos"]) == [tmp_path / "photos" / "linked" / "1.png"]


def test_a_missing_path_and_an_empty_folder_are_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="nowhere: no such file or folder"):
        find_images([tmp_path / "nowhere"])
    with pytest.raises(ValueError, match=r"holds no images \(\.bmp \.gif"):
        find_images([tmp_path])
