"""What every test shares: signatures whose shapes are checked, and the data set on this machine."""

import gc
import sys
from collections.abc import Callable, Iterator
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
    "ops.bilateral_cpu": "numba, likewise",
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
def rectiseg(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """The command line, in this process: its exit status, and all that the user reads but progress."""
    from rectiseg import cli

    def run(*arguments: str | Path) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["rectiseg", "--quiet", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit:
            cli.main()
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return int(exit.value.code or 0), said.out + said.err

    return run


@pytest.fixture
def reports(request: pytest.FixtureRequest, tmp_path: Path):
    """How a test that is marked as a fault's says what became of it."""
    from faults import Reports

    collecting = [plugin for plugin in request.config.pluginmanager.get_plugins() if hasattr(plugin, "kept_reports")]
    (mark,) = request.node.iter_markers("fault")
    return Reports(*mark.args, tmp_path, collecting[0].kept_reports if collecting else None)


@pytest.fixture
def accelerator() -> Iterator[Accelerator]:
    """A process has one state of accelerate's; a test begins and ends without any."""
    reset()
    yield Accelerator(cpu=True)
    reset()


def reset() -> None:
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def pytest_collection_finish() -> None:
    """What is imported by now stays: accelerate collects garbage after every stage, and need not look through it."""
    gc.collect()
    gc.freeze()
