"""`rectiseg info`: what is here."""

import re
from importlib import metadata

from rectiseg.commands.options import choices_on


def info() -> int:
    """Say what rectiseg finds here: machine, devices, the kernels that propagation takes, optional libraries.

    Put it into a report of a fault.

    Example: rectiseg info
    """
    import torch

    from rectiseg.machine import machine
    from rectiseg.models.checkpoint import SHIPPED, SHIPPED_REFINER, identity, load

    print(f"rectiseg {metadata.version('rectiseg')}, on {machine()}")
    devices = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
    for device in devices:
        print(choices_on(device))
    for path in (SHIPPED, SHIPPED_REFINER):
        print(f"model {path.name}: {identity(load(path))}")
    for extra, missing in missing_libraries().items():
        print(f"extra {extra}: {'installed' if not missing else 'without ' + ', '.join(missing)}")
    return 0


def missing_libraries() -> dict[str, list[str]]:
    """Of each of the package's extras, the libraries that are not installed."""
    missing: dict[str, list[str]] = {}
    for requirement in metadata.requires("rectiseg") or []:
        library, extra = re.match(r"[\w.-]+", requirement), re.search(r"extra == ['\"]([\w-]+)", requirement)
        if library is None or extra is None or extra[1] == "dev":
            continue
        missing.setdefault(extra[1], [])
        try:
            metadata.version(library[0])
        except metadata.PackageNotFoundError:
            missing[extra[1]].append(library[0])
    return missing
