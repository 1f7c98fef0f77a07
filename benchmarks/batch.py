"""Time `rectiseg batch` with one and two workers against `rectiseg predict`, over generated scenes; Linux only.

python benchmarks/batch.py --images 1000
"""

import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import tyro
from PIL import Image

from rectiseg.data.scenes import generate_scene
from rectiseg.machine import machine

WORKERS = (1, 2)


def main(images: int = 1000, height: int = 180, width: int = 240) -> None:
    """Print seconds, images a second, what a command takes for a single image, most of which is its start, and memory.

    Args:
        images: How many.
        height: Of each.
        width: Of each.
    """
    print(f"## `rectiseg batch` beside `rectiseg predict`\n\n{images} scenes of {width} x {height}, on {machine()}.\n")
    print("| | seconds | of which the start | images a second after it | MB of a process that parses |")
    print("|---|--:|--:|--:|--:|")
    with TemporaryDirectory() as name:
        folder = Path(name)
        for count, part in ((1, "one"), (images, "all")):
            (folder / part).mkdir()
            for seed in range(count):
                Image.fromarray(generate_scene(seed, height, width)[0]).save(folder / part / f"{seed}.png")
        commands = {"predict": ["predict"]}
        commands |= {f"batch, workers: {count}": ["batch", "--workers", str(count)] for count in WORKERS}
        for number, (title, command) in enumerate(commands.items()):
            (start, _), (whole, memory) = (
                measured([*command, str(folder / part), "-o", str(folder / f"{part}{number}")])
                for part in ("one", "all")
            )
            speed = (images - 1) / (whole - start)
            print(f"| {title} | {whole:.1f} | {start:.1f} | {speed:.2f} | {memory:.0f} |", flush=True)


def measured(arguments: list[str]) -> tuple[float, float]:
    """The command's seconds, and the largest number of MB that one of the processes that parse had resident."""
    started, memory = time.perf_counter(), 0.0
    command = subprocess.Popen([sys.executable, "-m", "rectiseg", *arguments], stderr=subprocess.DEVNULL)
    while command.poll() is None:
        parsing = workers() if arguments[0] == "batch" else [Path(f"/proc/{command.pid}")]
        memory = max([memory, *map(peak, parsing)])
        time.sleep(0.2)
    if command.returncode:
        raise RuntimeError(f"{' '.join(arguments)} ended with status {command.returncode}")
    return time.perf_counter() - started, memory


def workers() -> list[Path]:
    """The processes that Ray calls so."""
    return [process.parent for process in Path("/proc").glob("[0-9]*/comm") if text(process).startswith("ray::Worker")]


def peak(process: Path) -> float:
    """Its largest resident size so far, in MB."""
    lines = (line.split() for line in text(process / "status").splitlines())
    return next((int(words[1]) * 1.024e-3 for words in lines if words[0] == "VmHWM:"), 0.0)


def text(file: Path) -> str:
    """Nothing where the process is gone."""
    with suppress(OSError):
        return file.read_text()
    return ""


if __name__ == "__main__":
    tyro.cli(main)
