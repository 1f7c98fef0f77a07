"""`rectiseg export`: a model as a file for other programs."""

from typing import Annotated, Literal

from tyro.conf import Positional, arg

from rectiseg.commands.options import OptionalPath, Output


def export(
    model: Positional[OptionalPath] = None,
    /,
    *,
    output: Output,
    part: Literal["whole", "front", "refiner"] = "whole",
    half: Annotated[bool, arg(name="fp16")] = False,
) -> int:
    """Write a model as a file that runs without rectiseg: ONNX, or a program exported by torch.

    Batches, heights and widths are any. A parser takes "image", RGB in 0..1, and gives logits of its size; a refiner
    takes "image" and "logits". What the file holds, its classes and their colours stand in its metadata. It is tried on
    images of three odd sizes, and kept only if its answers are the model's. `rectiseg predict --model` runs it.

    Example: rectiseg export parser.safetensors -o parser.onnx

    Args:
        model: A saved parser or refiner; the shipped parser by default.
        output: The file to write, .onnx or .pt2.
        part: Of a parser the whole, its front alone, or its refiner alone.
        half: Compute in half precision: half as large, for hardware that is faster at it, and not quite as exact.
    """
    from rectiseg.export import export as export_model
    from rectiseg.models.checkpoint import load

    network = load(model)
    output.parent.mkdir(parents=True, exist_ok=True)
    agreement = export_model(network, output, part, half)
    print(f"{output}: {agreement} as the model itself has them")
    return 0
