"""Networks in files as parsers: ONNX, LiteRT and exported programs."""

import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from beside import beside
from networks import random
from rectiseg.data.ade20k import ADE20K
from rectiseg.metrics import ConfusionMatrix
from rectiseg.models.combine import SceneParser
from rectiseg.models.external import from_file, letterboxed
from rectiseg.models.external.files import layout_of
from rectiseg.models.lrn import LRN
from rectiseg.ops.resize import resized

MEAN, STD = (0.5, 0.25, 0.125), (0.5, 0.25, 0.2)
GREY = (0.5, 0.5, 0.5)


class Quarter(nn.Module):
    """Five maps at a quarter of the resolution, in the layouts and the form that are asked for."""

    def __init__(self, takes: str = "KHW", gives: str = "KHW", ending: Callable[[Tensor], object] = lambda maps: maps):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 5, 4, stride=4)
        self.takes, self.gives, self.ending = takes, gives, ending

    def forward(self, image: Tensor) -> object:
        maps = self.conv(image.movedim(-1, 1) if self.takes == "HWK" else image)
        return self.ending(maps.movedim(1, -1) if self.gives == "HWK" else maps)


Write = Callable[[Path, nn.Module, Tensor, bool], Path]


def write_onnx(folder: Path, network: nn.Module, example: Tensor, any_size: bool) -> Path:
    pytest.importorskip("onnx", reason="onnx is not installed")
    pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    sizes = sides_of(network) if any_size else None
    torch.onnx.export(network, (example,), folder / "net.onnx", dynamic_shapes=sizes, dynamo=True, verbose=False)
    return folder / "net.onnx"


def write_exported(folder: Path, network: nn.Module, example: Tensor, any_size: bool) -> Path:
    program = torch.export.export(network, (example,), dynamic_shapes=sides_of(network) if any_size else None)
    torch.export.save(program, folder / "net.pt2")
    return folder / "net.pt2"


def sides_of(network: nn.Module) -> tuple[dict[int, object]]:
    rows = 1 if isinstance(network, Quarter) and network.takes == "HWK" else 2
    return ({rows: torch.export.Dim.DYNAMIC, rows + 1: torch.export.Dim.DYNAMIC},)


WRITERS = [pytest.param(write_onnx, id="onnx"), pytest.param(write_exported, id="exported")]


def normalised(image: Tensor) -> Tensor:
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    return (image - mean) / std


@pytest.mark.parametrize("write", WRITERS)
def test_a_file_that_takes_any_size_gives_what_its_network_gives(write: Write, tmp_path: Path):
    network, image = Quarter().eval(), random(2, 3, 37, 53)
    path = write(tmp_path, network, torch.zeros(1, 3, 32, 48), True)
    front = from_file(path, mean=MEAN, std=STD, multiple=4, classes=("a", "b", "c", "d", "e"))
    continued = F.pad(image, (0, 3, 0, 3), mode="replicate")
    with torch.inference_mode():
        expected = resized(network(normalised(continued)), (40, 56))[..., :37, :53]
        torch.testing.assert_close(front(image), expected)
    assert (front.num_classes, front.classes) == (5, ("a", "b", "c", "d", "e"))
    assert not front.training


@pytest.mark.parametrize("write", WRITERS)
def test_an_image_is_stretched_to_the_size_that_a_file_has(write: Write, tmp_path: Path):
    network, image = Quarter().eval(), random(2, 3, 37, 53)
    path = write(tmp_path, network, torch.zeros(1, 3, 64, 32), False)
    with torch.inference_mode():
        expected = resized(network(resized(image, (64, 32))), (37, 53))
        torch.testing.assert_close(from_file(path)(image), expected)
        within = network(F.pad(resized(image, (22, 32)), (0, 0, 0, 42), mode="replicate"))
        expected = resized(resized(within, (64, 32))[..., :22, :32], (37, 53))
        torch.testing.assert_close(from_file(path, keep_aspect=True)(image), expected)


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize(("takes", "gives"), [("HWK", "HWK"), ("HWK", "KHW")])
def test_a_files_layouts_are_read_from_its_sizes(write: Write, takes: str, gives: str, tmp_path: Path):
    shape = (1, 32, 48, 3) if takes == "HWK" else (1, 3, 32, 48)
    path = write(tmp_path, Quarter(takes, gives).eval(), torch.zeros(shape), False)
    image = random(2, 3, 32, 48)
    with torch.inference_mode():
        torch.testing.assert_close(from_file(path)(image), resized(Quarter()(image), (32, 48)))


