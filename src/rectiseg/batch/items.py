"""Which image, with which prediction, is done to which label map."""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from rectiseg.batch.places import absolute, file_system, files_below, images_at, publish
from rectiseg.data.files import real
from rectiseg.data.predictions import SUFFIXES
from rectiseg.jobs import Job

SETTINGS = "batch.json"

RESULTS = tuple(target.name.removeprefix("image") for target in Job(Path(), Path("image.png")).targets)
"""How the names of an image's results end, that of its label map first."""

PREDICTIONS = tuple(
    f"{mark}{suffix}" for suffix in (*sorted(SUFFIXES - {".png"}), ".png") for mark in ("", "_probabilities")
)
"""How the names of an image's predictions may end; confidence maps go before label maps."""


@dataclass(frozen=True, slots=True)
class Item:
    """The places of an image and of its label map; where it is to be refined, of what another model said of it; where
    it is to be measured, of its true labels."""

    image: str
    labels: str
    prediction: str | None = None
    truth: str | None = None


def plan(source: str, output: str, predictions: str | None = None, truth: str | None = None) -> list[Item]:
    """Below the output the tree of the source is kept; predictions and true labels lie in the same tree below a place
    of their own.

    A plan that would read or overwrite a result, or without any prediction or true labels, raises ValueError.
    """
    output = absolute(output)
    if Path(source).is_dir() and real(Path(output)).is_relative_to(real(Path(source))):
        raise ValueError(f"{output}: lies in {source}, where images are searched for; choose a folder outside it")
    stems = {place: os.path.splitext(relative)[0] for place, relative in images_at(source).items()}  # noqa: PTH122
    inside = next((place for place in stems if place.startswith(f"{output}/")), None)
    if inside is not None:
        raise ValueError(f"{inside}: an input among the results; choose another output than {output}")
    refuse_collisions(stems)
    nothing = [None] * len(stems)
    said = nothing if predictions is None else matched(stems.values(), absolute(predictions), PREDICTIONS)
    true = nothing if truth is None else matched(stems.values(), absolute(truth), (".png",))
    return [
        Item(place, f"{output}/{stem}{RESULTS[0]}", *partners)
        for (place, stem), *partners in zip(stems.items(), said, true, strict=True)
    ]


def refuse_collisions(stems: Mapping[str, str]) -> None:
    """Of all targets of every place: options then never decide whether a plan is good."""
    owners = {f"{stem}{RESULTS[0]}": place for place, stem in stems.items()}
    for place, stem in stems.items():
        for target in (f"{stem}{ending}" for ending in RESULTS):
            other = owners.get(target, place)
            if other != place:
                raise ValueError(f"{place} and {other}: both would be written to {target}; rename one")


def matched(stems: Iterable[str], folder: str, endings: Sequence[str]) -> list[str]:
    """Each image's partner, by the rules of `rectiseg refine`; where there is none, what it would be called."""
    there = files_below(folder)
    partners = []
    for stem in stems:
        found = [place for ending in endings if (place := f"{folder}/{stem}{ending}") in there]
        first, *others = found or [f"{folder}/{stem}.*"]
        if others and not others[0].endswith(".png"):
            raise ValueError(f"{first} and {others[0]}: two predictions of one image; keep one")
        partners.append(first)
    if there.isdisjoint(partners):
        raise ValueError(f"{folder}: no file there has the path of an image; name the folder above them")
    return partners


def claim(output: str, settings: Mapping[str, object]) -> set[str]:
    """What lies in the folder of the results; ValueError where other settings, or none that are known, made it."""
    output = absolute(output)
    place = f"{output}/{SETTINGS}"
    existing = files_below(output)
    text = json.dumps(settings, indent=2) + "\n"
    if place in existing:
        files, path = file_system(place)
        if others := differing(files.cat_file(path).decode(), text):
            raise ValueError(f"{output}: holds results of other settings: {', '.join(others)}; choose another folder")
    elif existing:
        raise ValueError(f"{output}: holds files, but no {SETTINGS} that says what made them; choose another folder")
    else:
        with TemporaryDirectory() as folder:
            file = Path(folder, SETTINGS)
            file.write_text(text, encoding="utf-8")
            publish(file, place)
    return existing


def differing(before: str, now: str) -> list[str]:
    """The names of the settings that two texts of JSON do not share; all of them where the first is no such text."""
    try:
        known = dict(json.loads(before))
    except (ValueError, TypeError):
        known = {}
    wanted = json.loads(now)
    return [name for name in {**known, **wanted} if known.get(name) != wanted.get(name)]
