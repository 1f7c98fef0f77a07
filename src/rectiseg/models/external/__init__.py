"""Fronts that live in other libraries, as parsers: an image in, logits of its size out. See docs/fronts.md."""

from rectiseg.models.external.files import from_file
from rectiseg.models.external.fits import edges_between, letterboxed, padded, stretched
from rectiseg.models.external.front import ExternalFront
from rectiseg.models.external.libraries import from_smp, from_torchvision, from_transformers

__all__ = [
    "ExternalFront",
    "edges_between",
    "from_file",
    "from_smp",
    "from_torchvision",
    "from_transformers",
    "letterboxed",
    "padded",
    "stretched",
]
