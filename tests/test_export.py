"""A model in a file that runs without our code."""

import json
import re
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from networks import TinyEncoder, random, random_logits, tiny_grn
from rectiseg import __version__
from rectiseg.commands.export import export as export_command
from rectiseg.commands.predict import predict as predict_command
from rectiseg.data.images import read_image
from rectiseg.export import REQUIRED, export
from rectiseg.inference import device_of
from rectiseg.models.bilateral_lrn import BilateralLRN
from rectiseg.models.checkpoint import load_parser, load_refiner, save
from rectiseg.models.combine import Cascade, Parallel, SceneParser
from rectiseg.models.context import MultiScaleContext
from rectiseg.models.crf import FullyConnectedCRF
from rectiseg.models.exported import CUDA, INPUTS, About, open_onnx
from rectiseg.models.front import Front
from rectiseg.models.fusion import Ensemble, MultiScale
from rectiseg.models.lrn import LRN
from rectiseg.models.tiled import Tiled
from rectiseg.types import Parser, Refiner

pytest.importorskip("onnx", reason="onnx is not installed")
pytest.importorskip("onnxscript", reason="onnxscript is not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

STREET = Path(__file__).parent.parent / "examples" / "street.jpg"
K = 5
CLASSES = ("sky", "tree", "road", "car", "sign")
PALETTE = ((1, 2, 3), (4, 5, 6), (7, 8, 9), (10, 11, 12), (13, 14, 15))
SIZES = [(1, 6, 7), (1, 1, 2), (2, 19, 131), (3, 48, 9)]


def front() -> Front:
    torch.manual_seed(1)
    network = Front(TinyEncoder(), K).eval()
    nn.init.normal_(network.head.weight)
    return network


def lively(make: Callable[[], LRN]) -> LRN:
    """Far from the identity, and always the same."""
    torch.manual_seed(5)
    lrn = make().eval()
    nn.init.normal_(lrn.head.weight, std=0.5)
    return lrn


def tiny_lrn() -> LRN:
    return lively(lambda: LRN(K, 3, (4, 4)))


def tiny_parser() -> SceneParser:
    return SceneParser(front(), Cascade(tiny_grn(K, iterations=1), tiny_lrn()), CLASSES, PALETTE).eval()


def context() -> MultiScaleContext:
    torch.manual_seed(4)
    network = MultiScaleContext(K).eval()
    nn.init.normal_(network.context[-1].weight)  # pyright: ignore
    return network


REFINERS: dict[str, Callable[[], nn.Module]] = {
    "GRN": lambda: tiny_grn(iterations=2),
    "LRN of probabilities": partial(lively, lambda: LRN(K, 3, (4,), propagates="probabilities", border="zeros")),
    "context, in parallel": lambda: Parallel(context(), Cascade()).eval(),
    "nothing": lambda: Cascade().eval(),
}


@pytest.fixture(scope="module", params=[".onnx", ".pt2"])
def parser_file(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Not to be changed."""
    path = tmp_path_factory.mktemp("exported") / f"parser{request.param}"
    export(tiny_parser(), path)
    return path


@pytest.fixture(scope="module")
def refiner_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Not to be changed."""
    path = tmp_path_factory.mktemp("exported") / "refiner.onnx"
    export(tiny_lrn(), path)
    return path


def inputs(batch: int, height: int, width: int, classes: int = K) -> tuple[Tensor, Tensor]:
    return random(batch, 3, height, width), random_logits(batch, classes, height, width)


def close(answer: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(answer, expected, rtol=0, atol=1e-4 * float(expected.abs().max()))


@torch.inference_mode()
def parses_alike(file: Parser, model: Parser) -> None:
    for size in SIZES:
        image, _ = inputs(*size)
        close(file(image), model(image))


@torch.inference_mode()
def refines_alike(file: Refiner, model: Refiner, classes: int = K) -> None:
    for size in SIZES:
        both = inputs(*size, classes)
        close(file(*both), model(*both))


def about(path: Path) -> dict:
    """What the file says, read as anyone would."""
    if path.suffix == ".onnx":
        import onnx

        return json.loads({entry.key: entry.value for entry in onnx.load(path).metadata_props}["rectiseg"])
    files = {"rectiseg": ""}
    torch.export.load(path, extra_files=files)
    return json.loads(files["rectiseg"])


def test_an_exported_parser_takes_batches_and_images_of_any_size(parser_file: Path):
    parses_alike(load_parser(parser_file), tiny_parser())


def test_it_keeps_its_classes_and_colours(parser_file: Path):
    parser = load_parser(parser_file)
    assert (parser.classes, parser.palette) == (CLASSES, PALETTE)
    assert parser.front.num_classes == K  # pyright: ignore
    assert not parser.training


def test_the_file_says_what_it_holds(parser_file: Path):
    assert about(parser_file) == {
        "kind": "parser",
        "num_classes": K,
        "classes": list(CLASSES),
        "palette": [list(color) for color in PALETTE],
        "precision": "float32",
        "inputs": {"image": INPUTS["image"]},
        "version": __version__,
    }


def test_the_axes_have_names(refiner_file: Path):
    import onnxruntime

    session = onnxruntime.InferenceSession(refiner_file)
    shapes = {entry.name: entry.shape for entry in session.get_inputs()}
    axes = ["height", "width"]
    assert shapes == {"image": ["batch", 3, *axes], "logits": ["batch", K, *axes]}
    assert [entry.name for entry in session.get_outputs()] == ["refined"]


def test_it_needs_no_operator_of_ours(parser_file: Path):
    if parser_file.suffix == ".onnx":
        import onnx

        model = onnx.load(parser_file)
        assert not model.functions
        assert {node.domain for node in model.graph.node} == {""}
    else:
        graph = torch.export.load(parser_file).graph
        called = {str(node.target) for node in graph.nodes if node.op == "call_function"}
        assert any("aten." in name for name in called)
        assert not any("rectiseg" in name for name in called)


@pytest.mark.parametrize("name", REFINERS)
def test_every_refiner_is_exported_alone(name: str, tmp_path: Path):
    refiner = REFINERS[name]()
    export(refiner, tmp_path / "refiner.onnx")
    refines_alike(load_refiner(tmp_path / "refiner.onnx"), refiner)


def test_a_refiner_for_any_classes_stays_one(tmp_path: Path):
    refiner, path = lively(lambda: BilateralLRN(None, 3, (4,), dilations=(2,), features=2)), tmp_path / "refiner.onnx"
    export(refiner, path)
    assert about(path)["num_classes"] is None
    for classes in (3, 7):
        refines_alike(load_refiner(path), refiner, classes)


def test_a_parsers_parts_can_be_exported_alone(tmp_path: Path):
    export(tiny_parser(), tmp_path / "front.pt2", part="front")
    export(tiny_parser(), tmp_path / "refiner.pt2", part="refiner")
    parses_alike(load_parser(tmp_path / "front.pt2"), front())
    refines_alike(load_refiner(tmp_path / "refiner.pt2"), tiny_parser().refiner)
    assert about(tmp_path / "front.pt2")["classes"] == list(CLASSES)
    assert about(tmp_path / "refiner.pt2")["inputs"] == INPUTS


def test_an_ensemble_is_a_parser_like_any_other(tmp_path: Path):
    ensemble = Ensemble(front(), SceneParser(front(), Cascade(), CLASSES)).eval()
    export(ensemble, tmp_path / "parser.pt2")
    parses_alike(load_parser(tmp_path / "parser.pt2"), ensemble)
    assert load_parser(tmp_path / "parser.pt2").classes == CLASSES


@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
def test_half_precision_halves_the_weights_and_asks_nothing_of_the_user(suffix: str, tmp_path: Path):
    path, model = tmp_path / f"half{suffix}", SceneParser(front(), tiny_lrn()).eval()
    agreement = export(model, path, half=True)
    assert 1e-5 < agreement.difference < REQUIRED["float16"].difference
    assert all(weight.dtype == torch.float32 for weight in model.parameters())
    assert about(path)["precision"] == "float16"
    assert float_types(path) == {"float16"}
    image, _ = inputs(2, 19, 131)
    with torch.inference_mode():
        answer, expected = load_parser(path)(image), model(image)
    assert answer.dtype == torch.float32
    assert (answer - expected).abs().max() < 2e-2 * expected.abs().max()


def float_types(path: Path) -> set[str]:
    """Of all weights of more than one number."""
    if path.suffix == ".onnx":
        import onnx

        weights = [onnx.numpy_helper.to_array(weight) for weight in onnx.load(path).graph.initializer]
    else:
        weights = [weight.numpy(force=True) for weight in torch.export.load(path).state_dict.values()]
    return {str(weight.dtype) for weight in weights if weight.size > 1 and weight.dtype.kind == "f"}


class AnotherWhenExported(nn.Module):
    num_classes = K

    def forward(self, image: Tensor) -> Tensor:
        bands = image[:, [0, 1, 2, 0, 1]]
        return bands.flip(1) if torch.compiler.is_exporting() else bands


@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
def test_a_file_that_answers_differently_is_not_kept(suffix: str, tmp_path: Path):
    path = tmp_path / f"parser{suffix}"
    path.write_bytes(b"older")
    with pytest.raises(ValueError, match=f"{re.escape(str(path))}: not kept, for its answers are not the model's"):
        export(AnotherWhenExported().eval(), path)
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [b"older"]


@pytest.mark.parametrize(
    ("model", "name", "part", "words"),
    [
        (tiny_parser, "model.pth", "whole", "no format by its name; end it in .onnx or .pt2"),
        (FullyConnectedCRF, "model.onnx", "whole", "a FullyConnectedCRF cannot be exported: its filter is code"),
        (lambda: SceneParser(front(), Cascade(FullyConnectedCRF())), "model.pt2", "refiner", "a FullyConnectedCRF"),
        (lambda: Tiled(front()), "model.onnx", "whole", "a Tiled cannot be exported: how many tiles"),
        (lambda: MultiScale(front()), "model.onnx", "whole", "a MultiScale cannot be exported: it resizes"),
        (TinyEncoder, "model.onnx", "whole", "a TinyEncoder is neither a parser nor a refiner"),
        (tiny_lrn, "model.onnx", "front", "a LRN has no front; leave the part out"),
        (lambda: tiny_lrn().train(), "model.onnx", "whole", r"in training mode, where it .*; call model\.eval\(\)"),
    ],
)
def test_what_cannot_be_exported_is_refused(
    model: Callable[[], nn.Module], name: str, part: str, words: str, tmp_path: Path
):
    network = model() if "training" in words else model().eval()
    with pytest.raises(ValueError, match=words) as caught:
        export(network, tmp_path / name, part)  # pyright: ignore
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_file_is_not_exported_again(refiner_file: Path, tmp_path: Path):
    with pytest.raises(ValueError, match=r"it is exported already; export the \.safetensors file"):
        export(load_refiner(refiner_file), tmp_path / "again.pt2")


def test_what_needs_the_other_kind_of_model_says_so(parser_file: Path, refiner_file: Path):
    with pytest.raises(ValueError, match="holds a ExportedRefiner, which is no parser; a parser is needed"):
        load_parser(refiner_file)
    with pytest.raises(ValueError, match="holds a ExportedParser, which refines nothing"):
        load_refiner(parser_file)


@pytest.mark.parametrize("length", [0, 100, -20])
def test_a_damaged_file_is_refused(parser_file: Path, length: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    path = tmp_path / parser_file.name
    path.write_bytes(parser_file.read_bytes()[:length])
    with pytest.raises(ValueError, match=f"{re.escape(str(path))}: not a whole {path.suffix} file; copy or export"):
        load_parser(path)
    assert not capfd.readouterr().err


def test_an_older_torch_opens_a_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Its programs know no guards, which this one's are therefore told to leave out."""
    export(front(), tmp_path / "front.pt2")
    module = torch.export.ExportedProgram.module
    monkeypatch.setattr(torch.export.ExportedProgram, "module", lambda program: module(program, check_guards=False))
    parses_alike(load_parser(tmp_path / "front.pt2"), front())


def test_a_program_moves_with_the_parser_and_a_network_says_that_it_stays(parser_file: Path):
    parser = load_parser(parser_file)
    if parser_file.suffix == ".onnx":
        with pytest.raises(ValueError, match=r"\.onnx: runs on the CPU here: leave out --device, or install"):
            parser.to("meta")
        parses_alike(parser.to("cpu"), tiny_parser())
    else:
        assert device_of(parser.to("meta")) == torch.device("meta")
        assert parser(random(1, 3, 6, 7).to("meta")).is_meta


@pytest.mark.parametrize("found", [True, False])
def test_a_network_runs_on_a_gpu_where_onnxruntime_does(
    found: bool, refiner_file: Path, monkeypatch: pytest.MonkeyPatch
):
    """In place of a GPU there is the CPU; onnxruntime leaves a provider out where CUDA's libraries are missing."""
    session, asked = onnxruntime.InferenceSession, []

    def on_the_cpu(path: Path, options: object, providers: list) -> object:
        asked.extend(providers)
        opened = session(path, options, providers=["CPUExecutionProvider"])
        monkeypatch.setattr(opened, "get_providers", lambda: [CUDA] * found + ["CPUExecutionProvider"])
        return opened

    monkeypatch.setattr(onnxruntime, "InferenceSession", on_the_cpu)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, "CPUExecutionProvider"])
    with nullcontext() if found else pytest.raises(ValueError, match=r"\.onnx: runs on the CPU here"):
        run, _ = open_onnx(refiner_file, torch.device("cuda", 1))
        close(run(*inputs(1, 6, 7)), tiny_lrn()(*inputs(1, 6, 7)).detach())
    assert asked == [(CUDA, {"device_id": 1})]


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(ValueError, match=r"nothing\.pt2: no such file"):
        load_parser(tmp_path / "nothing.pt2")


@pytest.mark.filterwarnings("ignore::FutureWarning")  # torch's exporter calls what torch is about to remove
@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
def test_a_file_from_elsewhere_is_refused(suffix: str, tmp_path: Path):
    path = tmp_path / f"foreign{suffix}"
    program = torch.export.export(nn.Conv2d(3, K, 1).eval(), (random(1, 3, 6, 7),))
    if suffix == ".pt2":
        torch.export.save(program, path)
    else:
        torch.onnx.export(program, f=path, dynamo=True, verbose=False)
    with pytest.raises(ValueError, match=r"not written by `rectiseg export`; for other networks there is .*from_file"):
        load_parser(path)


def test_what_a_file_says_is_read_with_care():
    said = About("refiner", None, (), (), "float32", dict(INPUTS), "1.0")
    assert About.from_json(said.to_json()) == said
    for text in ("{", "3", "{}", '{"palette": [[1, 2]], "classes": []}', '{"palette": [], "classes": [], "more": 1}'):
        with pytest.raises(ValueError, match="cannot be read by this version; export it again"):
            About.from_json(text)


def test_the_command_exports_a_saved_model_and_says_how_exact_the_file_is(tmp_path: Path, capsys):
    lrn = tiny_lrn()
    save(lrn, tmp_path / "lrn.safetensors")
    output = tmp_path / "new" / "lrn.pt2"
    assert export_command(tmp_path / "lrn.safetensors", output=output) == 0
    refines_alike(load_refiner(output), lrn)
    said = r"lrn\.pt2: logits within \d\.\de-\d\d of the largest, 100\.000 % of the labels as the model itself has them"
    assert re.search(said, " ".join(capsys.readouterr().out.split()))


def test_predict_runs_an_exported_parser(parser_file: Path, photos: Path, tmp_path: Path):
    assert predict_command((photos / "1.png",), tmp_path / "out", parser_file, panel=True) == 0
    with torch.inference_mode():
        expected = tiny_parser()(read_image(photos / "1.png")[None]).argmax(dim=1)[0]
    labels = Image.open(tmp_path / "out" / "1.png")
    assert np.array_equal(np.asarray(labels), expected)
    assert labels.getpalette()[:15] == [value for color in PALETTE for value in color]  # pyright: ignore


@pytest.mark.soak
def test_the_shipped_parser_becomes_an_onnx_file(tmp_path: Path):
    shipped, photograph = load_parser(), read_image(STREET)[None, :, 100:231, 200:413]
    export(shipped, tmp_path / "parser.onnx")
    with torch.inference_mode():
        close(load_parser(tmp_path / "parser.onnx")(photograph), shipped(photograph))
