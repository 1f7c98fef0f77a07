"""Time `rectiseg batch` with one and two workers against `rectiseg predict`, over generated scenes.

python benchmarks/batch.py --images 200
"""

import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import tyro
from PIL import Image

from rectiseg.data.scenes import generate_scene
from rectiseg.machine import machine

WORKERS = (1, 2)


def main(images: int = 200, height: int = 180, width: int = 240) -> None:
    """Print seconds, images a second, and what a command takes for a single image, most of which is its start.

    Args:
        images: How many.
        height: Of each.
        width: Of each.
    """
    print(f"## `rectiseg batch` beside `rectiseg predict`\n\n{images} scenes of {width} x {height}, on {machine()}.\n")
    print("| | seconds | of which the start | images a second after it |\n|---|--:|--:|--:|")
    with TemporaryDirectory() as name:
        folder = Path(name)
        for count, part in ((1, "one"), (images, "all")):
            (folder / part).mkdir()
            for seed in range(count):
                Image.fromarray(generate_scene(seed, height, width)[0]).save(folder / part / f"{seed}.png")
        commands = {"predict": ["predict"]}
        commands |= {f"batch, workers: {count}": ["batch", "--workers", str(count)] for count in WORKERS}
        for number, (title, command) in enumerate(commands.items()):
            start, whole = (
                seconds_of([*command, str(folder / part), "-o", str(folder / f"{part}{number}")])
                for part in ("one", "all")
            )
            print(f"| {title} | {whole:.1f} | {start:.1f} | {(images - 1) / (whole - start):.2f} |", flush=True)


def seconds_of(arguments: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", "rectiseg", *arguments], check=True, capture_output=True)
    return time.perf_counter() - started


if __name__ == "__main__":
    tyro.cli(main)
