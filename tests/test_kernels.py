"""How numba's kernels are compiled and shared among threads."""

import numba
import pytest
from numba.core.caching import CompileResultCacheImpl

from rectiseg.ops.kernels import compiled


def doubled(value: float) -> float:
    return 2 * value


def test_without_a_place_for_the_machine_code_kernels_still_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CompileResultCacheImpl, "_locator_classes", [])
    with pytest.raises(RuntimeError, match="cannot cache function"):
        numba.njit(doubled, cache=True)
    assert compiled()(doubled)(21.0) == 42.0
