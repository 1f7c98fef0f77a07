"""Files of strangers neither run code nor write elsewhere: pickles, libraries and paths are planted in every kind."""

import io
import os
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from faults import scene, tiny_parser
from rectiseg.commands.predict import predict
from rectiseg.data.predictions import read_prediction
from rectiseg.models.checkpoint import load, load_parser, save
from rectiseg.models.encoder import read_weights
from rectiseg.models.external.files import from_file
from rectiseg.models.external.programs import load_program


class Harmful:
    """Unpickled, it makes a folder."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.mark),)


def pickled(harmful: Harmful) -> bytes:
    """As numpy and torch would have written it, which is what their readers look at."""
    file = io.BytesIO()
    torch.save({"weights": harmful}, file)
    return file.getvalue()


def arrays(harmful: Harmful, write: Callable[..., None]) -> bytes:
    file = io.BytesIO()
    write(file, np.array([harmful], dtype=object))
    return file.getvalue()


class OneConvolution(nn.Module):
    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.convolution(image)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("program") / "a.pt2"
    torch.export.save(torch.export.export(OneConvolution().eval(), (torch.rand(1, 3, 32, 32),)), path)
    return path


def with_member(program: Path, path: Path, ending: str, content: bytes) -> Path:
    """A copy whose file of that name has this content, or that has one more."""
    with zipfile.ZipFile(program) as source, zipfile.ZipFile(path, "w") as copy:
        root = source.namelist()[0].partition("/")[0]
        members = {name: source.read(name) for name in source.namelist()}
        for name, kept in (members | {f"{root}/{ending}": content}).items():
            copy.writestr(name, kept)
    return path


READERS: dict[str, list[Callable[[Path], object]]] = {
    ".pth": [read_weights],
    ".npy": [read_prediction],
    ".npz": [read_prediction],
    ".safetensors": [load, read_weights, read_prediction],
    ".onnx": [load, from_file],
    ".tflite": [from_file],
    ".pt2": [load, from_file],
}


@pytest.mark.parametrize(
    ("suffix", "read"), [(suffix, read) for suffix, readers in READERS.items() for read in readers]
)
@pytest.mark.filterwarnings("ignore")
def test_a_pickle_in_a_file_of_any_kind_is_not_run(suffix: str, read: Callable[[Path], object], tmp_path: Path):
    mark, path = tmp_path / "it ran", tmp_path / f"a{suffix}"
    harmful = Harmful(mark)
    contents = {".npy": arrays(harmful, np.save), ".npz": arrays(harmful, np.savez)}
    path.write_bytes(contents.get(suffix, pickled(harmful)))
    with pytest.raises(ValueError, match=path.name):
        read(path)
    assert not mark.exists()


def test_a_pickle_for_an_example_s_inputs_in_a_program_is_not_run(program: Path, tmp_path: Path):
    """Torch itself reads it as weights only first, and then, as that fails, as whatever it is."""
    mark = tmp_path / "it ran"
    path = with_member(program, tmp_path / "a.pt2", "data/sample_inputs/model.pt", pickled(Harmful(mark)))
    for read in (load, from_file):
        with pytest.raises(ValueError, match=r"a\.pt2: "):
            read(path)
    assert not mark.exists()
    with suppress(TypeError):  # what it would log of it is ill-formed
        torch.export.load(path)
    assert mark.exists(), "torch no longer runs it, and rectiseg.models.external.programs need not prevent it"


def test_a_compiled_library_in_a_program_is_not_loaded(program: Path, tmp_path: Path):
    path = with_member(program, tmp_path / "a.pt2", "data/aotinductor/model/model.so", b"\x7fELF")
    with pytest.raises(ValueError, match="holds a compiled library"):
        load_program(path)
    for read in (load, from_file):
        with pytest.raises(ValueError, match=r"a\.pt2: "):
            read(path)


def test_a_program_without_either_is_read(program: Path):
    assert from_file(program).num_classes == 4


def test_what_a_model_calls_its_classes_leads_nowhere(tmp_path: Path):
    parser = load_parser(tiny_parser(tmp_path / "parser.safetensors"))
    parser.classes = tuple(f"../../{index}" if index % 2 else f"{tmp_path}/{index}" for index in range(12))
    save(parser, tmp_path / "parser.safetensors")
    before = {*tmp_path.rglob("*")}
    image = scene(tmp_path / "in" / "a.png")
    wanted = {"overlay": True, "panel": True, "probabilities": True}
    assert predict((image,), tmp_path / "out", tmp_path / "parser.safetensors", **wanted) == 0
    written = {path.relative_to(tmp_path).parts[0] for path in {*tmp_path.rglob("*")} - before}
    assert written == {"in", "out"}
