"""A saved model is one file that says how to build it; whatever is wrong with it is said in one sentence."""

import ast
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from networks import random, random_logits
from rectiseg import __version__
from rectiseg.models import checkpoint
from rectiseg.models.checkpoint import (
    at_output_stride,
    describe,
    fingerprint,
    load,
    load_parser,
    load_state,
    read_training,
    save,
    save_state,
    title,
)
from rectiseg.models.combine import Cascade, Parallel, SceneParser
from rectiseg.models.efficientnet_lite import EfficientNetLite
from rectiseg.models.front import Front
from rectiseg.models.fusion import Ensemble, MultiScale
from rectiseg.models.grn import GRN
from rectiseg.models.lrn import LRN
from rectiseg.models.resnet import ResNet

K = 3
SOURCE = Path(checkpoint.__file__).parents[1]


def lite() -> EfficientNetLite:
    return EfficientNetLite(0)


def tiny_lrn() -> LRN:
    return LRN(K, 3, (4,) * 6, center_bias=0.5, propagates="probabilities", border="zeros")


MODELS: dict[str, Callable[[], nn.Module]] = {
    "the paper's cascade": lambda: SceneParser(
        Front(lite(), K), Cascade(GRN(lite(), K, iterations=2), LRN.narrow(K)), ("a", "b", "c"), ((1, 2, 3),) * K
    ),
    "a parallel": lambda: Parallel(tiny_lrn(), Cascade(), Cascade(tiny_lrn(), LRN.narrow(K, neighborhood=5))),
    "front and GRN": lambda: SceneParser(Front(lite(), K), GRN(lite(), K, 1)),
    "a front": lambda: Front(ResNet(18, 16), K, head_dilation=2, aligned=False, learnable_deconvolution=True),
    "a GRN": lambda: GRN(lite(), K, 2, 0.1, every_iteration=False, full_backpropagation=True),
    "an LRN": tiny_lrn,
    "a ResNet": lambda: ResNet(18, 32, in_channels=5, uniform_dilation=True),
    "an EfficientNet": lambda: EfficientNetLite(1, 16, in_channels=4),
    "nothing": Cascade,
    "one LRN twice": lambda: Cascade(*[tiny_lrn()] * 2),
}


