"""The page and its API: what Gradio shows and serves of a session."""

import html
import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from threading import Event, Thread
from typing import TYPE_CHECKING, Any

from rectiseg.data.images import IMAGE_SUFFIXES
from rectiseg.data.predictions import SUFFIXES
from rectiseg.jobs import out_of_memory
from rectiseg.models.external.installed import library
from rectiseg.web.guard import LOOPBACK, Guard, sweep
from rectiseg.web.session import Answer, Session

if TYPE_CHECKING:
    from gradio import Blocks

QUEUE = 20
"""So many requests wait for the model; further ones are told that the queue is full."""

KEPT = 3600  # seconds
"""How long uploads and results lie on the server."""


@contextmanager
def serving(
    session: Session, examples: Sequence[Path] = (), host: str = "127.0.0.1", port: int | None = None
) -> Iterator[str]:
    """The page's address, for as long as the block lasts; nothing but what was uploaded or made here is served.

    Where Gradio is not installed, and where the port cannot be had, raises ValueError.
    """
    library("gradio", "web")
    from starlette.middleware import Middleware

    with TemporaryDirectory(prefix="rectiseg-web-") as served, told(served):
        page = interface(session, examples, Path(served))
        examples_there = frozenset(Path(served).rglob("*"))
        guard = Middleware(Guard, Path(served), session.limits.kept, host in LOOPBACK)
        page.queue(max_size=QUEUE, api_open=False)  # an open one lets requests pass by the queue
        try:
            page.launch(
                server_name=host,
                server_port=port,
                max_file_size=session.limits.upload,
                prevent_thread_lock=True,
                quiet=True,
                share=False,
                ssr_mode=False,
                run_history=False,
                enable_monitoring=False,
                mcp_server=False,
                footer_links=["api"],
                app_kwargs={"middleware": [guard]},
            )
        except OSError as error:
            raise ValueError(f"cannot listen at {host}, port {port}: taken, or not ours; choose another") from error
        assert page.local_url is not None
        try:
            with swept(Path(served), examples_there):
                yield page.local_url
        finally:
            page.close(verbose=False)


@contextmanager
def swept(served: Path, kept: Collection[Path]) -> Iterator[None]:
    """What is old, and not kept, is deleted as long as the block lasts.

    Gradio's own deletion takes the examples, too, and forgets an upload that was broken off or that nothing asks for.
    """
    over = Event()

    def sweep_again() -> None:
        while not over.wait(KEPT):
            sweep(served, KEPT, kept)

    thread = Thread(target=sweep_again, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@contextmanager
def told(served: str) -> Iterator[None]:
    """What Gradio takes from the environment alone: where it keeps files, and that it reports to nobody."""
    said = {"GRADIO_TEMP_DIR": served, "GRADIO_ANALYTICS_ENABLED": "False"}
    before = {name: os.environ.pop(name, None) for name in said}
    os.environ.update(said)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


def interface(session: Session, examples: Sequence[Path], served: Path) -> "Blocks":
    """Two tabs, each with an endpoint of its name. Every answer gets a folder in ``served``."""
    import gradio

    def shown(answer: Answer, image: Path) -> tuple[Any, ...]:
        folder = Path(mkdtemp(dir=served))
        before, after, panel = map(str, answer.draw(folder / "pictures"))
        return (before, after), panel, answer.table(), list(map(str, answer.save(folder, image.stem)))

    def predict(image: str | None, model: str) -> tuple[Any, ...]:
        """Parse an image and refine the result."""
        with in_a_sentence(image):
            path = given(image, "image")
            return shown(session.predict(model, path), path)

    def refine(image: str | None, prediction: str | None, refiner: str) -> tuple[Any, ...]:
        """Refine what another model predicted of an image."""
        with in_a_sentence(image, prediction):
            path = given(image, "image")
            return shown(session.refine(refiner, path, given(prediction, "prediction")), path)

    with gradio.Blocks(title="rectiseg", analytics_enabled=False) as page:
        gradio.Markdown("# rectiseg\nLabels of an image, before and after refinement.")
        with gradio.Tab("Parse an image"):
            image = gradio.File(label="image file", file_types=sorted(IMAGE_SUFFIXES))
            if examples:
                gradio.Examples([[str(path)] for path in examples], image)
            model = gradio.Dropdown(list(session.parsers), label="model")
            run_once(gradio.Button("Parse"), predict, [image, model])
        with gradio.Tab("Refine a prediction"):
            image = gradio.File(label="image file", file_types=sorted(IMAGE_SUFFIXES))
            prediction = gradio.File(label="prediction", file_types=sorted(SUFFIXES))
            refiner = gradio.Dropdown(list(session.refiners), label="refiner")
            run_once(gradio.Button("Refine"), refine, [image, prediction, refiner])
    return page


def run_once(button: Any, function: Any, inputs: list[Any]) -> None:
    """Show below the button what the function returns, one request of all buttons at a time."""
    import gradio

    outputs = [
        gradio.ImageSlider(label="before and after", format="png", interactive=False),
        gradio.Image(show_label=False, format="png", interactive=False, buttons=["download", "fullscreen"]),
        gradio.Dataframe(headers=["stage", "changed pixels, %", "seconds"], label="what each stage changed"),
        gradio.File(label="label map and probabilities", file_count="multiple", interactive=False),
    ]
    button.click(function, inputs, outputs, api_name=function.__name__, concurrency_limit=1, concurrency_id="model")


def given(path: str | None, what: str) -> Path:
    if path is None:
        raise ValueError(f"no {what} was given: choose a file first")
    return Path(path)


@contextmanager
def in_a_sentence(*paths: str | None) -> Iterator[None]:
    """What a visitor can mend is told to them, without the folders of the server."""
    import gradio

    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        raise gradio.Error("does not fit in memory: reduce the image", print_exception=False) from error
    except ValueError as error:
        sentence = str(error)
        for path in filter(None, paths):
            sentence = sentence.replace(path, Path(path).name)
        # The page takes it for HTML, and a visitor's file may have been made by somebody else.
        raise gradio.Error(html.escape(sentence, quote=False), print_exception=False) from error
