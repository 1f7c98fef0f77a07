"""Print what an LRN for any parser is worth after parsers that it never saw, and train the one that ships.

python benchmarks/any_parser.py --data CamVid --parsers lite=runs/camvid_lite/confidences/front \
    espnet=runs/espnet/confidences

Each parser is a folder with its stored confidences of CamVid in train/ and val/, as `rectiseg confidences` writes them.
Those whose names begin alike, up to a dash, are of one family. For each family an LRN learns from the others', and is
measured after its first parser beside a CRF whose settings are the same after all; then one learns from all parsers.
The same command goes on where it was stopped.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, cast

import tyro

from rectiseg.any_parser import AnyParserViews
from rectiseg.data.confidences import Confidences
from rectiseg.data.datasets import CamVid, Split
from rectiseg.fit import lasting, trainer
from rectiseg.intervals import blocks_of
from rectiseg.machine import machine
from rectiseg.measured import Measured, as_markdown, measured
from rectiseg.models.checkpoint import save
from rectiseg.models.class_agnostic import ClassAgnosticLRN
from rectiseg.models.combine import Cascade
from rectiseg.models.crf import FullyConnectedCRF
from rectiseg.progress import ProgressReporter, Reporter
from rectiseg.recipes import camvid_lite
from rectiseg.views import ConfidenceViews

SEED = 0


def main(
    data: Path,
    parsers: tuple[str, ...],
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("runs/any_lrn"),
    steps: int = 1000,
) -> None:
    """Train, measure and print.

    Args:
        data: CamVid in SegNet's layout.
        parsers: NAME=FOLDER, of two families or more: stored confidences in FOLDER/train and FOLDER/val.
        output: Where the LRNs go, any_lrn.safetensors among them.
        steps: How long each LRN trains.
    """
    folders = {name: Path(folder) for name, _, folder in (parser.partition("=") for parser in parsers)}
    val = CamVid(data, "val")
    blocks = blocks_of(val.names)
    firsts = {family_of(name): name for name in reversed(folders)}
    with ProgressReporter() as reporter:
        tables = {name: rows(data, folders, name, output, steps, reporter) for name in reversed(firsts.values())}
        lrn = learned_from(data, list(folders.values()), output / "all", steps, reporter)
    about = {"seed": str(SEED), "steps": str(steps), "parsers": ", ".join(folders), "machine": machine()}
    save(lrn.cpu(), output / "any_lrn.safetensors", about, half=True)
    print("# An LRN for any parser\n")
    print(f"Printed by `python benchmarks/any_parser.py --data CamVid --parsers {' '.join(parsers)} --steps {steps}`,")
    print(
        f"seed {SEED}, on {machine()}. CamVid val, {len(blocks)} blocks. No row's LRN saw the parser that it follows."
    )
    for name, table in tables.items():
        print(f"\n## {name}\n")
        print(as_markdown(table, len(val.classes), blocks))


def rows(
    data: Path, folders: Mapping[str, Path], name: str, output: Path, steps: int, reporter: Reporter
) -> dict[str, list[Measured]]:
    """After one parser: itself, the CRF, and an LRN that learned from the others."""
    others = [folder for other, folder in folders.items() if family_of(other) != family_of(name)]
    networks = {
        "front": Cascade(),
        "CRF, one setting for all": FullyConnectedCRF(),
        "LRN for any parser": learned_from(data, others, output / f"without_{family_of(name)}", steps, reporter),
    }
    views = stored(data, folders[name], "val")
    return {
        title: [measured(network, views, output / name / f"{title}.safetensors", reporter=reporter)]
        for title, network in networks.items()
    }


def family_of(name: str) -> str:
    return name.partition("-")[0]


def learned_from(data: Path, folders: Sequence[Path], output: Path, steps: int, reporter: Reporter) -> ClassAgnosticLRN:
    """An LRN for any parser, from these parsers' confidences of the training images."""
    train = AnyParserViews([stored(data, folder, "train") for folder in folders])
    settings = lasting(replace(camvid_lite().lrn, jitter=0.2), steps, train.parsers[0].confidences)
    learn = trainer(output, SEED, reporter)
    return cast(ClassAgnosticLRN, learn("lrn", ClassAgnosticLRN, train, stored(data, folders[0], "val"), settings))


def stored(data: Path, folder: Path, split: Split) -> ConfidenceViews:
    return ConfidenceViews(Confidences(CamVid(data, split), folder / split))


if __name__ == "__main__":
    tyro.cli(main)
