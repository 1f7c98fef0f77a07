"""Long runs for `make soak`: shapes of the operator's inputs, sizes of images, damage to them, deaths of a training."""

import io
import subprocess
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from networks import random
from propagation import assert_agree, random_inputs, random_slope, value_and_gradients
from rectiseg.data.images import read_image, read_label_map
from rectiseg.data.scenes import generate_scene
from rectiseg.models.checkpoint import load_parser
from rectiseg.models.combine import SceneParser
from rectiseg.ops.propagate import propagate, propagate_reference
from rectiseg.ops.propagate_cpu import STRIP
from test_propagate import TOLERANCES
from test_stage_resume import assert_same, finished, start

pytestmark = pytest.mark.soak

WIDTHS = st.integers(1, 60) | st.sampled_from([strips * STRIP + more for strips in (1, 2) for more in (-1, 0, 1, 5)])
PLACES = st.tuples(st.permutations(range(4)), st.tuples(*[st.integers(1, 3)] * 4))


def scattered(tensor: Tensor, order: Sequence[int], steps: Sequence[int]) -> Tensor:
    """The same values, with their dimensions in another order in memory and gaps of NaN between them."""
    memory = tensor.new_full([tensor.shape[dimension] * steps[dimension] for dimension in order], torch.nan)
    view = memory.permute([order.index(dimension) for dimension in range(4)])
    return view[tuple(slice(None, None, step) for step in steps)].copy_(tensor)


@settings(max_examples=500, derandomize=True, deadline=None)
@given(
    shape=st.tuples(st.integers(0, 3), st.integers(1, 21), st.integers(0, 5), st.integers(1, 40), WIDTHS),
    dtype=st.sampled_from(list(TOLERANCES)),
    places=st.tuples(PLACES, PLACES, PLACES),
)
def test_the_operator_agrees_with_its_reference(shape: tuple[int, ...], dtype: torch.dtype, places):
    batch, num_classes, radius, height, width = shape
    logits, coefficients = random_inputs(batch, num_classes, 2 * radius + 1, height, width, dtype)
    inputs = (logits, coefficients, random_slope(logits))
    precise = torch.promote_types(dtype, torch.float32)
    expected = value_and_gradients(propagate_reference, *(tensor.to(precise) for tensor in inputs))
    strided = [scattered(tensor, *place) for tensor, place in zip(inputs, places, strict=True)]
    ours = value_and_gradients(propagate, *strided)
    assert {tensor.dtype for tensor in ours.values()} == {dtype}
    assert_agree(ours, expected, TOLERANCES[dtype])


@cache
def shipped() -> SceneParser:
    return load_parser()


@settings(max_examples=150, derandomize=True, deadline=None)
@given(batch=st.integers(1, 2), height=st.integers(1, 200), width=st.integers(1, 200))
@torch.inference_mode()
def test_a_parser_takes_any_size(batch: int, height: int, width: int):
    logits = shipped()(random(batch, 3, height, width))
    assert logits.shape == (batch, len(shipped().classes), height, width)
    assert logits.isfinite().all()


KINDS = (
    ("jpg", {"quality": 90}),
    ("jpg", {"progressive": True}),
    ("png", {}),
    ("tif", {}),
    ("tif", {"compression": "tiff_lzw"}),
    ("webp", {"quality": 90}),
    ("webp", {"lossless": True}),
)


def damaged(content: bytes, generator: Random) -> bytes:
    """Cut off anywhere, or with some bits turned round, one in two of them near the beginning."""
    if generator.random() < 0.3:
        return content[: generator.randrange(len(content))]
    turned = bytearray(content)
    for _ in range(generator.randint(1, 6)):
        place = generator.randrange(generator.choice((64, len(content))))
        turned[place] ^= 1 << generator.randrange(8)
    return bytes(turned)


@pytest.mark.parametrize("seed", range(8))
def test_every_damaged_image_ends_in_a_sentence_or_in_its_labels(seed: int, tmp_path: Path):
    generator = Random(seed)
    images = []
    (tmp_path / "images").mkdir()
    for number, (suffix, options) in enumerate(KINDS * 10):
        pixels = generate_scene(number, generator.randint(20, 60), generator.randint(20, 60))[0]
        file = io.BytesIO()
        images.append(tmp_path / "images" / f"{number}.{suffix}")
        Image.fromarray(pixels).save(file, Image.registered_extensions()[f".{suffix}"], **options)
        images[-1].write_bytes(damaged(file.getvalue(), generator))
    command = [Path(sys.executable).with_name("rectiseg"), "predict", tmp_path / "images", "-o", tmp_path / "labels"]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    said = [line for line in done.stderr.splitlines() if line.startswith("rectiseg: ")]
    failed = [image for image in images if any(line.startswith(f"rectiseg: {image}: ") for line in said)]
    assert "Traceback" not in done.stderr, done.stderr
    assert (done.returncode, len(said)) == (1, len(failed)), done.stderr
    parsed = {tmp_path / "labels" / f"{image.stem}.png": image for image in images if image not in failed}
    assert parsed
    assert set((tmp_path / "labels").rglob("*")) == parsed.keys()
    for labels, image in parsed.items():
        assert read_label_map(labels).shape == read_image(image).shape[1:], image


def deaths(generator: Random, processes: int) -> Iterator[tuple[str | int, ...]]:
    """Where a training is killed, one time after another: see tests/tiny_stage.py."""
    count = generator.randint(1, 4)
    for stage, step in sorted((generator.choice(("front", "lrn")), generator.randint(2, 10)) for _ in range(count)):
        rank = generator.randrange(processes)
        writing = ("writing",) if rank == 0 and generator.random() < 0.4 else ()
        yield stage, rank, step, *writing


@pytest.fixture(scope="module", params=[1, 2], ids=["one process", "two processes"])
def uninterrupted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[int, Path]:
    return request.param, finished(tmp_path_factory.mktemp("uninterrupted") / "run", request.param)


@pytest.mark.parametrize("seed", range(8))
def test_a_training_that_is_killed_anywhere_ends_as_one_that_was_not(
    seed: int, uninterrupted: tuple[int, Path], tmp_path: Path
):
    processes, expected = uninterrupted
    for number, death in enumerate(deaths(Random(seed), processes)):
        done = start(tmp_path, processes, *death)
        if done.returncode == 0:  # it had been there already
            assert number > 0
            break
        assert done.returncode == -9 or "-9" in done.stderr, done.stderr
    done = start(tmp_path, processes)
    assert done.returncode == 0, done.stderr
    assert_same(tmp_path, expected)
    assert not list(tmp_path.rglob(".*")), "half-written files remain"