@pytest.mark.parametrize("write", WRITERS)
def test_a_void_output_is_left_out_of_probabilities_too(write: Write, tmp_path: Path):
    path = write(tmp_path, Quarter(ending=lambda maps: maps.softmax(dim=1)).eval(), torch.zeros(1, 3, 32, 48), False)
    image = random(2, 3, 32, 48)
    front = from_file(path, void=1)
    with torch.inference_mode():
        kept = resized(Quarter()(image).softmax(dim=1), (32, 48))[:, [0, 2, 3, 4]]
        torch.testing.assert_close(front(image).softmax(dim=1), kept / kept.sum(dim=1, keepdim=True))
    assert front.num_classes == 4
    with pytest.raises(ValueError, match=r"has no output 5; void is one of 0 to 4"):
        from_file(path, void=5)


@pytest.mark.parametrize("write", WRITERS)
def test_refiners_follow_a_file(write: Write, tmp_path: Path):
    path = write(tmp_path, Quarter().eval(), torch.zeros(1, 3, 32, 48), False)
    parser = SceneParser(from_file(path), LRN(5, widths=(4,))).eval()
    with torch.inference_mode():
        assert parser(random(2, 3, 13, 18)).shape == (2, 5, 13, 18)


def test_an_exported_program_is_moved_and_converted_with_the_front(tmp_path: Path):
    path = write_exported(tmp_path, Quarter().eval(), torch.zeros(1, 3, 32, 48), False)
    front = from_file(path)
    assert front.double().get_parameter("network.run.conv.weight").dtype == torch.float64


@pytest.mark.parametrize(
    ("shape", "size", "layout"),
    [
        ((1, 21, 513, 513), (513, 513), "KHW"),
        ((1, 513, 513, 151), (513, 513), "HWK"),
        ((1, 134, 128, 128), (512, 512), "KHW"),
        ((1, 19, 65, 129), (513, 1025), "KHW"),
        ((1, 65, 129, 19), (513, 1025), "HWK"),
        ((1, 5, 8, 12), (64, 96), "KHW"),
        ((1, 2, 2, 3), (64, 96), "KHW"),
    ],
)
def test_the_layout_is_that_of_the_inputs_proportions(shape: tuple[int, ...], size: tuple[int, int], layout: str):
    assert layout_of(shape, size) == layout


@pytest.mark.parametrize("shape", [(1, 128, 128, 128), (1, 5, 30, 70)])
def test_a_layout_that_the_sizes_leave_open_is_asked_for(shape: tuple[int, ...]):
    with pytest.raises(ValueError, match=r"gives .* of an image of 512 x 512, .*; give layout=\"KHW\" or \"HWK\""):
        layout_of(shape, (512, 512))


