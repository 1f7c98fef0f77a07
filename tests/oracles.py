"""Other people's libraries that tests compare with: development only, and a test that lacks one is skipped."""

from functools import cache
from types import ModuleType

import pytest
import torch


@cache
def import_timm() -> ModuleType:
    """timm, whose import needs torchvision's."""
    mend_torchvision()
    return pytest.importorskip("timm", reason="timm is not installed")


@cache
def mend_torchvision() -> torch.library.Library | None:
    """Make torchvision importable beside a torch that its compiled part does not match (its wheels want CUDA).

    Such an import fails on two operators that nobody has declared; what needs them stays broken. The result keeps the
    declarations alive.
    """
    try:
        import torchvision  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError:
        return None
    except RuntimeError:
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        return library
    return None
