"""A place is an absolute path, or the address of a file elsewhere, such as s3://bucket/a.jpg, which fsspec reaches."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from rectiseg.data.images import IMAGE_SUFFIXES, find_images

WILDCARDS = "*?["


def is_remote(place: str) -> bool:
    return "://" in place


def file_system(place: str) -> tuple[Any, str]:
    """What reaches the place, and the place as that knows it."""
    from fsspec.core import url_to_fs

    try:
        return url_to_fs(place)
    except (ImportError, ValueError) as error:
        raise ValueError(f"{place}: cannot be reached ({error}); install what fsspec needs for it") from error


def absolute(place: str) -> str:
    """The one name by which a place is known here."""
    if not is_remote(place):
        return str(Path(place).absolute())
    files, path = file_system(place)
    return files.unstrip_protocol(path).rstrip("/")


def images_at(source: str) -> dict[str, str]:
    """Every image of a folder, a glob, a list (.txt) or a file, with its path below it.

    Relative lines of a list start at its folder and keep their path; of absolute lines the root or the scheme is left
    out. A source without images raises ValueError.
    """
    if source.endswith(".txt"):
        found = dict(listed(source))
    elif is_remote(source) or (any(sign in source for sign in WILDCARDS) and not Path(source).exists()):
        found = dict(searched(source))
    else:
        root = Path(source).absolute()
        images = find_images([root])
        found = {str(image): image.relative_to(root if root.is_dir() else root.parent).as_posix() for image in images}
    if not found:
        raise ValueError(f"{source}: no images ({' '.join(sorted(IMAGE_SUFFIXES))}) are there")
    return found


def listed(source: str) -> Iterator[tuple[str, str]]:
    files, path = file_system(source)
    if not files.isfile(path):
        raise ValueError(f"{source}: no such list; name a file with the path of one image a line")
    folder = absolute(source).rpartition("/")[0]
    for line in filter(None, map(str.strip, files.cat_file(path).decode().splitlines())):
        anchored = is_remote(line) or line.startswith("/")
        relative = (line.partition("://")[2] or line).lstrip("/")
        if ".." in relative.split("/"):
            raise ValueError(f"{source}: {line} leads out of the results' folder; write its path without ..")
        yield line if anchored else f"{folder}/{relative}", relative


def searched(source: str) -> Iterator[tuple[str, str]]:
    """By fsspec, in the order of names; hidden ones are passed over."""
    files, path = file_system(source)
    pattern = any(sign in path for sign in WILDCARDS)
    first = min((path.index(sign) for sign in WILDCARDS if sign in path), default=len(path))
    root = path[:first].rpartition("/")[0] if pattern or files.isfile(path) else path
    for image in sorted(files.glob(path) if pattern else files.find(path)):
        relative = PurePosixPath(image).relative_to(root)
        hidden = any(part.startswith(".") for part in relative.parts)
        if relative.suffix.lower() in IMAGE_SUFFIXES and not hidden:
            yield files.unstrip_protocol(image) if is_remote(source) else image, str(relative)


def files_below(folder: str) -> set[str]:
    """The places of all files there, less hidden ones, which may not be whole; none where there is no such folder."""
    if is_remote(folder):
        files, path = file_system(folder)
        return {files.unstrip_protocol(found) for found in files.find(path) if PurePosixPath(found).name[0] != "."}
    walked = ((place, name) for place, _, names in os.walk(folder) for name in names if name[0] != ".")
    return {os.path.join(place, name) for place, name in walked}  # noqa: PTH118 - millions


def fetch(place: str, folder: Path) -> Path:
    """The file itself, or of a remote one a copy in the folder; ValueError where it cannot be had."""
    if not is_remote(place):
        return Path(place)
    files, path = file_system(place)
    copy = folder / PurePosixPath(path).name
    folder.mkdir(parents=True)
    with one_sentence(place, "fetched"):
        files.get_file(path, copy)
    return copy


def publish(file: Path, place: str) -> None:
    """Copy a local file to a place, where it has another name until it is whole; ValueError where it cannot be put."""
    files, path = file_system(place)
    target = PurePosixPath(path)
    hidden = str(target.with_name(f".{target.name}.part"))
    with one_sentence(place, "written"):
        files.makedirs(str(target.parent), exist_ok=True)
        files.put_file(str(file), hidden)
        files.mv(hidden, str(target))


@contextmanager
def one_sentence(place: str, done: str) -> Iterator[None]:
    """For whatever the place's file system raises: each has exceptions of its own."""
    try:
        yield
    except Exception as error:
        raise ValueError(f"{place}: cannot be {done} ({str(error) or type(error).__name__})") from error
