"""Images of one split that another split has, too: the same pixels, or the same picture encoded anew.

The thresholds are from CamVid and a sample of ADE20K: JPEG of quality 30 to 95, and half or one and a half of the size,
change up to 32 bits of a look and up to 8 grey levels in a cell. Neighbouring frames of CamVid's val, 1/15 s apart,
differ by 10 levels or more in some cell: they are no duplicates.
"""

from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from rectiseg.data.images import read_image
from rectiseg.doctor.finding import Finding

ROWS, COLUMNS = 16, 17
LOOK_BYTES = ROWS * (COLUMNS - 1) // 8
BRIGHTER = 0.5 / 255
"""By so much, or else a flat sky has the look of its rounding errors."""

NEAR = 40  # of the look's 256 bits
ALIKE = 8 / 255
CANDIDATES = 8
"""So many of the nearest looks are compared by their cells: in a video, or at night, many are near."""

BITS_SET = np.array([value.bit_count() for value in range(256)], np.uint8)
MEND = "Take it out of one of the splits: a model is not tested by what it has learnt."

OneImage = Float[Tensor, "3 height width"]


class Fingerprint(NamedTuple):
    """What is kept of an image: a digest of its pixels, and which cells are brighter than their left neighbours."""

    path: Path
    pixels: bytes
    look: bytes


def fingerprint(path: Path, image: OneImage) -> Fingerprint:
    """The look is a difference hash (dHash) of 16 x 16 bits."""
    height = image.shape[1].to_bytes(4, "big")  # 6 x 7 pixels are not 7 x 6 of the same values
    digest = blake2b(image.numpy().data, digest_size=16, salt=height)
    grey = cells(image)
    brighter = grey[:, 1:] > grey[:, :-1] + BRIGHTER
    return Fingerprint(path, digest.digest(), np.packbits(brighter.numpy()).tobytes())


def cells(image: OneImage) -> Float[Tensor, "16 17"]:
    """Mean greys."""
    return F.adaptive_avg_pool2d(image.mean(dim=0, keepdim=True), (ROWS, COLUMNS))[0]


class KnownImages:
    """The fingerprints of a split, to look others up in."""

    def __init__(self, fingerprints: Sequence[Fingerprint]):
        self.paths = [known.path for known in fingerprints]
        self.same = {known.pixels: known.path for known in fingerprints}
        looks = b"".join(known.look for known in fingerprints)
        self.looks = np.frombuffer(looks, np.uint8).reshape(-1, LOOK_BYTES)

    def findings(self, new: Fingerprint) -> list[Finding]:
        """The image of the same pixels, else one that looks the same."""
        if new.pixels in self.same:
            return [Finding("duplicate", new.path, f"has the pixels of {self.same[new.pixels]}", MEND)]
        distances = BITS_SET[self.looks ^ np.frombuffer(new.look, np.uint8)].sum(axis=1)
        near = np.flatnonzero(distances <= NEAR)
        if len(near) == 0:
            return []
        shown = cells(read_image(new.path))
        for index in near[np.argsort(distances[near], kind="stable")][:CANDIDATES]:
            difference = cells(read_image(self.paths[index])) - shown
            if torch.all(difference.abs() <= ALIKE):
                sentence = f"is the picture of {self.paths[index]}, encoded anew"
                return [Finding("near duplicate", new.path, sentence, MEND)]
        return []
