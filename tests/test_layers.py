"""Dependencies point down only, and what few users need is imported where it is used."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "rectiseg"
FILES = sorted(SOURCE.rglob("*.py"))

# Who stands on whom. A name is a file or a folder; a file named here stands apart from its folder.
# Standing on something allows everything below it too.
BELOW = {
    "types": [],
    "ops": ["types"],
    "machine": [],
    "metrics": ["types"],
    "losses": ["types"],
    "boundaries": ["metrics"],
    "consistency": ["metrics"],
    "intervals": ["metrics", "data"],
    "visualize": ["types"],
    "data.files": [],
    "data.images": ["types", "data.files"],
    "progress": ["metrics"],
    "data": ["data.images", "ops", "visualize"],
    "models.encoder": ["ops"],
    "models": ["models.encoder", "metrics", "visualize"],
    "models.hub": ["data.files"],
    "models.checkpoint": ["models", "models.hub", "data.images"],
    "jobs": ["data.images"],
    "inference": ["models.checkpoint", "data", "jobs"],
    "prediction": ["inference", "progress"],
    "doctor": ["data", "progress"],
    "refinement": ["inference"],
    "export": ["refinement"],
    "batch": ["prediction", "refinement"],
    "web": ["refinement"],
    "plots": [],
    "report": ["evaluate", "plots"],
    "evaluate": ["inference", "progress", "boundaries", "consistency"],
    "settings": [],
    "processes": [],
    "stage_names": [],
    "views": ["settings", "data"],
    "any_parser": ["views"],
    "curves": ["data.images", "metrics"],
    "stage": ["models.checkpoint", "views", "curves", "losses", "progress"],
    "recipes": ["settings", "data", "models"],
    "train": ["recipes", "stage", "stage_names", "processes", "machine"],
    "held_out": ["train"],
    "crf_search": ["models", "data"],
    "measured": ["views", "models.checkpoint", "machine", "progress", "boundaries", "consistency", "intervals"],
    "fit": ["measured", "recipes", "stage", "processes"],
    "table2_rows": ["train", "held_out", "crf_search"],
    "table2": ["table2_rows", "measured"],
    "commands": ["prediction", "refinement", "fit", "doctor", "table2", "train", "report", "export", "batch", "web"],
    "cli": ["commands"],
    "__main__": ["cli"],
}
CORE_DISTRIBUTIONS = {"pillow": "PIL"}  # where the name to import is another one
ONLY_IN = {"triton": "ops.propagate_triton"}


def name_of(path: Path) -> str:
    """models/resnet.py is models.resnet; a package's __init__.py has the package's name, the outermost has none."""
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def layer_of(name: str) -> str:
    """The nearest of BELOW's names: the file's own, or its folder's."""
    while name and name not in BELOW:
        name = name.rpartition(".")[0]
    return name


def everything_below(layer: str) -> set[str]:
    return set(BELOW[layer]).union(*(everything_below(lower) for lower in BELOW[layer]))


def imported_modules(nodes: Iterator[ast.AST], package: str) -> Iterator[tuple[int, str]]:
    """The line and the full name of every import; `from a import b` counts as a.b, for b may be a file."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parent = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*parent, node.module] if node.module else parent)
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)


def imports_of(path: Path, on_import_only: bool = False) -> list[tuple[int, str]]:
    tree = ast.parse(path.read_text())
    folder = path.parent.relative_to(SOURCE.parent)
    nodes = run_on_import(tree) if on_import_only else ast.walk(tree)
    return list(imported_modules(nodes, ".".join(folder.parts)))


def run_on_import(node: ast.AST) -> Iterator[ast.AST]:
    """Everything outside of functions and of `if TYPE_CHECKING`."""
    yield node
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
            continue
        yield from run_on_import(child)


def own_files_imported(path: Path) -> Iterator[tuple[int, str]]:
    """Imports of this package, as names of its files."""
    names = {name_of(file) for file in FILES}
    for line, module in imports_of(path):
        if module.split(".")[0] == SOURCE.name:
            name = module.partition(".")[2]
            yield line, name if name in names else name.rpartition(".")[0]


def core_libraries() -> set[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = (re.split(r"[^\w-]", dependency)[0] for dependency in project["dependencies"])
    return {CORE_DISTRIBUTIONS.get(name, name) for name in names}


def place(path: Path, line: int) -> str:
    return f"{path.relative_to(ROOT)}:{line}"


def test_every_file_has_its_layer():
    homeless = [str(file.relative_to(ROOT)) for file in FILES if name_of(file) and not layer_of(name_of(file))]
    assert not homeless, f"say in BELOW on what these stand: {homeless}"


@pytest.mark.parametrize("path", [file for file in FILES if layer_of(name_of(file))], ids=name_of)
def test_dependencies_point_down(path: Path):
    layer = layer_of(name_of(path))
    allowed = everything_below(layer) | {layer}
    for line, name in own_files_imported(path):
        assert layer_of(name) in allowed, f"{place(path, line)}: {layer} does not stand on {name or SOURCE.name}"


def test_no_file_imports_itself_by_a_detour():
    graph = {name_of(file): {name for _, name in own_files_imported(file)} - {name_of(file)} for file in FILES}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


@pytest.mark.parametrize("path", FILES, ids=lambda path: name_of(path) or SOURCE.name)
def test_only_the_core_libraries_are_imported_at_the_top_of_a_file(path: Path):
    allowed = sys.stdlib_module_names | core_libraries() | {SOURCE.name}
    allowed |= {library for library, name in ONLY_IN.items() if name == name_of(path)}
    for line, module in imports_of(path, on_import_only=True):
        library = module.split(".")[0]
        assert library in allowed, f"{place(path, line)}: import {library} in the function that needs it"


@pytest.mark.parametrize(("library", "home"), ONLY_IN.items())
def test_one_file_knows_the_library(library: str, home: str):
    for path in FILES:
        for line, module in imports_of(path):
            assert module.split(".")[0] != library or name_of(path) == home, f"{place(path, line)}: only in {home}"


def test_import_rectiseg_is_light():
    heavy = ["accelerate", "tyro", "rich", "tensorboard", "torchvision"]
    program = f"import sys, rectiseg; print([name for name in {heavy} if name in sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "[]"
