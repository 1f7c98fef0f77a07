"""`rectiseg web`: a page that parses and refines."""

from pathlib import Path
from threading import Event

from rectiseg.commands.options import OptionalPath, device_named


def web(
    models: tuple[Path, ...] = (),
    refiners: tuple[Path, ...] = (),
    examples: OptionalPath = None,
    host: str = "127.0.0.1",
    port: int | None = None,
    max_pixels: int = 4_000_000,
    max_upload: int = 64,
    max_kept: int = 2000,
    device: str = "cpu",
) -> int:
    """Serve a page where images are parsed and predictions refined, and the same as an HTTP API, until Ctrl-C.

    Example: rectiseg web --examples examples

    Args:
        models: Saved parsers to offer beside the shipped one.
        refiners: Saved refiners to offer beside the one that follows any model.
        examples: An image, or a folder of images, to offer as examples.
        host: Who may come: by default this machine alone; 0.0.0.0 lets in everybody who reaches it, without a password.
        port: The port to listen at; by default the first from 7860 on that is free.
        max_pixels: Larger images are refused.
        max_upload: Larger files are refused, in MB.
        max_kept: Nothing more is taken while uploads and results fill so many MB; they go after an hour or two.
        device: cpu, cuda, ...
    """
    from rectiseg.data.images import find_images
    from rectiseg.web.app import serving
    from rectiseg.web.session import Limits, open_session

    limits = Limits(pixels=max_pixels, upload=max_upload * 1_000_000, kept=max_kept * 1_000_000)
    session = open_session(models, refiners, device_named(device), limits)
    with serving(session, find_images([examples]) if examples else [], host, port) as address:
        print(f"{address}: open it in a browser; Ctrl-C stops it", flush=True)
        try:
            Event().wait()
        except KeyboardInterrupt:
            print()
    return 0
