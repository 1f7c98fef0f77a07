"""The web page's requests as functions, and its API against a server; skipped there where Gradio is not installed."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from networks import tiny_grn
from rectiseg.data.images import read_image, read_label_map
from rectiseg.data.scenes import generate_scene
from rectiseg.inference import LABELS_ONLY, plan, predict_files
from rectiseg.models.class_agnostic import ClassAgnosticLRN
from rectiseg.models.combine import Cascade, SceneParser
from rectiseg.models.lrn import LRN
from rectiseg.types import Logits
from rectiseg.web.session import Limits, Session, loaded

if TYPE_CHECKING:
    from gradio_client import Client

HEIGHT, WIDTH, CLASSES = 33, 45, 5
NAMES = ("sky", "road", "car", "tree", "house")
COLORS = ((0, 0, 255), (90, 90, 90), (255, 0, 0), (0, 255, 0), (250, 200, 100))


class Gate(nn.Module):
    """A front that is one convolution; it waits while it is closed, and counts who is in it."""

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(3, CLASSES, 3, padding=1)
        self.open = threading.Event()
        self.open.set()
        self.inside = self.most = 0

    def forward(self, image: Tensor) -> Logits:
        self.inside += 1
        self.most = max(self.most, self.inside)
        assert self.open.wait(timeout=60)
        self.inside -= 1
        return self.convolution(image)


@pytest.fixture(scope="module")
def session() -> Session:
    """Two parsers, one with two iterations of GRN, and two refiners."""
    torch.manual_seed(0)
    parsers = {
        "full": SceneParser(
            Gate(), Cascade(tiny_grn(CLASSES, iterations=2), LRN.narrow(CLASSES)), NAMES, COLORS
        ).eval(),
        "gate": SceneParser(Gate(), Cascade(), NAMES, COLORS).eval(),
    }
    refiners = {"any": ClassAgnosticLRN().eval(), "full": parsers["full"].refiner}
    return Session(parsers, refiners, Limits(pixels=2000, confidences=20_000, upload=100_000))


@pytest.fixture
def street(tmp_path: Path) -> Path:
    path = tmp_path / "street.png"
    Image.fromarray(generate_scene(0, HEIGHT, WIDTH)[0]).save(path)
    return path


def test_every_stage_is_shown_and_timed(session: Session, street: Path):
    rows = session.predict("full", street).table()
    assert [title for title, _, _ in rows] == ["front", "+GRN 1", "+GRN 2", "+LRN"]
    assert rows[0][1] == 0
    assert rows[1][1] > 0
    assert all(seconds >= 0 for _, _, seconds in rows)


def test_the_files_are_those_of_the_command_predict(session: Session, street: Path, tmp_path: Path):
    parser = session.parsers["full"]
    predict_files(parser, plan([street], tmp_path / "predicted"), NAMES, np.array(COLORS, np.uint8), LABELS_ONLY)
    labels, probabilities = session.predict("full", street).save(tmp_path / "made", "street")
    assert labels.read_bytes() == (tmp_path / "predicted" / "street.png").read_bytes()
    with torch.inference_mode():
        expected = parser(read_image(street)[None])[0].softmax(dim=0).half()
    torch.testing.assert_close(load_file(probabilities)["probabilities"], expected)


def test_the_slider_shows_the_first_stage_and_the_last(session: Session, street: Path):
    before, after = session.predict("full", street).before_and_after()
    assert before.shape == after.shape == (HEIGHT, WIDTH, 3)
    assert not np.array_equal(before, after)


def test_a_prediction_of_any_classes_is_refined(session: Session, street: Path, tmp_path: Path):
    maps = torch.randn(7, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0)).numpy()
    np.save(tmp_path / "street.npy", maps)
    answer = session.refine("any", street, tmp_path / "street.npy")
    assert [title for title, _ in answer.prediction.stages] == ["prediction", "+ClassAgnosticLRN"]
    assert np.array_equal(answer.prediction.stages[0][1], maps.argmax(axis=0))
    assert answer.classes[6] == "class 6"


def test_a_parsers_refiners_mend_predictions_of_its_classes_by_their_names(
    session: Session, street: Path, tmp_path: Path
):
    Image.fromarray(generate_scene(0, HEIGHT, WIDTH)[1] % CLASSES).save(tmp_path / "labels.png")
    answer = session.refine("full", street, tmp_path / "labels.png")
    assert answer.classes == NAMES
    np.save(tmp_path / "seven.npy", np.zeros((7, HEIGHT, WIDTH), np.float32))
    with pytest.raises(ValueError, match=r"seven\.npy: holds 7 confidence maps for 5 classes"):
        session.refine("full", street, tmp_path / "seven.npy")


def test_a_large_image_is_refused_before_it_is_decoded(session: Session, tmp_path: Path):
    path = tmp_path / "large.png"
    Image.new("RGB", (50, 41)).save(path)
    path.write_bytes(path.read_bytes()[:60])  # what cannot be decoded any more
    with pytest.raises(ValueError, match="50 x 41 is more than 2000 pixels"):
        session.predict("full", path)


def test_small_files_that_become_large_are_refused(session: Session, street: Path, tmp_path: Path):
    labels = tmp_path / "labels.png"
    Image.fromarray(np.full((HEIGHT, WIDTH), 3000, np.uint16)).save(labels)
    with pytest.raises(ValueError, match="3001 classes of 45 x 33 pixels are more than 20000 confidences"):
        session.refine("any", street, labels)
    bomb = tmp_path / "bomb.npz"
    np.savez_compressed(bomb, logits=np.zeros((2, 300, 400), np.float32))
    assert bomb.stat().st_size < 2000
    with pytest.raises(ValueError, match=r"bomb\.npz: unpacks to more than 160000 bytes"):
        session.refine("any", street, bomb)
    Image.new("L", (50, 41)).save(labels)
    with pytest.raises(ValueError, match="50 x 41 is more than 2000 pixels"):
        session.refine("any", street, labels)


def test_two_models_of_one_name_are_refused():
    with pytest.raises(ValueError, match="two files of one name"):
        loaded([Path("a/parser.safetensors"), Path("b/parser.safetensors")], lambda path: nn.Identity())


@pytest.fixture(scope="module")
def address(session: Session) -> Iterator[str]:
    pytest.importorskip("gradio", reason="gradio is not installed")
    from rectiseg.web.app import serving

    with serving(session) as address:
        yield address


@pytest.fixture(scope="module")
def client(address: str) -> "Client":
    from gradio_client import Client

    return Client(address, verbose=False)


def sent(path: Path) -> Any:
    from gradio_client import handle_file

    return handle_file(str(path))


def refusal(client: "Client", **arguments: Any) -> str:
    from gradio_client.exceptions import AppError

    with pytest.raises((AppError, ValueError)) as error:
        client.predict(**arguments)
    return str(error.value)


def test_the_api_parses_and_refines(client: "Client", session: Session, street: Path):
    _, _, table, files = client.predict(image=sent(street), model="full", api_name="/predict")
    expected = session.predict("full", street)
    assert [row[0] for row in table["data"]] == ["front", "+GRN 1", "+GRN 2", "+LRN"]
    labels, probabilities = map(Path, files)
    assert (labels.name, probabilities.name) == ("street.png", "street_probabilities.safetensors")
    assert np.array_equal(read_label_map(labels), expected.prediction.labels)
    *_, files = client.predict(image=sent(street), prediction=sent(probabilities), refiner="any", api_name="/refine")
    assert read_label_map(files[0]).shape == (HEIGHT, WIDTH)


def test_a_bad_file_is_named_in_one_sentence_without_the_servers_folders(client: "Client", tmp_path: Path):
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    said = refusal(client, image=sent(tmp_path / "broken.jpg"), model="full", api_name="/predict")
    assert said.startswith("broken.jpg: empty, broken or not one of")
    assert "choose a file" in refusal(client, image=None, model="full", api_name="/predict")


def test_a_file_that_was_not_uploaded_is_neither_read_nor_served(address: str, street: Path):
    import httpx

    named = {"path": str(street), "meta": {"_type": "gradio.FileData"}}
    asked = httpx.post(f"{address}gradio_api/call/predict", json={"data": [named, "full"]}).json()
    told = httpx.get(f"{address}gradio_api/call/predict/{asked['event_id']}", timeout=60).text
    assert "event: error" in told
    assert "event: complete" not in told
    for path in (street, "/etc/passwd", Path(__file__), "../../../../etc/passwd"):
        assert httpx.get(f"{address}gradio_api/file={path}").status_code in (403, 404), path


def test_a_large_upload_is_refused(address: str):
    import httpx

    done = httpx.post(f"{address}gradio_api/upload", files={"files": ("large.png", bytes(100_001))})
    assert done.status_code == 413


def test_it_listens_to_this_machine_alone_and_names_no_other(address: str):
    import httpx

    assert address.startswith("http://127.0.0.1:")
    page = httpx.get(address).text
    assert "fonts.googleapis" not in page
    assert '"analytics_enabled":false' in page.replace(" ", "")


def test_fifty_requests_are_answered_one_at_a_time_or_refused_politely(
    client: "Client", session: Session, street: Path
):
    gate = session.parsers["gate"].front
    assert isinstance(gate, Gate)
    gate.open.clear()
    jobs = [client.submit(image=sent(street), model="gate", api_name="/predict") for _ in range(50)]
    deadline = time.monotonic() + 60
    while sum(job.done() for job in jobs) < 25 and time.monotonic() < deadline:
        time.sleep(0.05)
    gate.open.set()
    errors = [job.exception(timeout=60) for job in jobs]
    refused = [str(error) for error in errors if error is not None]
    assert 25 <= len(refused) <= 35
    assert all("full" in sentence for sentence in refused), refused
    assert gate.most == 1
