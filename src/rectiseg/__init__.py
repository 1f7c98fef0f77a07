"""Rectify scene parsing: GRN and LRN after any parser.

A parser maps an image to logits, a refiner an image and logits to logits; everything else composes these two.
"""

from rectiseg.data.images import read_image
from rectiseg.models.checkpoint import load, save
from rectiseg.models.combine import Cascade, Parallel, SceneParser
from rectiseg.models.efficientnet_lite import EfficientNetLite
from rectiseg.models.front import Front
from rectiseg.models.fusion import Ensemble, MultiScale
from rectiseg.models.grn import GRN
from rectiseg.models.lrn import LRN
from rectiseg.models.resnet import ResNet
from rectiseg.models.tiled import Tiled
from rectiseg.ops.propagate import propagate
from rectiseg.refinement import refine
from rectiseg.types import IGNORE_INDEX, Coefficients, Image, LabelMap, Logits, Parser, Refiner

__version__ = "0.1.0"

__all__ = [
    "GRN",
    "IGNORE_INDEX",
    "LRN",
    "Cascade",
    "Coefficients",
    "EfficientNetLite",
    "Ensemble",
    "Front",
    "Image",
    "LabelMap",
    "Logits",
    "MultiScale",
    "Parallel",
    "Parser",
    "Refiner",
    "ResNet",
    "SceneParser",
    "Tiled",
    "load",
    "propagate",
    "read_image",
    "refine",
    "save",
]
