"""The web page's API, asked as its client asks and as strangers may; skipped where Gradio is not installed."""

import json
import re
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from rectiseg.data.images import read_label_map
from rectiseg.web.session import SHIPPED_PARSER, SHIPPED_REFINER, Session
from test_web import HEIGHT, WIDTH, Gate, tiny_session, write_street

if TYPE_CHECKING:
    from gradio_client import Client
    from httpx import Client as HttpClient

PAGE = (Path(__file__).parent.parent / "docs" / "web.md").read_text(encoding="utf-8")
PROGRAMS = re.findall(r"^```python\n(.+?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def session() -> Session:
    return tiny_session()


@pytest.fixture
def street(tmp_path: Path) -> Path:
    return write_street(tmp_path)


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


@pytest.fixture(scope="module")
def api(address: str) -> "Iterator[HttpClient]":
    """Without Gradio's client: what anybody can send."""
    import httpx

    with httpx.Client(base_url=f"{address}gradio_api/", timeout=60) as client:
        yield client


def sent(path: Path) -> Any:
    from gradio_client import handle_file

    return handle_file(str(path))


def refusal(client: "Client", **arguments: Any) -> str:
    from gradio_client.exceptions import AppError

    with pytest.raises((AppError, ValueError)) as error:
        client.predict(**arguments)
    return str(error.value)


def test_the_api_parses_and_refines(client: "Client", session: Session, street: Path):
    pictures, panel, table, files = client.predict(image=sent(street), model=SHIPPED_PARSER, api_name="/predict")
    expected = session.predict(SHIPPED_PARSER, street)
    for path, pixels in zip(pictures, expected.before_and_after(), strict=True):
        assert np.array_equal(np.asarray(Image.open(path)), pixels)
    assert Image.open(panel).width > 2 * WIDTH
    assert [row[0] for row in table["data"]] == ["front", "+GRN 1", "+GRN 2", "+LRN"]
    labels, probabilities = map(Path, files)
    assert (labels.name, probabilities.name) == ("street.png", "street_probabilities.safetensors")
    assert np.array_equal(read_label_map(labels), expected.prediction.labels)
    *_, files = client.predict(
        image=sent(street), prediction=sent(probabilities), refiner=SHIPPED_REFINER, api_name="/refine"
    )
    assert read_label_map(files[0]).shape == (HEIGHT, WIDTH)


def test_the_manuals_program_runs(address: str, street: Path, monkeypatch: pytest.MonkeyPatch):
    """On a small image, and on models of the shipped ones' names."""
    (street.parent / "examples").mkdir()
    Image.open(street).save(street.parent / "examples" / "street.jpg")
    monkeypatch.chdir(street.parent)
    (program,) = PROGRAMS
    assert "http://127.0.0.1:7860" in program
    names: dict[str, Any] = {}
    exec(compile(program.replace("http://127.0.0.1:7860", address), "docs/web.md", "exec"), names)
    assert [Path(path).suffix for path in names["refined"]] == [".png", ".safetensors"]


def test_a_bad_file_is_named_in_one_sentence_without_the_servers_folders(client: "Client", tmp_path: Path):
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    said = refusal(client, image=sent(tmp_path / "broken.jpg"), model=SHIPPED_PARSER, api_name="/predict")
    assert said.startswith("broken.jpg: empty, broken or not one of")
    assert "choose a file" in refusal(client, image=None, model=SHIPPED_PARSER, api_name="/predict")


def test_what_a_file_says_is_shown_as_text(client: "Client", street: Path, tmp_path: Path):
    np.savez(tmp_path / "two.npz", **{"<b>": np.zeros(3), "c": np.zeros(3)})
    files = {"image": sent(street), "prediction": sent(tmp_path / "two.npz")}
    said = refusal(client, **files, refiner=SHIPPED_REFINER, api_name="/refine")
    assert said.startswith("two.npz: holds 2 arrays (&lt;b&gt;, c)")


def test_what_does_not_fit_in_memory_is_said(client: "Client", street: Path):
    assert "reduce the image" in refusal(client, image=sent(street), model="hungry", api_name="/predict")


def named(path: object) -> dict[str, object]:
    """As the API wants the path of a file that was uploaded."""
    return {"path": str(path), "meta": {"_type": "gradio.FileData"}}


def test_a_file_that_was_not_uploaded_is_neither_read_nor_served(api: "HttpClient", street: Path):
    asked = api.post("call/predict", json={"data": [named(street), SHIPPED_PARSER]}).json()
    told = api.get(f"call/predict/{asked['event_id']}").text
    assert "event: error" in told
    assert "event: complete" not in told
    for path in (street, "/etc/passwd", Path(__file__), "..%2F..%2F..%2F..%2Fetc%2Fpasswd"):
        assert api.get(f"file={path}").status_code == 403, path


@pytest.mark.parametrize("field", [0, 1], ids=["file", "model"])
def test_a_file_named_by_its_address_is_not_fetched(field: int, api: "HttpClient"):
    data = [None, SHIPPED_PARSER]
    data[field] = named("https://example.org/street.png")  # pyright: ignore
    done = api.post("call/predict", json={"data": data})
    assert (done.status_code, "upload it to" in done.json()["detail"]) == (403, True)


@pytest.mark.parametrize(
    "path", ["file=https://example.org/", "file=http%3A//example.org/", "proxy=http://example.org/"]
)
def test_the_server_is_no_way_to_other_hosts(path: str, api: "HttpClient"):
    assert "not fetched" in api.get(path).json()["detail"]


def test_a_large_upload_is_refused(api: "HttpClient"):
    assert api.post("upload", files={"files": ("large.png", bytes(100_001))}).status_code == 413


@pytest.mark.parametrize(("content", "status"), [(b" " * 100_001, 413), (b"[" * 90_000, 400), (b"no JSON", 400)])
def test_a_message_that_is_long_or_no_json_is_refused(content: bytes, status: int, api: "HttpClient"):
    assert api.post("call/predict", content=content).status_code == status


def test_a_name_that_was_made_to_lead_here_is_not_answered(api: "HttpClient", address: str):
    port = address.rstrip("/").rpartition(":")[2]
    for name, status in ((f"localhost:{port}", 200), ("localhost", 200), (f"evil.example:{port}", 403), ("", 403)):
        assert api.get("info", headers={"host": name}).status_code == status, name


def test_a_message_of_no_known_length_is_refused(api: "HttpClient"):
    assert api.post("upload", content=iter([b"a", b"b"])).status_code == 411


def test_nothing_more_is_taken_when_the_disk_is_as_full_as_it_may_be(session: Session, street: Path):
    import httpx

    from rectiseg.web.app import serving

    small = replace(session, limits=replace(session.limits, kept=2 * street.stat().st_size + 1000))
    with serving(small) as address, httpx.Client(base_url=f"{address}gradio_api/", timeout=60) as client:
        files = [street.read_bytes() + bytes([number]) for number in range(3)]  # the same one would be kept once
        asked = [client.post("upload", files={"files": ("street.png", content)}) for content in files]
        assert [answer.status_code for answer in asked] == [200, 200, 507]
        assert "deleted after an hour" in asked[2].json()["detail"]


def test_what_is_old_is_deleted_but_for_what_was_there_from_the_start(tmp_path: Path):
    from rectiseg.web.guard import held, sweep

    (tmp_path / "hash").mkdir()
    for name in ("hash/example.png", "tmp_broken_off"):
        (tmp_path / name).write_bytes(b"abc")
    (tmp_path / "left" / "pictures").mkdir(parents=True)
    (tmp_path / "gone").symlink_to("nowhere")
    kept = frozenset({tmp_path / "hash" / "example.png"})
    sweep(tmp_path, 3600, kept)
    assert len(list(tmp_path.rglob("*"))) == 6
    assert held(tmp_path) >= 6
    for _ in range(2):  # a folder at a time
        sweep(tmp_path, 0, kept)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["example.png", "hash"]


def test_uploads_that_nothing_asks_for_are_deleted(
    session: Session, street: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Sent as a field that Gradio does not know; an example stays."""
    import httpx

    from rectiseg.web import app

    monkeypatch.setattr(app, "KEPT", 1)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    example = tmp_path / "example.png"
    Image.open(street).save(example)
    with app.serving(session, [example]) as address, httpx.Client(base_url=f"{address}gradio_api/") as client:
        (folder,) = tmp_path.glob("rectiseg-web-*")
        there = set(folder.rglob("*.*"))
        assert there
        client.post("upload", files={"strange": ("street.png", street.read_bytes())})
        assert len([path for path in folder.rglob("*") if path.is_file()]) > len(there)
        until = time.monotonic() + 20
        while {path for path in folder.rglob("*") if path.is_file()} != there and time.monotonic() < until:
            time.sleep(0.1)
        assert {path for path in folder.rglob("*") if path.is_file()} == there


def test_there_is_no_way_past_the_queue(api: "HttpClient"):
    assert api.post("run/predict", json={"data": [None, SHIPPED_PARSER]}).status_code == 404


def test_it_listens_to_this_machine_alone_and_names_no_other(address: str):
    import httpx

    assert address.startswith("http://127.0.0.1:")
    page = httpx.get(address).text
    assert "fonts.googleapis" not in page
    assert '"analytics_enabled":false' in page.replace(" ", "")


def test_of_fifty_requests_the_queue_is_answered_one_at_a_time_and_the_rest_told_that_it_is_full(
    api: "HttpClient", session: Session, street: Path
):
    from rectiseg.web.app import QUEUE

    gate = session.parsers["gate"].front
    assert isinstance(gate, Gate)
    (uploaded,) = api.post("upload", files={"files": ("street.png", street.read_bytes())}).json()
    request = {"data": [named(uploaded), "gate"]}
    gate.open.clear()
    asked = [api.post("call/predict", json=request)]
    assert gate.entered.wait(timeout=60)
    asked += [api.post("call/predict", json=request) for _ in range(49)]
    gate.open.set()
    accepted = [answer.json()["event_id"] for answer in asked if answer.is_success]
    assert len(accepted) == 1 + QUEUE
    assert all(answer.status_code == 503 and "full" in answer.json()["detail"] for answer in asked[1 + QUEUE :])
    answers = [api.get(f"call/predict/{event}").text for event in accepted]
    assert all(answer.startswith("event: complete") for answer in answers)
    label_maps = [json.loads(answer.partition("data: ")[2])[3][0]["path"] for answer in answers]
    assert len(set(label_maps)) == len(accepted)
    assert len({api.get(f"file={path}").content for path in label_maps}) == 1
    assert gate.most == 1
