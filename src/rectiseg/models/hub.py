"""Models as folders, a file and a card, on this machine or on the Hugging Face Hub."""

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from rectiseg.data.files import atomic_path

MODEL, CARD = "model.safetensors", "README.md"
REPOSITORY = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
"""How models are named there: somebody, and something of theirs."""
FILES = (".safetensors", ".onnx", ".pt2", ".tflite", ".pth")
"""What the files of models end in, which no model there may."""


def is_on_the_hub(name: str) -> bool:
    """Whether it reads like a model's name there, and nothing here has this name."""
    return is_name(name) and not Path(name).exists()


def is_name(name: str) -> bool:
    return REPOSITORY.fullmatch(name) is not None and not name.endswith(FILES)


def downloaded(name: str) -> Path:
    """The model's file, fetched once; ValueError where it cannot be had."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HTTPError  # pyright: ignore[reportPrivateImportUsage]

    try:
        return Path(hf_hub_download(name, MODEL))
    except (OSError, ValueError, EntryNotFoundError, HTTPError) as error:
        raise ValueError(f"{name}: no such file here, and not to be had from the hub ({first_line(error)})") from error


def published(model: Path, card: str, place: str, private: bool = False) -> str:
    """Put a model's file and its card into a folder here, or into a repository on the hub; returns its address.

    ``place`` is a folder where it begins with . or / or exists, else NAME/MODEL. ValueError where it cannot be done.
    """
    if place.startswith((".", "/")) or Path(place).exists():
        return str(written(model, card, Path(place)))
    if not is_name(place):
        raise ValueError(f"{place}: neither a folder, like ./{place}, nor a name on the hub, like somebody/{place}")
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HTTPError  # pyright: ignore[reportPrivateImportUsage]

    api = HfApi()
    try:
        with TemporaryDirectory() as folder:
            written(model, card, Path(folder))
            address = api.create_repo(place, private=private, exist_ok=True)
            api.upload_folder(repo_id=place, folder_path=folder, commit_message="A model of rectiseg")
    except (OSError, ValueError, HTTPError) as error:
        raise ValueError(f"{place}: the hub does not take it ({first_line(error)}); see `hf auth login`") from error
    return str(address)


def written(model: Path, card: str, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_path(folder / MODEL) as temporary:
        shutil.copyfile(model, temporary)
    with atomic_path(folder / CARD) as temporary:
        temporary.write_text(card, encoding="utf-8")
    return folder


def first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


def card_of(title: str, training: Mapping[str, str], place: str) -> str:
    """What the model is, how it is used, and what its training wanted to be remembered."""
    classes = json.loads(training.get("classes", "[]"))
    remembered = {name: value for name, value in training.items() if name not in ("classes", "settings")}
    lines = [
        "---",
        "library_name: rectiseg",
        "pipeline_tag: image-segmentation",
        "---",
        "",
        f"# {place.rstrip('/').rpartition('/')[2]}",
        "",
        f"A model of rectiseg, `{title}`.",
        "",
        "```python",
        "import rectiseg",
        "",
        f'model = rectiseg.load("{place}")',
        "```",
        *(["", f"Classes: {', '.join(classes)}."] if classes else []),
        *(["", "| training | |", "|---|---|"] if remembered else []),
        *(f"| {name.replace('_', ' ')} | {value.replace('|', ' ')} |" for name, value in remembered.items()),
    ]
    return "\n".join(lines) + "\n"
