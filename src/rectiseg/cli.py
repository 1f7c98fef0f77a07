"""The command `rectiseg`. Exit status: 0 all done, 1 some inputs failed, 2 refused."""

import sys
from collections.abc import Callable

import tyro

from rectiseg.commands.batch import batch
from rectiseg.commands.confidences import confidences
from rectiseg.commands.doctor import doctor
from rectiseg.commands.evaluate import evaluate
from rectiseg.commands.export import export
from rectiseg.commands.fit import fit
from rectiseg.commands.predict import predict
from rectiseg.commands.refine import refine
from rectiseg.commands.report import report
from rectiseg.commands.table2 import table2
from rectiseg.commands.train import train


def main() -> None:
    """Run the command line and leave with its status."""
    commands: dict[str, Callable[..., int]] = {
        "predict": predict,
        "batch": batch,
        "refine": refine,
        "fit": fit,
        "evaluate": evaluate,
        "train": train,
        "confidences": confidences,
        "table2": table2,
        "doctor": doctor,
        "export": export,
        "report": report,
    }
    try:
        status = tyro.extras.subcommand_cli_from_dict(
            commands, prog="rectiseg", description="Rectify scene parsing: GRN and LRN after any parser."
        )
    except (ValueError, OSError) as error:  # what a user can mend: an argument, a file, a folder, a full disk
        print(f"rectiseg: {error}", file=sys.stderr)
        status = 2
    sys.exit(status)
