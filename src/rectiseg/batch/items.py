"""Which image's label map goes where."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from rectiseg.batch.places import absolute, file_system, files_below, images_at, publish
from rectiseg.inference import Job

SETTINGS = "batch.json"


LABELS, *BESIDE = (target.name.removeprefix("image") for target in Job(Path(), Path("image.png")).targets)
"""How the names of an image's results end."""


@dataclass(frozen=True, slots=True)
class Item:
    """The places of an image and of its label map."""

    image: str
    labels: str


def plan(source: str, output: str) -> list[Item]:
    """Below the output the tree of the source is kept; a plan that would read or overwrite a result is refused."""
    output = absolute(output)
    if Path(source).is_dir() and Path(output).resolve().is_relative_to(Path(source).resolve()):
        raise ValueError(f"{output}: lies in {source}, where images are searched for; choose a folder outside it")
    stems = {place: os.path.splitext(relative)[0] for place, relative in images_at(source).items()}  # noqa: PTH122
    inside = next((place for place in stems if place.startswith(f"{output}/")), None)
    if inside is not None:
        raise ValueError(f"{inside}: an input among the results; choose another output than {output}")
    refuse_collisions(stems)
    return [Item(place, f"{output}/{stem}{LABELS}") for place, stem in stems.items()]


def refuse_collisions(stems: Mapping[str, str]) -> None:
    """Of all targets of every place: options then never decide whether a plan is good."""
    owners: dict[str, str] = {}
    for place, stem in stems.items():
        first = owners.setdefault(f"{stem}{LABELS}", place)
        if first != place:
            raise ValueError(f"{first} and {place}: both would be written to {stem}{LABELS}; rename one")
    for place, stem in stems.items():
        for target in (f"{stem}{ending}" for ending in BESIDE):
            if target in owners:
                raise ValueError(f"{owners[target]} and {place}: both would be written to {target}; rename one")


def claim(output: str, settings: Mapping[str, object]) -> set[str]:
    """What lies in the folder of the results; ValueError where other settings, or none that are known, made it."""
    output = absolute(output)
    place = f"{output}/{SETTINGS}"
    existing = files_below(output)
    text = json.dumps(settings, indent=2) + "\n"
    if place in existing:
        files, path = file_system(place)
        if files.cat_file(path).decode() != text:
            raise ValueError(f"{output}: holds results of another model or other options; choose another folder")
    elif existing:
        raise ValueError(f"{output}: holds files, but no {SETTINGS} that says what made them; choose another folder")
    else:
        with TemporaryDirectory() as folder:
            file = Path(folder, SETTINGS)
            file.write_text(text, encoding="utf-8")
            publish(file, place)
    return existing
