"""Every program of docs/fronts.md runs, on small models and files made beforehand."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from beside import SHARED
from networks import random
from rectiseg.models.combine import SceneParser
from rectiseg.models.external import ExternalFront
from test_external_files import Quarter, write_exported, write_onnx
from test_external_libraries import imported, segformer, unet

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "fronts.md").read_text(encoding="utf-8")
PROGRAMS = re.findall(r"^```python\n(.+?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def make_segformer(folder: Path, patch: pytest.MonkeyPatch) -> None:
    for part in segformer():
        part.save_pretrained(folder / "segformer")


def make_torchvision(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Random weights stand for those that it would download."""
    model = imported("torchvision").models.segmentation.deeplabv3_mobilenet_v3_large(
        weights_backbone=None, num_classes=21, aux_loss=True
    )
    patch.setattr("torchvision.models._api.load_state_dict_from_url", lambda *_, **__: model.state_dict())


def make_unet(folder: Path, patch: pytest.MonkeyPatch) -> None:
    unet().save_pretrained(folder / "unet")


def make_onnx(folder: Path, patch: pytest.MonkeyPatch) -> None:
    write_onnx(folder, Quarter().eval(), torch.zeros(1, 3, 32, 48), False).rename(folder / "street.onnx")


def make_deeplab(folder: Path, patch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ai_edge_litert", reason="ai-edge-litert is not installed")
    published = SHARED / "weights" / "deeplabv3_mobilenetv2_ade20k.tflite"
    if not published.is_file():
        pytest.skip(f"the published weights are not on this machine: {published} is missing")
    (folder / published.name).symlink_to(published)


def make_exported(folder: Path, patch: pytest.MonkeyPatch) -> None:
    write_exported(folder, Quarter().eval(), torch.zeros(1, 3, 32, 64), True).rename(folder / "street.pt2")


def make_nothing(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """The program stands alone."""


BEFOREHAND = [make_segformer, make_torchvision, make_unet, make_onnx, make_deeplab, make_exported, make_nothing]


@pytest.mark.parametrize("number", range(len(BEFOREHAND)), ids=lambda number: BEFOREHAND[number].__name__)
def test_a_program_makes_a_front(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    BEFOREHAND[number](tmp_path, monkeypatch)
    monkeypatch.chdir(tmp_path)
    front = run(PROGRAMS[number])["front"]
    assert isinstance(front, ExternalFront)
    with torch.inference_mode():
        assert front(random(2, 3, 37, 53)).shape == (2, front.num_classes, 37, 53)


def test_the_last_program_puts_a_refiner_on_a_front(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert len(PROGRAMS) == len(BEFOREHAND) + 1
    Image.new("RGB", (14, 11)).save(tmp_path / "street.jpg")
    monkeypatch.chdir(tmp_path)
    made = run(PROGRAMS[-1], front=run(PROGRAMS[-2])["front"])
    assert made["labels"].shape == (1, 11, 14)
    assert isinstance(made["parser"], SceneParser)


def test_its_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#:]+)\)", PAGE):
        assert (ROOT / "docs" / target).exists(), target


def run(program: str, **names: Any) -> dict[str, Any]:
    exec(compile(program, "docs/fronts.md", "exec"), names)
    return names
