"""What this machine is and has left: names that say for which one a measurement holds, and its free memory."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import platform
from pathlib import Path

import torch


@functools.cache
def processor_name() -> str:
    """Return the processor's name as the system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # not Linux
    return platform.processor() or platform.machine()


def present_devices() -> list[str]:
    """Return the kinds of device that this process can use."""
    return ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def device_name(device_type: str) -> str:
    """Return the name of the processor or GPU."""
    return torch.cuda.get_device_name() if device_type == "cuda" else processor_name()


def device_capability(device_type: str) -> str:
    """Return the instruction set of the CPU build, or the compute capability of the GPU, for instance "sm90"."""
    if device_type == "cuda":
        major, minor = torch.cuda.get_device_capability()
        return f"sm{major}{minor}"
    return torch.backends.cpu.get_cpu_capability()


def free_memory_bytes() -> int | None:
    """Return the memory that this machine has left, in bytes; None where it does not tell."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:  # noqa: PTH123
            for line in file:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None


def package_versions(*names: str) -> dict[str, str]:
    """Return package → version, of those that are installed; nothing is imported."""
    found = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
