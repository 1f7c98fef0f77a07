"""Load for `make soak`: the web page's API, and in test_batch.py `rectiseg batch`, RECTISEG_SOAK_MINUTES each (20).

Memory stays flat, and how long the answers took is printed:

RECTISEG_SOAK_MINUTES=1 pytest -n 0 -m soak -rP tests/test_load.py tests/test_batch.py
"""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from test_web import tiny_session, write_street

pytestmark = pytest.mark.soak

SECONDS = 60 * float(os.environ.get("RECTISEG_SOAK_MINUTES", "20"))
VISITORS = 4
GROWTH = 1.1
"""So much more memory may be held in the last quarter of the time than in the second."""


def resident(*names: str) -> int:
    """Bytes that this process holds, and those whose command begins with one of the names."""
    total = 0
    for place in Path("/proc").glob("[0-9]*"):
        try:
            command = (place / "cmdline").read_bytes().decode(errors="replace")
            if place.name == str(os.getpid()) or (names and command.startswith(names)):
                total += int((place / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        except OSError:  # it has just ended
            continue
    return total


def assert_flat(memory: list[int]) -> None:
    quarter = len(memory) // 4
    assert quarter, "too short a time to tell"
    early, late = (float(np.median(part)) for part in (memory[quarter : 2 * quarter], memory[-quarter:]))
    assert late < GROWTH * early, f"{early / 1e6:.0f} MB became {late / 1e6:.0f} MB"


def report(what: str, seconds: list[float], memory: list[int]) -> None:
    percentiles = ", ".join(f"p{p} {np.percentile(seconds, p):.3f} s" for p in (50, 90, 99))
    print(f"\n{what}: {len(seconds)} in {SECONDS:.0f} s, {percentiles}, {max(memory) / 1e6:.0f} MB at most")


def test_the_web_page_holds_no_more_memory_the_longer_it_serves(tmp_path: Path):
    pytest.importorskip("gradio", reason="gradio is not installed")
    import httpx

    from rectiseg.web.app import serving

    street, seconds, memory = write_street(tmp_path), list[float](), list[int]()

    def visit(address: str, until: float) -> None:
        with httpx.Client(base_url=f"{address}gradio_api/", timeout=60) as client:
            while time.monotonic() < until:
                started = time.monotonic()
                (uploaded,) = client.post("upload", files={"files": ("street.png", street.read_bytes())}).json()
                image = {"path": uploaded, "meta": {"_type": "gradio.FileData"}}
                asked = client.post("call/predict", json={"data": [image, "street scenes"]}).json()
                told = client.get(f"call/predict/{asked['event_id']}").text
                assert told.startswith("event: complete"), told
                seconds.append(time.monotonic() - started)
                memory.append(resident())

    with serving(tiny_session()) as address, ThreadPoolExecutor(VISITORS) as visitors:
        until = time.monotonic() + SECONDS
        for visitor in [visitors.submit(visit, address, until) for _ in range(VISITORS)]:
            visitor.result()
    report("web page, requests", seconds, memory)
    assert_flat(memory)
