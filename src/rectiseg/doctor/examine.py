"""The examination: every file is read once, one after the other, and only counts and hashes are kept."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int64, Integer

from rectiseg.data.images import read_image
from rectiseg.doctor.classes import Classes
from rectiseg.doctor.duplicates import Fingerprint, KnownImages, fingerprint
from rectiseg.doctor.files import Pair, Part
from rectiseg.doctor.finding import Finding, read_or_find, some
from rectiseg.doctor.labels import (
    Size,
    histogram_of,
    known_palettes,
    label_findings,
    mask_findings,
    read_labels,
    size_findings,
)
from rectiseg.doctor.predictions import OFFSETS, agreement, range_findings, read_indices, shift_findings
from rectiseg.progress import Reporter

VALUES = 2**16
"""A PNG holds no label beyond 16 bits."""

MEND_LABELS = "Find the image that it was drawn on, or resize it, taking the nearest label."
MEND_PREDICTION = "Bring it to the image's size: confidence maps bilinearly, a label map by the nearest label."


class Tally:
    """What the files of a split add up to."""

    def __init__(self, part: Part, classes: Classes):
        self.part = part
        self.classes = classes
        self.palettes = known_palettes(classes)
        self.histogram = np.zeros(VALUES, np.int64)
        self.images = np.zeros(len(classes.names), np.int64)  # in which a class occurs
        self.agreement = np.zeros((1 + len(OFFSETS), len(classes.names)), np.int64)
        self.fingerprints: list[Fingerprint] = []

    def examine(self, pair: Pair) -> Iterator[Finding]:
        """Each file by itself, then beside the others; what cannot be read is in no count."""
        image = read_or_find(read_image, pair.image)
        labels = read_labels(pair.labels, self.palettes)
        yield from (read for read in (image, labels) if isinstance(read, Finding))
        size = None
        if not isinstance(image, Finding):
            size = (image.shape[1], image.shape[2])
            self.fingerprints.append(fingerprint(pair.image, image))
        if not isinstance(labels, Finding):
            yield from self.examine_labels(pair.labels, labels, size)
        if pair.prediction is not None:
            yield from self.examine_prediction(pair.prediction, labels, size)

    def examine_labels(
        self, path: Path, labels: Integer[np.ndarray, "height width"], size: Size | None
    ) -> list[Finding]:
        histogram = histogram_of(labels)
        self.histogram[: len(histogram)] += histogram
        self.images += self.classes.pixels(histogram) > 0
        findings = label_findings(path, histogram, self.classes)
        return findings + size_findings("size", path, labels.shape, size, MEND_LABELS)

    def examine_prediction(
        self, path: Path, labels: Integer[np.ndarray, "height width"] | Finding, size: Size | None
    ) -> list[Finding]:
        prediction = read_or_find(read_indices, path)
        if isinstance(prediction, Finding):
            return [prediction]
        num_classes = len(self.classes.names)
        if not isinstance(labels, Finding) and labels.shape == prediction.shape:
            self.agreement += agreement(prediction, self.classes.of(labels), num_classes)
        findings = range_findings(path, prediction, num_classes)
        return findings + size_findings("prediction size", path, prediction.shape, size, MEND_PREDICTION)

    def pixels(self) -> Int64[np.ndarray, "classes"]:
        """Of each class."""
        return self.classes.pixels(self.histogram)

    def findings(self) -> list[Finding]:
        """What shows in all files together."""
        return mask_findings(self.part.labels, self.histogram) + shift_findings(self.part.labels, self.agreement)


def examine(parts: Sequence[Part], classes: Classes, reporter: Reporter) -> tuple[list[Finding], list[Tally]]:
    """The faults of every file, of each split as a whole and between the splits, and what the splits add up to."""
    tallies = [Tally(part, classes) for part in parts]
    findings: list[Finding] = []
    for tally in tallies:
        reporter.stage(f"examine {tally.part.name}", len(tally.part.pairs))
        for pair in tally.part.pairs.values():
            findings += tally.examine(pair)
            reporter.advance()
        findings += tally.findings()
    findings += absent_classes(tallies)
    for tally in tallies[1:]:
        findings += repeated_images(tallies[0], tally, reporter)
    return findings, tallies


def repeated_images(first: Tally, second: Tally, reporter: Reporter) -> Iterator[Finding]:
    known = KnownImages(first.fingerprints)
    reporter.stage(f"compare {second.part.name} with {first.part.name}", len(second.fingerprints))
    for new in second.fingerprints:
        yield from known.findings(new)
        reporter.advance()


def absent_classes(tallies: Sequence[Tally]) -> Iterator[Finding]:
    """Classes of the list that a split does not show; without a list, those that another split shows."""
    pixels = [tally.pixels() for tally in tallies]
    seen_anywhere = np.sum(pixels, axis=0) > 0
    for tally, counts in zip(tallies, pixels, strict=True):
        expected = np.full(len(counts), True) if tally.classes.known else seen_anywhere
        absent = np.flatnonzero(expected & (counts == 0))
        if counts.any() and len(absent):
            names = some(tally.classes.names[index] for index in absent)
            sentence = f"{len(absent)} of {expected.sum()} classes occur in none of these label maps: {names}"
            mend = "Add images that show them, split anew, or take them out of the list of classes."
            yield Finding("absent class", tally.part.labels, sentence, mend)
