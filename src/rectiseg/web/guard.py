"""What Gradio would do for anybody and we do not: fetch addresses, read messages of any length, fill the disk."""

import json
import os
import re
import time
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from contextlib import suppress
from pathlib import Path
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]

UPLOAD = "/gradio_api/upload"
"""Where files come in; their size is Gradio's to limit."""

LONGEST = 100_000  # bytes
"""Of every other message: they name files that were uploaded, and hold none."""

ADDRESS = re.compile(r"=\s*https?:", re.IGNORECASE)
"""In a path: Gradio's file= and proxy= would fetch what follows."""


LOOPBACK = frozenset({"127.0.0.1", "localhost", "[::1]", "::1"})
"""This machine's names for itself."""


class Refusal(Exception):
    """A request that goes no further; its status and one sentence."""

    def __init__(self, status: int, sentence: str):
        super().__init__(sentence)
        self.status = status


class Guard:
    """ASGI middleware: lets through what names no address for the server to fetch and is short, or is an upload.

    While ``folder`` holds ``room`` bytes nothing more is taken. A server of this machine alone, ``loopback``, answers
    to its names only: a page of elsewhere whose name was made to lead here (DNS rebinding) asks by that name.
    """

    def __init__(self, app: Application, folder: Path, room: int, loopback: bool):
        self.app = app
        self.folder = folder
        self.room = room
        self.loopback = loopback
        self.coming = 0  # bytes that are being uploaded

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        headers = dict(scope["headers"])
        size = int(headers.get(b"content-length", b"0")) if scope["method"] == "POST" else 0
        try:
            if self.loopback and name_of(headers.get(b"host", b"")) not in LOOPBACK:
                raise Refusal(403, "this page is asked for as 127.0.0.1 or localhost")
            if ADDRESS.search(scope["path"]):
                raise Refusal(403, "files of other hosts are not fetched")
            if scope["method"] == "POST":
                if b"content-length" not in headers:
                    raise Refusal(411, "a message that does not say how long it is")
                if held(self.folder) + self.coming + size > self.room:
                    raise Refusal(507, "too much lies here already; it is deleted after an hour or two")
                if scope["path"] != UPLOAD:
                    receive = await checked(receive)
        except Refusal as refusal:
            return await answer(send, refusal)
        self.coming += size
        try:
            await self.app(scope, receive, send)
        finally:
            self.coming -= size


def name_of(host: bytes) -> str:
    """Without its port."""
    return re.sub(r":\d*$", "", host.decode("latin-1")).lower()


def held(folder: Path) -> int:
    """Bytes of all files there."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):  # deleted meanwhile
                total += Path(place, name).lstat().st_size
    return total


def sweep(folder: Path, age: float, kept: Collection[Path]) -> None:
    """Delete files of so many seconds, but for those that are kept, and what folders are empty then.

    A folder counts from when its last file went.
    """
    until = time.time() - age
    for place, folders, names in os.walk(folder, topdown=False):
        for path in (Path(place, name) for name in names):
            with suppress(OSError):  # gone meanwhile, or in use
                if path not in kept and path.lstat().st_ctime <= until:
                    path.unlink()
        for path in (Path(place, name) for name in folders):
            with suppress(OSError):  # not empty
                if path.lstat().st_ctime <= until:
                    path.rmdir()


async def checked(receive: Receive) -> Receive:
    """The same message to be received once more, now that it was read."""
    body, more = b"", True
    while more:
        part = await receive()
        body += part.get("body", b"")
        more = part.get("more_body", False)
        if len(body) > LONGEST:
            raise Refusal(413, f"a message of more than {LONGEST} bytes; upload files to {UPLOAD}")
    refuse_addresses(body)
    read = iter([{"type": "http.request", "body": body}])

    async def again() -> Message:
        return next(read, None) or await receive()

    return again


def refuse_addresses(body: bytes) -> None:
    """In place of a file's path, wherever in the JSON it stands."""

    def refuse(entries: list[tuple[str, Any]]) -> None:
        if any(name == "path" and str(value).startswith(("http:", "https:")) for name, value in entries):
            raise Refusal(403, f"a file named by its address is not fetched; upload it to {UPLOAD}")

    try:
        json.loads(body or b"null", object_pairs_hook=refuse)
    except (ValueError, RecursionError) as error:
        raise Refusal(400, "a message that is no JSON") from error


async def answer(send: Send, refusal: Refusal) -> None:
    """As Gradio words its own, for its client shows them."""
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps({"detail": str(refusal)}).encode()})