def test_a_layout_that_is_given_is_taken(tmp_path: Path):
    path = write_exported(tmp_path, Quarter().eval(), torch.zeros(1, 3, 20, 20), False)
    with pytest.raises(ValueError, match=re.escape(f"{path}: gives 1 x 5 x 5 x 5 of an image of 20 x 20")):
        from_file(path)
    image = random(1, 3, 20, 20)
    with torch.inference_mode():
        torch.testing.assert_close(from_file(path, layout="KHW")(image), resized(Quarter()(image), (20, 20)))


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize(
    ("network", "example", "reason"),
    [
        (Quarter(ending=lambda maps: maps.argmax(dim=1)), torch.zeros(1, 3, 32, 48), "gives no confidence maps"),
        (nn.Conv2d(3, 1, 1), torch.zeros(1, 3, 32, 48), "two classes or more; this network knows 1"),
        (nn.Conv2d(4, 5, 1), torch.zeros(1, 4, 32, 48), "takes 1 x 4 x 32 x 48 32-bit floats; convert"),
        (Quarter(), torch.zeros(2, 3, 32, 48), "takes 2 x 3 x 32 x 48 32-bit floats; convert"),
        (nn.Linear(3, 5), torch.zeros(32, 3), "takes 32 x 3 32-bit floats; convert"),
        (nn.ReLU(), torch.zeros(1, 3, 6, 7).double(), "values that are no 32-bit floats; convert"),
    ],
    ids=["labels", "one map", "four bands", "batch", "vectors", "doubles"],
)
def test_a_network_of_another_kind_is_refused(
    write: Write, network: nn.Module, example: Tensor, reason: str, tmp_path: Path
):
    path = write(tmp_path, network.eval(), example, False)
    with pytest.raises(ValueError, match=re.escape(f"{path}: ") + ".*" + re.escape(reason)):
        from_file(path)


class Two(nn.Module):
    def forward(self, image: Tensor, other: Tensor) -> Tensor:
        return image + other


def test_a_network_of_two_inputs_is_refused(tmp_path: Path):
    path = tmp_path / "two.pt2"
    torch.export.save(torch.export.export(Two(), (torch.zeros(1, 3, 6, 7), torch.zeros(1, 3, 6, 7))), path)
    with pytest.raises(ValueError, match=re.escape(f"{path}: takes 2 inputs; a parser's network takes an image alone")):
        from_file(path)


class Blocks(nn.Module):
    """What only takes sides that 64 divides."""

    def forward(self, image: Tensor) -> Tensor:
        down = F.avg_pool2d(image, 64)
        return image + F.interpolate(down, scale_factor=64.0)


def test_a_network_that_fails_asks_for_its_multiple(tmp_path: Path):
    sides = ({2: 64 * torch.export.Dim("rows", min=1, max=9), 3: 64 * torch.export.Dim("columns", min=1, max=9)},)
    program = torch.export.export(Blocks(), (torch.zeros(1, 3, 128, 192),), dynamic_shapes=sides)
    torch.export.save(program, tmp_path / "net.pt2")
    with pytest.raises(ValueError, match=r"net\.pt2: cannot be read and run as a network \(.+\); .* as multiple"):
        from_file(tmp_path / "net.pt2")
    assert from_file(tmp_path / "net.pt2", multiple=128)(random(1, 3, 37, 53)).shape == (1, 3, 37, 53)


@pytest.mark.parametrize("suffix", ["onnx", "tflite", "pt2"])
def test_a_damaged_file_is_named(suffix: str, tmp_path: Path):
    if suffix == "tflite":
        pytest.importorskip("ai_edge_litert", reason="ai-edge-litert is not installed")
    path = tmp_path / f"damaged.{suffix}"
    path.write_bytes(b"nothing")
    with pytest.raises(ValueError, match=re.escape(f"{path}: ")) as caught:
        from_file(path)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_missing_or_has_another_name_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match=r"missing\.onnx: no such file; name one that exists"):
        from_file(tmp_path / "missing.onnx")
    with pytest.raises(ValueError, match=r"net\.pth: no network by its name; .* \.onnx or \.tflite or \.pt2"):
        from_file(tmp_path / "net.pth")


@pytest.mark.parametrize(
    ("module", "suffix", "sentence"),
    [
        ("onnxruntime", "onnx", "onnxruntime is not installed: pip install 'rectiseg[onnx]'"),
        ("ai_edge_litert.interpreter", "tflite", "ai_edge_litert is not installed: pip install 'rectiseg[tflite]'"),
    ],
)
def test_a_missing_library_is_asked_for(
    module: str, suffix: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, module, None)
    path = tmp_path / f"net.{suffix}"
    path.touch()
    with pytest.raises(ValueError, match=re.escape(f"{path}: {sentence}")):
        from_file(path)


