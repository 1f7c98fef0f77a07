"""Libraries that only some users have."""

from importlib import import_module
from types import ModuleType


def library(name: str, extra: str) -> ModuleType:
    """The module of that name; ValueError with the way to install it where it is missing."""
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise ValueError(f"{name.split('.')[0]} is not installed: pip install 'rectiseg[{extra}]'") from error
