"""Where an image, a prediction or a model is expected, anything is read or refused by a ValueError that names it.

100,000 files under `make soak`, 500 under `make test`: whole ones with edits anywhere, and ones whose headers promise
what nobody has.
"""

import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save

from pictures import COLORS
from rectiseg.data import images
from rectiseg.data.images import read_image, read_label_map
from rectiseg.data.predictions import read_prediction
from rectiseg.models.checkpoint import describe, load
from rectiseg.models.combine import Cascade
from rectiseg.models.crf import FullyConnectedCRF
from rectiseg.models.lrn import LRN

SIZE = (6, 7)
LOGITS = np.random.default_rng(0).normal(size=(3, *SIZE)).astype(np.float32)

EDITS = st.lists(st.tuples(st.integers(0, 2**16), st.integers(0, 9), st.binary(max_size=9)), min_size=1, max_size=6)
"""At a place, so many bytes become others."""

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(["LRN", "Cascade"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=8,
)


@dataclass(frozen=True)
class Given:
    """A file's name and content."""

    name: str
    content: bytes


def edited(content: bytes, edits: list[tuple[int, int, bytes]], kept: float) -> bytes:
    changed = bytearray(content)
    for place, count, replacement in edits:
        start = place % (len(changed) + 1)
        changed[start : start + count] = replacement
    return bytes(changed[: int(kept * len(changed)) + 1])


def edits_of(files: Mapping[str, bytes]) -> st.SearchStrategy[Given]:
    kept = st.just(1.0) | st.floats(0, 1)
    return st.builds(
        lambda name, edits, kept: Given(name, edited(files[name], edits, kept)), st.sampled_from([*files]), EDITS, kept
    )


def image_files() -> dict[str, bytes]:
    files = {}
    for suffix in ("jpg", "png", "tif", "webp", "bmp", "gif"):
        content = io.BytesIO()
        Image.fromarray(COLORS).save(content, Image.registered_extensions()[f".{suffix}"])
        files[f"a.{suffix}"] = content.getvalue()
    return files


def prediction_files() -> dict[str, bytes]:
    files = {name: io.BytesIO() for name in ("a.npy", "a.npz", "a.png")}
    np.save(files["a.npy"], LOGITS)
    np.savez_compressed(files["a.npz"], logits=LOGITS)
    Image.fromarray(LOGITS.argmax(0).astype(np.uint8)).save(files["a.png"], "PNG")
    return {name: file.getvalue() for name, file in files.items()} | {
        "a.safetensors": save({"logits": torch.from_numpy(LOGITS)})
    }


SIDES = st.integers(-3, 9) | st.sampled_from([2**31, 2**40, 2**63, 10**30])
DTYPES = st.sampled_from(["<f4", "<f2", ">f8", "|u1", "<i8", "|b1", "<c8", "|O", "|S3", "<M8[s]", "V0", "", "f4,f4"])


def promising_array(dtype: str, fortran: bool, shape: list[int], content: bytes) -> Given:
    header = repr({"descr": dtype, "fortran_order": fortran, "shape": tuple(shape)}).encode().ljust(117) + b"\n"
    return Given("a.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + content)


TINY = Cascade(LRN(3, 3, (2, 2)), FullyConnectedCRF())
WEIGHTS = {name: value.clone() for name, value in TINY.state_dict().items()}
HEADER = {"format": 1, "version": "0", "model": describe(TINY), "training": {}}


def checkpoint_of(header: object) -> bytes:
    return save(WEIGHTS, {"rectiseg": json.dumps(header)})


def places_in(value: Any, place: tuple = ()) -> list[tuple]:
    """Of every entry of the header, however deep."""
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [deeper for key, inner in entries for deeper in [(*place, key), *places_in(inner, (*place, key))]]


def promising_model(place: tuple, value: object) -> Given:
    header = json.loads(json.dumps(HEADER))
    parent = header
    for key in place[:-1]:
        parent = parent[key]
    parent[place[-1]] = value
    return Given("a.safetensors", checkpoint_of(header))


def look(path: Path) -> None:
    read_image(path)
    if path.suffix == ".png":
        read_label_map(path)


READERS: dict[str, tuple[Callable[[Path], object], st.SearchStrategy[Given]]] = {
    "images": (look, edits_of(image_files())),
    "predictions": (
        lambda path: read_prediction(path, SIZE),
        edits_of(prediction_files())
        | st.builds(promising_array, DTYPES, st.booleans(), st.lists(SIDES, max_size=4), st.binary(max_size=600)),
    ),
    "models": (
        load,
        edits_of({"a.safetensors": checkpoint_of(HEADER)})
        | st.builds(promising_model, st.sampled_from(places_in(json.loads(json.dumps(HEADER)))), JSON),
    ),
}
OFTEN = {"images": 20_000, "predictions": 60_000, "models": 20_000}


@pytest.mark.parametrize("share", [pytest.param(200, id="some"), pytest.param(1, id="all", marks=pytest.mark.soak)])
@pytest.mark.parametrize("kind", READERS)
@pytest.mark.filterwarnings("ignore")
def test_whatever_a_file_holds_it_is_read_or_refused_by_its_name(
    kind: str, share: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    read, files = READERS[kind]
    monkeypatch.setattr(images, "MAX_PIXELS", 10_000)
    monkeypatch.setattr("jaxtyping.config.jaxtyping_disable", True)  # a user's types are not checked

    @settings(
        max_examples=OFTEN[kind] // share,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(files)
    def survives(file: Given) -> None:
        path = tmp_path / file.name
        path.write_bytes(file.content)
        try:
            read(path)
        except ValueError as error:
            assert str(error).startswith(f"{path}: ")  # noqa: PT017 - most files are read or refused, as they please

    survives()
