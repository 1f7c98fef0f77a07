"""Every fault that we know of, and what became of it: a test plants it and reports, docs/reliability.md is the reports.

A test that is marked `fault(name, command)` calls the fixture `reports`, which fails where the page says otherwise;
`python docs/reliability.py` runs the tests and prints the page.
"""

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image

from rectiseg.data.files import read_sealed
from rectiseg.data.scenes import SCENE_CLASSES, SCENE_PALETTE, generate_scene
from rectiseg.models.checkpoint import save
from rectiseg.models.combine import SceneParser
from rectiseg.models.lrn import LRN

PAGE = Path(__file__).parent.parent / "docs" / "reliability.md"
FAULT = re.compile(r'mark\.fault\("([^"]+)", "([^"]+)"')

FAULTS = {
    "Processes that die": (
        "kill -9 of a worker",
        "kill -9 of the command",
        "kill -9 in the middle of writing",
        "two runs into the same output at once",
    ),
    "Disks and folders": (
        "a full disk",
        "a read-only output",
        "an output folder removed in the run",
        "an empty folder",
        "unicode and very long names",
        "symbolic link loops",
    ),
    "Images": (
        "a truncated JPEG",
        "a zero-byte file",
        "a text file named .png",
        "30,000 x 30,000 pixels",
        "a CMYK JPEG",
        "a PNG of 16 bits",
        "an animated GIF",
    ),
    "Models": (
        "NaN weights",
        "a checkpoint cut in half",
        "a checkpoint with one flipped byte",
        "a checkpoint for another number of classes",
    ),
    "Predictions and labels": (
        "predictions of another size",
        "labels all ignored",
        "a class missing",
    ),
}


class Reports:
    """Takes a test's report; checks it, or keeps it where the page is being printed."""

    def __init__(self, fault: str, command: str, folder: Path, kept: dict[str, list[str]] | None):
        self.fault, self.command, self.folder, self.kept = fault, command, folder, kept

    def __call__(self, said: str, remains: str, status: int | str) -> None:
        """``said`` without the test's folder, what remains, and the exit status; ``remaining`` gives the second."""
        told = said.replace(f"{self.folder}/", "").replace(str(self.folder), ".").strip()
        lines = [line.rstrip().removeprefix("rectiseg: ") for line in told.splitlines()] or ["nothing"]
        cells = (self.fault, f"`{self.command}`", "<br>".join(lines), remains, str(status))
        row = f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |"
        if self.kept is not None:
            self.kept.setdefault(self.fault, []).append(row)
            return
        there = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
        alike = [line for line in there if line.startswith(f"| {self.fault} | `{self.command}`")]
        assert row in there, f"python docs/reliability.py writes the page anew; it says {alike}"


def remaining(folder: Path) -> str:
    """The files of a folder by name, or how many pictures where there are many; all of them are whole."""
    names = [path.relative_to(folder).as_posix() for path in sorted(whole_files(folder))]
    pictures = [name for name in names if name.endswith(".png")]
    if len(pictures) > 3:
        names = [f"{len(pictures)} pictures", *(name for name in names if name not in pictures)]
    return ", ".join(name if len(name) < 60 else f"{name[:9]}...{name[-9:]}" for name in names) or "nothing"


def whole_files(folder: Path) -> Iterator[Path]:
    """A hidden file is half of one. TensorBoard's files are its own, and have other names each time."""
    for path in filter(Path.is_file, folder.rglob("*")):
        if path.parent.name == "tensorboard":
            continue
        assert not path.name.startswith("."), f"half-written: {path}"
        readers = {".png": decoded, ".json": parsed, ".jsonl": parsed, ".safetensors": read_sealed}
        readers.get(path.suffix, Path.read_bytes)(path)
        yield path


def decoded(path: Path) -> None:
    with Image.open(path) as image:
        image.load()


def parsed(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for part in text.splitlines() if path.suffix == ".jsonl" else [text]:
        json.loads(part)


def scene(path: Path, seed: int = 0) -> Path:
    """A picture for a command to read."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(generate_scene(seed, 37, 50)[0]).save(path)
    return path


def tiny_parser(path: Path) -> Path:
    """A saved parser that loads at once, of the generated scenes' classes; only this process can build it."""
    from tiny_stage import K, one_convolution

    torch.manual_seed(0)
    save(SceneParser(one_convolution(), LRN.narrow(K), SCENE_CLASSES, SCENE_PALETTE), path)
    return path


def mounted(place: Path, options: str) -> Iterator[Path]:
    """A file system of its own in memory, for as long as a test lasts."""
    if os.geteuid():
        pytest.skip("only root may mount a small disk")
    place.mkdir(exist_ok=True)
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "rectiseg-test", place], capture_output=True)
    if done.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {done.stderr.decode().strip()}")
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


def planted() -> set[tuple[str, str]]:
    """The faults and commands that tests are marked with."""
    texts = (path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("test_*.py"))
    return {(name, command) for text in texts for name, command in FAULT.findall(text)}
