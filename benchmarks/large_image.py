"""Print what `rectiseg predict` takes for an image that no memory holds the activations of, and what tiles change.

python benchmarks/large_image.py

Linux only. The image is a photograph laid side by side, which libvips writes row by row; it is predicted in a process
of its own, from file to file.
"""

import os
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import torch
import tyro

from rectiseg.data.images import read_image
from rectiseg.data.large_images import libvips
from rectiseg.machine import machine
from rectiseg.models.checkpoint import identity, load_parser
from rectiseg.models.tiled import OVERLAP, SIZE, Tiled
from rectiseg.ops.resize import resized

STREET = Path(__file__).parent.parent / "examples" / "street.jpg"
AT_MOST_GIGABYTES = 4
OVERLAPS = (0, 32, 64, 128, 256)


class Run(NamedTuple):
    seconds: float
    gigabytes: float
    """The most that the process had resident."""


def main(side: int = 10_000, tile: int = SIZE, model: Path | None = None, whole: int = 1440, part: int = 480) -> None:
    """Measure and print.

    Args:
        side: Of the large image, in pixels; 0: none is predicted.
        tile: Of its tiles.
        model: A saved parser; the shipped one by default.
        whole: The width of the photograph that is parsed whole and in tiles, to be compared.
        part: The side of its tiles.
    """
    parser = load_parser(model)
    print(f"## Images in tiles\n\nThe model {identity(parser)}, on {machine()}.\n")
    if side and libvips() is None:
        print("A large image was not predicted: the extra large is not installed here.\n")
    elif side:
        show(side, tile, predicted(side, tile, model))
    if whole:
        compare(parser, whole, part)


def predicted(side: int, tile: int, model: Path | None) -> Run:
    with TemporaryDirectory() as name:
        image = Path(name, "large.jpg")
        write_mosaic(image, side)
        command = [sys.executable, "-m", "rectiseg", "predict", str(image), "-o", f"{name}/labels", "--tile", str(tile)]
        return measured(command + (["--model", str(model)] if model is not None else []))


def write_mosaic(path: Path, side: int) -> None:
    street = import_module("pyvips").Image.new_from_file(str(STREET))
    mirrored = street.join(street.fliphor(), "horizontal")
    mosaic = mirrored.join(mirrored.flipver(), "vertical")
    mosaic.replicate(side // mosaic.width + 1, side // mosaic.height + 1).crop(0, 0, side, side).jpegsave(str(path))


def measured(command: list[str]) -> Run:
    """The system counts what the process held; waiting for it in another way would lose that."""
    started = time.perf_counter()
    process = subprocess.Popen(command)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise RuntimeError(f"{' '.join(command)} ended with status {os.waitstatus_to_exitcode(status)}")
    return Run(time.perf_counter() - started, usage.ru_maxrss * 1024 / 1e9)


def show(side: int, tile: int, run: Run) -> None:
    megapixels = side**2 / 1e6
    print("| image | tiles | seconds | megapixels a second | most memory, GB |\n|---|---|--:|--:|--:|")
    print(
        f"| {side}x{side} | {tile}x{tile} | {run.seconds:.0f} | {megapixels / run.seconds:.3f} | {run.gigabytes:.2f} |"
    )
    verdict = "meets" if run.gigabytes < AT_MOST_GIGABYTES else "misses"
    print(f"\n{run.gigabytes:.2f} GB {verdict} the bar of {AT_MOST_GIGABYTES}.\n", flush=True)


def compare(parser: torch.nn.Module, width: int, part: int) -> None:
    """How far a front and GRN, which look farther than any tile, answer otherwise in tiles."""
    street = read_image(STREET)[None]
    picture = resized(street, (round(street.shape[-2] * width / street.shape[-1]), width)).clamp(0, 1)
    with torch.inference_mode():
        whole = parser(picture).softmax(dim=1)
        print(f"A photograph of {picture.shape[-1]}x{picture.shape[-2]} in tiles of {part}x{part}, and whole.\n")
        print("| overlap | other labels | largest difference of a probability | in the mean |\n|---|--:|--:|--:|")
        for overlap in OVERLAPS:
            tiled = Tiled(parser, part, overlap)(picture).softmax(dim=1)
            difference = (tiled - whole).abs()
            others = 100 * (tiled.argmax(dim=1) != whole.argmax(dim=1)).float().mean()
            chosen = ", the default" if overlap == OVERLAP else ""
            print(
                f"| {overlap}{chosen} | {others:.2f} % | {difference.max():.3f} | {difference.mean():.1e} |", flush=True
            )
    print()


if __name__ == "__main__":
    tyro.cli(main)
