"""Data sets and published weights, which lie beside the repository and never in it."""

import os
from pathlib import Path

import pytest

SHARED = Path(os.environ.get("RECTISEG_SHARED", Path(__file__).parents[2] / "shared"))


def beside(*parts: str) -> Path:
    """A folder of theirs; a test that needs one that is not on this machine is skipped."""
    folder = SHARED.joinpath(*parts)
    if not folder.is_dir():
        pytest.skip(f"the test's data are not on this machine: {folder} is missing (RECTISEG_SHARED names another)")
    return folder
