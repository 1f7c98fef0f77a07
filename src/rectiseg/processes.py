"""The processes of a training: this one alone, or all that torchrun started."""

import os

import torch
from accelerate import Accelerator
from torch import distributed
from torch.distributed.rendezvous import rendezvous


def accelerator() -> Accelerator:
    """On a GPU where there is one. Each stage chooses its precision by itself."""
    cpu = not torch.accelerator.is_available()  # several processes without an accelerator need to be told of the CPU
    restarts = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))
    if restarts and int(os.environ["WORLD_SIZE"]) > 1 and not distributed.is_initialized():
        meet_again(restarts, "gloo" if cpu else "nccl")
    return Accelerator(cpu=cpu, mixed_precision="no")


def meet_again(restarts: int, backend: str) -> None:
    """Join the processes that torchrun started anew, with --max-restarts, after one had died.

    The store by which they find each other is that of those before them (torch 2.13), whose addresses are still in it:
    without names of their own, they would wait for the dead. Nodes do not know how often others were started anew:
    where there are several, ValueError.
    """
    if int(os.environ["GROUP_WORLD_SIZE"]) > 1:
        raise ValueError("torchrun --max-restarts works on one node only; start the same command again on each of them")
    store, rank, world_size = next(rendezvous("env://"))
    own = distributed.PrefixStore(f"restart {restarts}", store)  # pyright: ignore[reportPrivateImportUsage]
    distributed.init_process_group(backend, store=own, rank=rank, world_size=world_size)
