"""What every test shares: signatures whose shapes are checked, and the data set on this machine."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from jaxtyping import install_import_hook
from PIL import Image

from beside import beside

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "rectiseg"

UNCHECKED = {
    "ops.propagate_cpu": "numba compiles its functions and cannot compile a type checker",
    "ops.strips": "numba, likewise",
    "ops.propagate_triton": "triton, likewise",
    "ops.depthwise": "numba, likewise",
    "ops.lattice": "numba, likewise",
}


def checked_modules() -> list[str]:
    """Every file but those; no folder, for a folder's name would stand for all its files, and __main__ runs."""
    files = (path.relative_to(SOURCE).with_suffix("") for path in SOURCE.rglob("*.py") if path.stem[:2] != "__")
    names = {".".join(file.parts) for file in files}
    assert names >= UNCHECKED.keys(), f"no such files: {UNCHECKED.keys() - names}"
    return [f"{SOURCE.name}.{name}" for name in sorted(names - UNCHECKED.keys())]


install_import_hook(checked_modules(), "shapes.checked")


@pytest.fixture(scope="session")
def camvid() -> Path:
    """CamVid's folder beside the repository."""
    return beside("data", "camvid")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """photos/1.png, photos/may/2.jpg, photos/may/3.png: a red row above a blue one."""
    pixels = np.zeros((6, 7, 3), np.uint8)
    pixels[:3, :, 0] = pixels[3:, :, 2] = 255
    (tmp_path / "photos" / "may").mkdir(parents=True)
    for name in ("1.png", "may/2.jpg", "may/3.png"):
        Image.fromarray(pixels).save(tmp_path / "photos" / name, quality=95)
    return tmp_path / "photos"


@pytest.fixture
def accelerator() -> Iterator[Accelerator]:
    """A process has one state of accelerate's; a test begins and ends without any."""
    reset()
    yield Accelerator(cpu=True)
    reset()


def reset() -> None:
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
