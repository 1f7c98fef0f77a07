"""What every test shares: signatures whose shapes are checked, and the data set on this machine."""

from pathlib import Path

import pytest
from jaxtyping import install_import_hook

install_import_hook("rectiseg", "beartype.beartype")

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def camvid() -> Path:
    """CamVid's folder beside the repository."""
    folder = ROOT.parent / "shared" / "data" / "camvid"
    if not folder.is_dir():
        pytest.skip(f"CamVid is not here: {folder} is missing")
    return folder
