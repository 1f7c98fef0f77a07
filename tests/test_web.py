"""What the requests of the web page do, without a server; and the command that starts one."""

import socket
import sys
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from networks import tiny_grn
from rectiseg.commands.web import web
from rectiseg.data.images import read_image
from rectiseg.data.scenes import generate_scene
from rectiseg.inference import LABELS_ONLY
from rectiseg.jobs import plan
from rectiseg.models.bilateral_lrn import BilateralLRN
from rectiseg.models.combine import Cascade, SceneParser
from rectiseg.models.lrn import LRN
from rectiseg.prediction import predict_files
from rectiseg.types import Logits
from rectiseg.web.session import SHIPPED_PARSER, SHIPPED_REFINER, Limits, Session, loaded

ROOT = Path(__file__).parent.parent
HEIGHT, WIDTH, CLASSES = 33, 45, 5
NAMES = ("sky", "road", "car", "tree", "house")
COLORS = ((0, 0, 255), (90, 90, 90), (255, 0, 0), (0, 255, 0), (250, 200, 100))


class Gate(nn.Module):
    """A front that is one convolution; it waits while it is closed, and counts who is in it."""

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(3, CLASSES, 3, padding=1)
        self.open, self.entered = threading.Event(), threading.Event()
        self.open.set()
        self.inside = self.most = 0

    def forward(self, image: Tensor) -> Logits:
        self.inside += 1
        self.most = max(self.most, self.inside)
        self.entered.set()
        assert self.open.wait(timeout=60)
        self.inside -= 1
        return self.convolution(image)


class Hungry(nn.Module):
    """A front that never fits in memory."""

    def forward(self, image: Tensor) -> Logits:
        raise MemoryError


def tiny_session() -> Session:
    """Three parsers, the first with two iterations of GRN, and two refiners."""
    torch.manual_seed(0)
    refiner = Cascade(tiny_grn(CLASSES, iterations=2), LRN.narrow(CLASSES))
    fronts = {
        SHIPPED_PARSER: SceneParser(nn.Conv2d(3, CLASSES, 3, padding=1), refiner, NAMES, COLORS),
        "gate": SceneParser(Gate(), Cascade(), NAMES, COLORS),
        "hungry": SceneParser(Hungry(), Cascade(), NAMES, COLORS),
    }
    parsers = {name: parser.eval() for name, parser in fronts.items()}
    refiners = {SHIPPED_REFINER: BilateralLRN().eval(), SHIPPED_PARSER: refiner}
    return Session(parsers, refiners, Limits(pixels=2000, confidences=20_000, upload=100_000))


def write_street(folder: Path) -> Path:
    path = folder / "street.png"
    Image.fromarray(generate_scene(0, HEIGHT, WIDTH)[0]).save(path)
    return path


@pytest.fixture(scope="module")
def session() -> Session:
    return tiny_session()


@pytest.fixture
def street(tmp_path: Path) -> Path:
    return write_street(tmp_path)


def test_every_stage_is_shown_and_timed(session: Session, street: Path):
    rows = session.predict(SHIPPED_PARSER, street).table()
    assert [title for title, _, _ in rows] == ["front", "+GRN 1", "+GRN 2", "+LRN"]
    assert rows[0][1] == 0
    assert rows[1][1] > 0
    assert all(seconds >= 0 for _, _, seconds in rows)


def test_the_files_are_those_of_the_command_predict(session: Session, street: Path, tmp_path: Path):
    parser = session.parsers[SHIPPED_PARSER]
    predict_files(parser, plan([street], tmp_path / "predicted"), NAMES, np.array(COLORS, np.uint8), LABELS_ONLY)
    labels, probabilities = session.predict(SHIPPED_PARSER, street).save(tmp_path / "made", "street")
    assert labels.read_bytes() == (tmp_path / "predicted" / "street.png").read_bytes()
    with torch.inference_mode():
        expected = parser(read_image(street)[None])[0].softmax(dim=0).half()
    torch.testing.assert_close(load_file(probabilities)["probabilities"], expected)


def test_the_slider_shows_the_first_stage_and_the_last(session: Session, street: Path):
    before, after = session.predict(SHIPPED_PARSER, street).before_and_after()
    assert before.shape == after.shape == (HEIGHT, WIDTH, 3)
    assert not np.array_equal(before, after)


def test_a_prediction_of_any_classes_is_refined(session: Session, street: Path, tmp_path: Path):
    maps = torch.randn(7, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0)).numpy()
    np.save(tmp_path / "street.npy", maps)
    answer = session.refine(SHIPPED_REFINER, street, tmp_path / "street.npy")
    assert [title for title, _ in answer.prediction.stages] == ["prediction", "+BilateralLRN"]
    assert np.array_equal(answer.prediction.stages[0][1], maps.argmax(axis=0))
    assert answer.classes[6] == "class 6"


