"""The stages of a training by name, apart from what trains them: the command line shows them without loading that."""

from typing import Literal

StageName = Literal[
    "front",
    "grn",
    "light",
    "lrn",
    "lrn_alone",
    "bilateral",
    "bilateral_alone",
    "bilateral_light",
    "context",
    "grn_last",
    "grn_iterated",
]