def stirred(model: nn.Module, seed: int = 0) -> nn.Module:
    """Every weight and running statistic is its own."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in model.state_dict().items():
        if value.is_floating_point():
            noise = torch.rand(value.shape, generator=generator)
            value.copy_(noise + 0.5 if name.endswith("running_var") else value + 0.05 * (noise - 0.5))
    return model.eval()


def result_of(model: nn.Module) -> Tensor:
    image, logits = random(1, 3, 19, 37), random_logits(1, K, 19, 37)
    with torch.inference_mode():
        if isinstance(model, ResNet | EfficientNetLite):
            return model(random(1, model.in_channels, 32, 64))
        return model(image) if isinstance(model, SceneParser | Front) else model(image, logits)


def header_of(path: Path) -> dict:
    with safe_open(path, framework="pt") as file:
        return json.loads(file.metadata()["rectiseg"])


def rewritten(path: Path, header: object = None, **tensors: Tensor | None) -> Path:
    """The same file with another header, other tensors, or without some."""
    kept = {name: value for name, value in (load_file(path) | tensors).items() if value is not None}
    text = header if isinstance(header, str) else json.dumps(header or header_of(path))
    save_file(kept, path, {"rectiseg": text})
    return path


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save(stirred(tiny_lrn()), tmp_path / "lrn.safetensors")
    return tmp_path / "lrn.safetensors"


def refuses(path: Path, words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        load(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", MODELS)
def test_a_loaded_model_is_the_saved_one(name: str, tmp_path: Path):
    model = stirred(MODELS[name]())
    save(model, tmp_path / "model.safetensors")
    loaded = load(tmp_path / "model.safetensors")
    assert describe(loaded) == describe(model)
    assert fingerprint(loaded) == fingerprint(model)
    assert not any(module.training for module in loaded.modules())
    assert torch.equal(result_of(loaded), result_of(model))


NAMED = SceneParser(Front(lite(), K), Cascade(), ("a", "b", "c"), ((1, 2, 3),) * K)
PARSERS: dict[str, nn.Module] = {
    "several scales": MultiScale(NAMED, scales=(1.0, 2.0)),
    "several parsers": Ensemble(NAMED, Front(lite(), K)),
    "a front": NAMED.front,  # pyright: ignore
}


@pytest.mark.parametrize("name", PARSERS)
def test_every_saved_parser_serves_where_one_is_needed(name: str, tmp_path: Path):
    model = PARSERS[name].eval()
    save(model, tmp_path / "model.safetensors")
    parser = load_parser(tmp_path / "model.safetensors")
    image = random(1, 3, 19, 37)
    with torch.inference_mode():
        assert torch.equal(parser(image), model(image))
    named = name != "a front"
    assert (parser.classes, parser.palette) == ((NAMED.classes, NAMED.palette) if named else ((), ()))


def test_what_is_no_parser_is_refused_where_one_is_needed(tmp_path: Path):
    for model in (lite(), tiny_lrn()):
        save(model, tmp_path / "model.safetensors")
        with pytest.raises(ValueError, match=f"holds a {type(model).__name__}, which is no parser; a parser is needed"):
            load_parser(tmp_path / "model.safetensors")


def test_half_a_model_is_half_as_large_and_loads_as_float32(saved: Path, tmp_path: Path):
    model = load(saved)
    save(model, tmp_path / "half.safetensors", half=True)
    halved = load_file(tmp_path / "half.safetensors")
    assert {value.dtype for value in halved.values()} == {torch.float16, torch.int64}
    for name, value in load(tmp_path / "half.safetensors").state_dict().items():
        assert torch.equal(value, model.state_dict()[name].half().to(value.dtype)), name


def test_weights_that_would_not_be_loaded_are_not_saved(tmp_path: Path):
    lrn = tiny_lrn()
    lrn.head.bias.data[4] = 70_000
    with pytest.raises(ValueError, match=r"the first is head\.bias; fp16 ends at 65504, leave half out"):
        save(lrn, tmp_path / "model.safetensors", half=True)
    assert not list(tmp_path.iterdir())
    save(lrn, tmp_path / "model.safetensors")
    lrn.head.bias.data[4] = torch.inf
    with pytest.raises(ValueError, match=r"the first is head\.bias; train it again"):
        save(lrn, tmp_path / "model.safetensors")
    assert load(tmp_path / "model.safetensors").head.bias[4] == 70_000  # pyright: ignore


def test_the_header_says_how_to_build_it_and_what_the_training_was(tmp_path: Path):
    path = tmp_path / "model.safetensors"
    save(Cascade(tiny_lrn()), path, {"recipe": "scenes_tiny", "seed": "3"})
    lrn = {"kind": "LRN", "num_classes": 3, "neighborhood": 3, "widths": [4] * 6, "center_bias": 0.5}
    lrn |= {"propagates": "probabilities", "border": "zeros"}
    training = {"recipe": "scenes_tiny", "seed": "3"}
    model = {"kind": "Cascade", "refiners": [lrn]}
    assert header_of(path) == {"format": 1, "version": __version__, "model": model, "training": training}
    assert read_training(path) == training


def test_a_module_of_another_kind_is_not_saved(tmp_path: Path):
    with pytest.raises(ValueError, match="a ReLU cannot be saved: SceneParser, "):
        save(Cascade(nn.ReLU()), tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="a function cannot be saved: SceneParser, "):
        save(SceneParser(lambda image: image, Cascade()), tmp_path / "model.safetensors")
    assert not list(tmp_path.iterdir())


def test_tensors_that_do_not_fit_are_named(saved: Path):
    bias = load_file(saved)["head.bias"]
    refuses(rewritten(saved, **{"head.bias": None}), "1 tensors are missing, the first is head.bias")
    refuses(
        rewritten(saved, **{"head.bias": bias[1:]}),
        r"1 tensors are of another shape, the first is head\.bias \(\[8\] for \[9\]\)",
    )
    refuses(rewritten(saved, **{"head.bias": bias, "more": bias + 1}), "1 tensors are unexpected, the first is more")
    load(rewritten(saved, more=None))


@pytest.mark.parametrize("length", [0, 4, 30, 1000, -1])
def test_a_truncated_file_is_refused(saved: Path, length: int):
    saved.write_bytes(saved.read_bytes()[:length])
    refuses(saved, "not a whole .safetensors file; copy or train it again")


def flipped(content: bytes, place: int) -> bytes:
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


def test_a_flipped_bit_in_the_weights_is_known_by_the_hash(saved: Path):
    saved.write_bytes(flipped(saved.read_bytes(), -3))
    refuses(saved, "damaged since it was written, for its hash is another; copy or train it again")


def test_wherever_a_bit_is_flipped_the_model_is_the_same_or_refused(saved: Path):
    """Spaces that fill the header up say nothing; everything else does."""
    content, model = saved.read_bytes(), fingerprint(load(saved))
    header = 8 + int.from_bytes(content[:8], "little")
    accepted = set()
    for place in [*range(0, header, 11), *range(header, len(content), 997)]:
        saved.write_bytes(flipped(content, place))
        try:
            assert fingerprint(load(saved)) == model, place
            accepted.add(place)
        except ValueError as error:
            assert str(error).startswith(f"{saved}: "), place  # noqa: PT017
    named = range(content.index(b'"sha256"'), content.index(b'"sha256"') + len(b'"sha256"'))
    assert {place for place in accepted if content[place] != ord(" ")} <= {*named}


def test_a_file_of_before_there_was_a_hash_is_loaded(saved: Path):
    model = fingerprint(load(saved))
    assert fingerprint(load(rewritten(saved))) == model  # the test's own writer adds none


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_weights_that_are_not_finite_are_named(saved: Path, value: float):
    bias = load_file(saved)["head.bias"].index_fill(0, torch.tensor([4]), value)
    refuses(rewritten(saved, **{"head.bias": bias}), "1 tensors hold NaN or infinite numbers, the first is head.bias")


def test_a_header_takes_no_more_memory_than_its_file_has_tensors_for(saved: Path):
    """100 GB of weights are promised, which many a machine has."""
    header = header_of(saved)
    header["model"]["widths"] = [50_000] * 6
    refuses(rewritten(saved, header), "promises more weights than the file holds")


def test_what_is_no_model_is_refused(saved: Path, tmp_path: Path):
    refuses(tmp_path / "nothing.safetensors", "no such file")
    save_file(load_file(saved), saved)
    refuses(saved, "no model of rectiseg")


@pytest.mark.parametrize("header", ["", "{", "3", "null", "[1, 2]", '"text"', "\x00"])
def test_a_header_that_is_no_json_object_is_refused(saved: Path, header: str):
    refuses(rewritten(saved, header), "its header is damaged")


def test_a_later_format_is_refused(saved: Path):
    refuses(rewritten(saved, {"format": 2}), "format 2, this version reads 1; update rectiseg")


WRONG_LRN = [{}, {"num_classes": "x"}, {"num_classes": -9}, {"num_classes": 3, "m": 7}, {"num_classes": 3, "widths": 1}]
WRONG_CASCADE = [{}, {"refiners": 3}, {"refiners": ["x"]}, {"refiners": [{"kind": "LRN"}]}]
WRONG = [None, [], 7, {}, {"kind": "Unknown"}, {"kind": ["LRN"]}, {"kind": "Front", "encoder": "x", "num_classes": 3}]
WRONG += [{"kind": "LRN", **wrong} for wrong in WRONG_LRN] + [{"kind": "Cascade", **wrong} for wrong in WRONG_CASCADE]


@pytest.mark.parametrize("model", WRONG, ids=str)
def test_a_header_that_describes_no_model_is_refused(saved: Path, model: object, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("jaxtyping.config.jaxtyping_disable", True)  # a user's types are not checked
    refuses(rewritten(saved, {"format": 1, "model": model}), "its header does not describe a model of this version")


def test_a_write_that_fails_leaves_the_old_file_whole(saved: Path, monkeypatch: pytest.MonkeyPatch):
    def disk_is_full(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
        path.write_bytes(b"half a file")
        raise OSError("no space left on device")

    before, lrn = saved.read_bytes(), tiny_lrn()
    monkeypatch.setattr(checkpoint, "save_sealed", disk_is_full)
    for path in (saved, saved.with_name("new.safetensors")):
        with pytest.raises(OSError, match="no space"):
            save(lrn, path)
        with pytest.raises(OSError, match="no space"):
            save_state(path, lrn, torch.optim.SGD(lrn.parameters()), {})
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]
    assert saved.read_bytes() == before


def test_the_fingerprint_changes_with_any_weight_and_setting(saved: Path):
    first, second = load(saved), load(saved)
    assert fingerprint(first) == fingerprint(second)
    assert re.fullmatch("[0-9a-f]{12}", fingerprint(first))
    for name, value in second.state_dict().items():
        if value.dim():
            before = value.clone()
            value.view(-1)[-1] += 1e-3
            assert fingerprint(first) != fingerprint(second), name
            value.copy_(before)
    second.center_bias = 0.6
    assert fingerprint(first) != fingerprint(second)


@pytest.mark.parametrize("kind", [torch.optim.AdamW, lambda groups: torch.optim.SGD(groups, lr=1e-4, momentum=0.9)])
def test_a_training_goes_on_from_its_state_as_if_it_had_not_stopped(tmp_path: Path, kind: Callable):
    def steps(model: nn.Module, optimizer: torch.optim.Optimizer, seeds: range) -> None:
        for seed in seeds:
            optimizer.zero_grad()
            inputs = random(2, 3, 9, 7, seed=seed), random_logits(2, K, 9, 7, seed=seed)
            model.train()(*inputs).square().mean().backward()
            optimizer.step()

    def started(seed: int) -> tuple[nn.Module, torch.optim.Optimizer]:
        model = stirred(tiny_lrn(), seed)
        return model, kind([{"params": list(model.body.parameters())}, {"params": list(model.head.parameters())}])

    model, optimizer = started(0)
    steps(model, optimizer, range(3))
    save_state(tmp_path / "state.safetensors", model, optimizer, {"step": "3"})
    other, taken_up = started(1)
    assert load_state(tmp_path / "state.safetensors", other, taken_up) == {"step": "3"}
    for index, entries in optimizer.state_dict()["state"].items():
        for name, value in entries.items():
            assert torch.equal(taken_up.state_dict()["state"][index][name], value), f"{name} of {index}"
    steps(model, optimizer, range(3, 5))
    steps(other, taken_up, range(3, 5))
    for name, value in model.state_dict().items():
        assert value.isfinite().all(), name
        assert torch.equal(other.state_dict()[name], value), name


def test_half_a_state_is_refused(tmp_path: Path):
    path, lrn = tmp_path / "state.safetensors", tiny_lrn()
    save_state(path, lrn, torch.optim.SGD(lrn.parameters()), {})
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=f"{path}: not a whole .safetensors file; delete it to start this stage again"):
        load_state(path, lrn, torch.optim.AdamW(lrn.parameters()))


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda path: path.stem)
def test_nothing_is_pickled_and_pickles_are_read_as_weights_only(path: Path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
            assert not {name.split(".")[0] for name in modules} & {"pickle", "cPickle", "dill", "joblib", "shelve"}
        if isinstance(node, ast.Call):
            options = {option.arg: ast.unparse(option.value) for option in node.keywords}
            assert ast.unparse(node.func) != "torch.save"
            assert ast.unparse(node.func) != "torch.load" or options.get("weights_only") == "True"
            assert options.get("allow_pickle", "False") == "False"


def test_a_models_title_names_what_it_is_made_of():
    assert title(MODELS["the paper's cascade"]()) == (
        "SceneParser(Front(EfficientNetLite), Cascade(GRN(EfficientNetLite), LRN))"
    )
    assert title(MODELS["nothing"]()) == "Cascade"


def test_the_same_weights_at_another_output_stride_see_the_same_pixels_on_another_grid():
    torch.manual_seed(0)
    grn = GRN(EfficientNetLite(0, output_stride=8), 3, iterations=2)
    torch.nn.init.normal_(grn.network.head.weight)
    assert at_output_stride(grn, 8) is grn
    coarser = at_output_stride(grn, 32).eval()
    assert (coarser.output_stride, coarser.center, coarser.iterations) == (32, 31.0, 2)
    assert all(torch.equal(value, grn.state_dict()[name]) for name, value in coarser.state_dict().items())
    image, logits = random(1, 3, 33, 65), random_logits(1, 3, 33, 65)
    assert coarser.coarse(image, logits).shape == (1, 3, 2, 3)
    assert coarser(image, logits).shape == logits.shape
    assert fingerprint(at_output_stride(coarser, 8)) == fingerprint(grn)
