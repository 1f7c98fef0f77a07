"""A parser or refiner as one file that runs without our code: an ONNX network, or a program exported by torch."""

import copy
import inspect
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from rectiseg.data.files import atomic_path
from rectiseg.models.combine import SceneParser
from rectiseg.models.crf import FullyConnectedCRF
from rectiseg.models.exported import ENTRY, INPUTS, About, ExportedParser, ExportedRefiner, load_exported
from rectiseg.models.external.installed import library
from rectiseg.models.fusion import MultiScale, classes_of
from rectiseg.models.tiled import Tiled
from rectiseg.ops.resize import resized

Part = Literal["whole", "front", "refiner"]

NOT_EXPORTED: dict[type[nn.Module], str] = {
    FullyConnectedCRF: "its filter is code of this package; export the model without it",
    MultiScale: "it resizes as no ONNX operator does; export its parser, and fuse the views of the exported one",
    Tiled: "how many tiles it cuts depends on the image; export its network, and put the exported one into a Tiled",
    ExportedParser: "it is exported already; export the .safetensors file that it came from",
    ExportedRefiner: "it is exported already; export the .safetensors file that it came from",
}
"""Why these are not, and what to do instead."""

TRACED = (2, 19, 27)
CHECKED = ((1, 97, 131), (2, 61, 35), (1, 7, 53))
"""Batch, height and width of what a model is recorded with, and of what its file is tried on."""

ANY_CLASSES = 5
"""So many has the input where a refiner follows any number of classes."""


@dataclass(frozen=True)
class Agreement:
    """How far a file's answers are from its model's, and the share of pixels whose label is the same."""

    difference: float  # the largest of any logit, as a share of the largest absolute logit
    same_labels: float

    def within(self, limit: "Agreement") -> bool:
        """False, too, where the answers are no numbers."""
        return self.difference <= limit.difference and self.same_labels >= limit.same_labels

    def __str__(self) -> str:
        return f"logits within {self.difference:.1e} of the largest, {100 * self.same_labels:.3f} % of the labels"


REQUIRED = {"float32": Agreement(1e-4, 0.9999), "float16": Agreement(2e-2, 0.995)}


def export(model: nn.Module, path: str | Path, part: Part = "whole", half: bool = False) -> Agreement:
    """Write a parser, a refiner or a SceneParser's ``part`` to an .onnx or .pt2 file for any batch, height and width.

    Then its answers are compared with the model's on images of odd sizes; a file that fails is not kept, and an older
    one of that name stays. With ``half`` weights and computation are in float16, what goes in and comes out in float32;
    three classes or more go in where a refiner follows any number of them. What cannot be exported, a name of another
    suffix, a missing library and answers that differ raise ValueError.
    """
    path = Path(path)
    if path.suffix not in WRITERS:
        raise ValueError(f"{path}: no format by its name; end it in {' or '.join(WRITERS)}")
    chosen = part_of(model, part)
    refuse_unexportable(chosen)
    about = about_of(chosen, model, half)
    program = recorded(in_half_precision(chosen) if half else chosen, about)
    with atomic_path(path) as temporary:
        WRITERS[path.suffix](program, about, temporary)
        agreement = compared(load_exported(temporary), chosen, about)
        required = REQUIRED[about.precision]
        if not agreement.within(required):
            raise ValueError(
                f"{path}: not kept, for its answers are not the model's ({agreement}; required are {required}); "
                + ("export it in full precision" if half else "try the other format")
            )
    return agreement


def part_of(model: nn.Module, part: Part) -> nn.Module:
    if part == "whole":
        return model
    if not isinstance(model, SceneParser):
        raise ValueError(f"a {type(model).__name__} has no {part}; leave the part out to export the whole of it")
    chosen = model.front if part == "front" else model.refiner
    assert isinstance(chosen, nn.Module)
    return chosen


def refuse_unexportable(model: nn.Module) -> None:
    for module in model.modules():
        if type(module) in NOT_EXPORTED:
            raise ValueError(f"a {type(module).__name__} cannot be exported: {NOT_EXPORTED[type(module)]}")
    if model.training:
        raise ValueError("the model is in training mode, where it answers differently; call model.eval() first")


