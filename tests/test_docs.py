"""What docs/refine.md says is so: its commands and programs run."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from rectiseg.data.scenes import generate_scene
from test_fit import write_scenes

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "refine.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^    rectiseg (.+)$", PAGE, re.MULTILINE)
PROGRAMS = re.findall(r"^```python\n(.+?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """images, labels and predictions of a few generated scenes, and street.jpg."""
    made = tmp_path_factory.mktemp("refine")
    write_scenes(made, 8, noise=2.0)
    Image.fromarray(generate_scene(0, 33, 45)[0]).save(made / "street.jpg")
    return made


def test_its_programs_run_one_after_another(folder: Path):
    assert len(PROGRAMS) == 2
    model = "import torch\nyour_model = torch.nn.Conv2d(3, 19, 3, stride=2, padding=1).eval()\n"
    # A parser's answer has the image's size, a refiner's input may be smaller.
    whole = "your_model = torch.nn.Conv2d(3, 19, 3, padding=1).eval()\n"
    program = model + PROGRAMS[0] + whole + PROGRAMS[1]
    done = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_its_commands_run_one_after_another(folder: Path):
    assert [command.split()[0] for command in COMMANDS] == ["refine", "fit", "refine"]
    for command in COMMANDS:
        steps = ["--steps", "4"] if command.startswith("fit") else []
        arguments = [sys.executable, "-m", "rectiseg", *command.split(), *steps]
        done = subprocess.run(arguments, cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert (folder / "refined" / "00_panel.png").exists()
    assert (folder / "better" / "00.png").exists()
