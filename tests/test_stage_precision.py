"""A training step in bf16: that of fp32, less precisely."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector

from networks import TinyEncoder, tiny_grn
from rectiseg.models.front import Front
from rectiseg.settings import Settings
from rectiseg.stage import Run
from rectiseg.views import ImageViews
from tiny_stage import SCENES, K, stored, tiny_lrn

SGD = Settings(phases=((2, 1e-2),), crop=(19, 23), schedule="constant", clip=None, optimizer="sgd", weight_decay=0.0)


def tiny_front() -> Front:
    torch.manual_seed(4)
    return Front(TinyEncoder(), K)


def step(stage: nn.Module, settings: Settings, accelerator: Accelerator, folder: Path) -> tuple[float, Tensor]:
    """The loss, and how far the weights go: the gradient's direction."""
    data = ImageViews(SCENES) if isinstance(stage, Front) else stored(folder)
    before = parameters_to_vector(stage.parameters())
    loss = Run(stage, data, settings, 7, accelerator).train_step()
    return loss, (parameters_to_vector(stage.parameters()) - before).detach()


@pytest.mark.parametrize("make", [tiny_front, lambda: tiny_grn(K, iterations=2), tiny_lrn], ids=["front", "GRN", "LRN"])
def test_a_step_in_bf16_is_that_in_fp32_but_for_its_rounding(make, accelerator: Accelerator, tmp_path: Path):
    exact_loss, exact = step(make(), SGD, accelerator, tmp_path)
    loss, change = step(make(), replace(SGD, precision="bf16"), accelerator, tmp_path)
    assert change.isfinite().all()
    assert not change.equal(exact)
    assert loss == pytest.approx(exact_loss, rel=1e-2)
    assert F.cosine_similarity(change, exact, dim=0) > 0.99
    assert float(change.norm()) == pytest.approx(float(exact.norm()), rel=2e-2)
