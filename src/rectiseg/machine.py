"""What a measurement was made on."""

import os
import platform
from pathlib import Path

import torch


def machine() -> str:
    """One line: processor, cores that may be used, GPU where there is one, versions."""
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    parts = [
        f"{processor()}, {cores()} cores",
        *gpus,
        f"torch {torch.__version__}",
        f"Python {platform.python_version()}",
    ]
    return ", ".join(parts)


def processor() -> str:
    """The processor's name, as Linux gives it; elsewhere its architecture."""
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