def write_relu(path: Path) -> Path:
    """A LiteRT network of one ReLU, that takes images of any sides."""
    schema = pytest.importorskip("ai_edge_litert.schema_py_generated", reason="ai-edge-litert is not installed")
    flatbuffers = pytest.importorskip("flatbuffers", reason="flatbuffers is not installed")

    def of(kind: str, **values: object) -> object:
        made = getattr(schema, f"{kind}T")()
        for name, value in values.items():
            setattr(made, name, value)
        return made

    sides = {"shape": [1, 1, 1, 3], "shapeSignature": [1, -1, -1, 3], "hasRank": True}
    tensors = [of("Tensor", name=name, type=schema.TensorType.FLOAT32, **sides) for name in ("image", "logits")]
    step = of("Operator", opcodeIndex=0, inputs=[0], outputs=[1])
    graph = of("SubGraph", tensors=tensors, inputs=[0], outputs=[1], operators=[step])
    relu = schema.BuiltinOperator.RELU
    code = of("OperatorCode", builtinCode=relu, deprecatedBuiltinCode=relu, version=1)
    network = of("Model", version=3, operatorCodes=[code], subgraphs=[graph], buffers=[of("Buffer")])
    builder = flatbuffers.Builder()
    builder.Finish(network.Pack(builder), b"TFL3")  # pyright: ignore
    path.write_bytes(builder.Output())
    return path


def test_a_litert_network_takes_images_of_any_size(tmp_path: Path):
    front = from_file(write_relu(tmp_path / "relu.tflite"), mean=GREY)
    for size in ((1, 3, 37, 53), (2, 3, 8, 9), (1, 3, 37, 53)):
        assert front(random(*size)).equal((random(*size) - 0.5).relu())


@pytest.fixture(scope="module")
def deeplab() -> Path:
    """The published DeepLabV3 for ADE20K."""
    pytest.importorskip("ai_edge_litert", reason="ai-edge-litert is not installed")
    return beside("weights") / "deeplabv3_mobilenetv2_ade20k.tflite"


def test_the_published_deeplab_gives_what_its_interpreter_gives(deeplab: Path):
    from ai_edge_litert.interpreter import Interpreter  # pyright: ignore[reportMissingImports]

    image = random(1, 3, 37, 53)
    inner, canvas = letterboxed((513, 513))((37, 53))
    assert (inner, canvas) == ((358, 513), (513, 513))
    continued = F.pad(resized(image, inner), (0, 0, 0, 513 - 358), mode="replicate")
    interpreter = Interpreter(model_path=str(deeplab))
    interpreter.allocate_tensors()
    pixels = (255 * continued / 127.5 - 1).movedim(1, -1).numpy()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], np.ascontiguousarray(pixels))
    interpreter.invoke()
    answer = torch.from_numpy(interpreter.get_tensor(interpreter.get_output_details()[0]["index"])).movedim(-1, 1)
    with torch.inference_mode():
        logits = from_file(deeplab, mean=GREY, std=GREY, keep_aspect=True, void=0)(image)
    torch.testing.assert_close(logits, resized(answer[:, 1:, :358], (37, 53)), atol=1e-3, rtol=1e-3)


def test_the_published_deeplab_knows_the_scenes_of_ade20k(deeplab: Path):
    val = ADE20K(beside("data", "ade20k_sample"), "val")
    front = from_file(deeplab, mean=GREY, std=GREY, keep_aspect=True, void=0, classes=tuple(val.classes))
    matrix = ConfusionMatrix(150)
    for index in range(3):
        sample = val[index]
        with torch.inference_mode():
            matrix.update(front(sample.image[None]).argmax(dim=1), sample.labels[None])
    assert matrix.scores().pixel_accuracy > 0.77  # 0.793; 0.759 without normalisation, 0.657 in BGR
