"""The command `rectiseg`. Exit status: 0 all done, 1 some inputs failed, 2 refused, 130 stopped by Ctrl-C."""

import sys
from collections.abc import Callable
from errno import EDQUOT, ENOSPC
from importlib import metadata

import tyro

from rectiseg.commands.batch import batch
from rectiseg.commands.confidences import confidences
from rectiseg.commands.doctor import doctor
from rectiseg.commands.evaluate import evaluate
from rectiseg.commands.export import export
from rectiseg.commands.fit import fit
from rectiseg.commands.info import info
from rectiseg.commands.predict import predict
from rectiseg.commands.publish import publish
from rectiseg.commands.refine import refine
from rectiseg.commands.report import report
from rectiseg.commands.table2 import table2
from rectiseg.commands.train import train
from rectiseg.commands.web import web
from rectiseg.progress import ProgressReporter

COMMANDS: dict[str, Callable[..., int]] = {
    "predict": predict,
    "batch": batch,
    "refine": refine,
    "fit": fit,
    "evaluate": evaluate,
    "report": report,
    "web": web,
    "train": train,
    "confidences": confidences,
    "table2": table2,
    "doctor": doctor,
    "export": export,
    "publish": publish,
    "info": info,
}


GO_ON = ("batch", "train", "table2", "fit", "confidences")
"""They keep what is done."""

DESCRIPTION = """Rectify scene parsing: GRN and LRN after any parser.

rectiseg --version says which this is; rectiseg --quiet COMMAND ... shows no progress.
"""


def main() -> None:
    """Run the command line and leave with its status."""
    arguments = sys.argv[1:]
    if arguments == ["--version"]:
        print(f"rectiseg {metadata.version('rectiseg')}")
        sys.exit(0)
    ProgressReporter.quiet = arguments[:1] == ["--quiet"]
    arguments = arguments[ProgressReporter.quiet :]
    try:
        status = tyro.extras.subcommand_cli_from_dict(
            COMMANDS, prog="rectiseg", description=DESCRIPTION, args=arguments
        )
    except KeyboardInterrupt:
        going_on = "goes on from there" if arguments[0] in GO_ON else "begins again"
        print(f"rectiseg: stopped. The files that were written are whole; the same command {going_on}", file=sys.stderr)
        status = 130
    except (ValueError, OSError) as error:  # what a user can mend: an argument, a file, a folder, a full disk
        print(f"rectiseg: {sentence_of(error)}", file=sys.stderr)
        status = 2
    sys.exit(status)


def sentence_of(error: ValueError | OSError) -> str:
    """Our own as it is; the system's in the same form."""
    if not isinstance(error, OSError) or error.filename is None or error.strerror is None:
        return str(error)
    mend = "make room" if error.errno in (ENOSPC, EDQUOT) else "mend that, or name another"
    return f"{error.filename}: {error.strerror}; {mend}"