def about_of(chosen: nn.Module, model: nn.Module, half: bool) -> About:
    """What the file will say of the chosen part of the model."""
    names = list(INPUTS)[: len(inspect.signature(chosen.forward).parameters)]
    kind, num_classes = "refiner" if "logits" in names else "parser", classes_of(chosen)
    if kind == "parser" and num_classes is None:
        raise ValueError(f"a {type(chosen).__name__} is neither a parser nor a refiner; export one of these")
    return About(
        kind=kind,
        num_classes=num_classes,
        classes=tuple(getattr(model, "classes", ())),
        palette=tuple(getattr(model, "palette", ())),
        precision="float16" if half else "float32",
        inputs={name: INPUTS[name] for name in names},
        version=version("rectiseg"),
    )


def in_half_precision(model: nn.Module) -> nn.Module:
    """A copy that computes in float16, between float32 at both ends."""
    halved = copy.deepcopy(model).half()
    halved.register_forward_pre_hook(lambda _, inputs: tuple(tensor.half() for tensor in inputs))
    halved.register_forward_hook(lambda _, inputs, logits: logits.float())
    return halved


@torch.no_grad()
def recorded(model: nn.Module, about: About) -> ExportedProgram:
    """The model as a graph of torch's own operators."""
    any_size = {0: Dim.DYNAMIC, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC}
    any_classes = any_size | ({1: Dim.DYNAMIC} if about.num_classes is None else {})
    shapes = (any_size, any_classes)[: len(about.inputs)]
    program = torch.export.export(model, tuple(inputs_of(about, *TRACED)), dynamic_shapes=shapes, strict=False)
    for symbol, sizes in program.range_constraints.items():  # it would refuse any much smaller than these inputs
        program.range_constraints[symbol] = type(sizes)(1, sizes.upper)
    return program


def inputs_of(about: About, batch: int, height: int, width: int) -> Iterator[Tensor]:
    """Smooth noise: with labels that form regions, as images have, and as confident at some places as elsewhere."""
    generator = torch.Generator().manual_seed(height)
    cells = (-(-height // 8), -(-width // 8))
    yield resized(torch.rand(batch, 3, *cells, generator=generator), (height, width))
    if "logits" in about.inputs:
        num_classes = about.num_classes or ANY_CLASSES
        yield resized(5 * torch.randn(batch, num_classes, *cells, generator=generator), (height, width))


@torch.inference_mode()
def compared(exported: ExportedParser | ExportedRefiner, model: nn.Module, about: About) -> Agreement:
    """The worst logit of all that the file is tried on, and the labels of all of it together."""
    differences, same = [], []
    for size in CHECKED:
        inputs = tuple(inputs_of(about, *size))
        expected, answer = model(*inputs), exported(*inputs)
        differences.append((answer - expected).abs().max() / expected.abs().max())
        same.append((answer.argmax(dim=1) == expected.argmax(dim=1)).flatten())
    return Agreement(float(torch.stack(differences).max()), float(torch.cat(same).double().mean()))


def write_onnx(program: ExportedProgram, about: About, path: Path) -> None:
    library("onnx", "onnx")
    library("onnxruntime", "onnx")
    optimizer: Any = library("onnxscript.optimizer", "onnx")
    # Names alone: the program knows which axes are dynamic, and that both inputs share all but one of them.
    axes = ({0: "batch", 2: "height", 3: "width"}, {1: "classes"})[: len(about.inputs)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch's exporter calls what torch is about to remove
        written = torch.onnx.export(
            program,
            dynamo=True,
            verbose=False,
            optimize=False,  # by rules that are tried on every node, which takes longer than all the rest
            input_names=list(about.inputs),
            output_names=["logits" if about.kind == "parser" else "refined"],
            dynamic_shapes=axes,
        )
    assert written is not None
    optimizer.fold_constants(written.model)
    optimizer.remove_unused_nodes(written.model)
    written.model.metadata_props[ENTRY] = about.to_json()
    written.save(path)


def write_program(program: ExportedProgram, about: About, path: Path) -> None:
    torch.export.save(program, path, extra_files={ENTRY: about.to_json()})


WRITERS: dict[str, Callable[[ExportedProgram, About, Path], None]] = {".onnx": write_onnx, ".pt2": write_program}