def test_a_parsers_refiners_mend_predictions_of_its_classes_by_their_names(
    session: Session, street: Path, tmp_path: Path
):
    Image.fromarray(generate_scene(0, HEIGHT, WIDTH)[1] % CLASSES).save(tmp_path / "labels.png")
    answer = session.refine(SHIPPED_PARSER, street, tmp_path / "labels.png")
    assert answer.classes == NAMES
    np.save(tmp_path / "seven.npy", np.zeros((7, HEIGHT, WIDTH), np.float32))
    with pytest.raises(ValueError, match=r"seven\.npy: holds 7 confidence maps for 5 classes"):
        session.refine(SHIPPED_PARSER, street, tmp_path / "seven.npy")


def test_a_large_image_is_refused_before_it_is_decoded(session: Session, tmp_path: Path):
    path = tmp_path / "large.png"
    Image.new("RGB", (50, 41)).save(path)
    path.write_bytes(path.read_bytes()[:60])  # what cannot be decoded any more
    with pytest.raises(ValueError, match="50 x 41 is more than 2000 pixels"):
        session.predict(SHIPPED_PARSER, path)


def test_a_thin_image_is_refused_for_its_side(session: Session, tmp_path: Path):
    path = tmp_path / "thin.png"
    Image.new("L", (177, 1)).save(path)
    with pytest.raises(ValueError, match="177 x 1 has a side of more than 176 pixels"):
        session.predict(SHIPPED_PARSER, path)


def test_small_files_that_become_large_are_refused(session: Session, street: Path, tmp_path: Path):
    labels = tmp_path / "labels.png"
    Image.fromarray(np.full((HEIGHT, WIDTH), 3000, np.uint16)).save(labels)
    with pytest.raises(ValueError, match="3001 classes of 45 x 33 pixels are more than 20000 confidences"):
        session.refine(SHIPPED_REFINER, street, labels)
    bomb = tmp_path / "bomb.npz"
    np.savez_compressed(bomb, logits=np.zeros((2, 300, 400), np.float32))
    assert bomb.stat().st_size < 2000
    with pytest.raises(ValueError, match=r"bomb\.npz: unpacks to more than 160000 bytes"):
        session.refine(SHIPPED_REFINER, street, bomb)
    Image.new("L", (50, 41)).save(labels)
    with pytest.raises(ValueError, match="50 x 41 is more than 2000 pixels"):
        session.refine(SHIPPED_REFINER, street, labels)


def test_large_maps_of_a_small_image_are_refused_before_they_are_decoded(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    image, bomb = tmp_path / "dot.png", tmp_path / "bomb.npz"
    Image.new("RGB", (2, 2)).save(image)
    maps = np.zeros((2, 101, 100), np.uint8)
    maps[0] = 255
    np.savez_compressed(bomb, other=np.zeros(3), logits=maps)
    np.save(tmp_path / "bomb.npy", maps)
    with pytest.raises(ValueError, match=r"bomb\.npy: holds 20200 numbers, more than 20000 confidences"):
        session.refine(SHIPPED_REFINER, image, tmp_path / "bomb.npy")
    monkeypatch.setattr(np, "load", lambda *_, **__: pytest.fail("decoded"))
    with pytest.raises(ValueError, match=r"bomb\.npz: holds 20200 numbers, more than 20000 confidences"):
        session.refine(SHIPPED_REFINER, image, bomb)


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY\x01\x00\x02\x00{}", b"\x93NUMPY\x09\x09", b"no array"])
def test_an_archive_of_no_arrays_is_refused_in_a_sentence(
    content: bytes, session: Session, street: Path, tmp_path: Path
):
    with zipfile.ZipFile(tmp_path / "odd.npz", "w") as archive:
        archive.writestr("logits.npy", content)
    with pytest.raises(ValueError, match=r"odd\.npz: "):
        session.refine(SHIPPED_REFINER, street, tmp_path / "odd.npz")


def test_two_models_of_one_name_are_refused():
    with pytest.raises(ValueError, match="two files of one name"):
        loaded([Path("a/parser.safetensors"), Path("b/parser.safetensors")], lambda path: nn.Identity())


def test_without_gradio_the_command_names_the_extra(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(ValueError, match=r"gradio is not installed: pip install 'rectiseg\[web\]'"):
        web()


def test_a_port_that_is_taken_is_named():
    pytest.importorskip("gradio", reason="gradio is not installed")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ValueError, match=f"cannot listen at 127.0.0.1, port {port}"):
            web(port=port)


def test_the_command_serves_until_it_is_interrupted(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    pytest.importorskip("gradio", reason="gradio is not installed")
    import httpx

    class Visit:
        """In place of the event that nobody sets."""

        def wait(self) -> None:
            address = capsys.readouterr().out.partition(": ")[0]
            assert f'"{SHIPPED_PARSER}"' in httpx.get(address).text
            raise KeyboardInterrupt

    monkeypatch.setattr("rectiseg.commands.web.Event", Visit)
    assert web(examples=ROOT / "examples") == 0
