"""Compile the workbench's C file for this machine, once, into the user's cache.

The compiler is the one in the environment variable CC, else gcc, clang or cc. What was built is found again by the
source, the compiler, the options and the processor; a file that another user could have written is never loaded.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from workbench.user_cache import cache_folder

SOURCE = Path(__file__).with_name("int4.c")
_COMPILERS = ("gcc", "clang", "cc")
_OPTIONS = ("-O3", "-ffp-contract=off", "-shared", "-fPIC")
# Tried in turn: gcc and clang on x86 know the first, compilers for ARM the second, some no OpenMP.
_VARIANTS: tuple[tuple[str, ...], ...] = (
    ("-march=native", "-fopenmp"),
    ("-mcpu=native", "-fopenmp"),
    ("-march=native",),
    (),
)
_OPENMP_NAMES = ("libgomp", "libomp", "libiomp5")
_TIMEOUT_S = 120


@dataclass(frozen=True)
class Built:
    """A library that was built, now or before.

    Attributes:
        path: The file.
        compiler: The compiler's name and version.
    """

    path: Path
    compiler: str


class CannotBuild(Exception):
    """There is no library for this machine; the message says why. Callers fall back, and say so."""


def build() -> Built:
    """Return the library for this machine, compiled if it was not before.

    Raises:
        CannotBuild: without a compiler, or when it fails.
    """
    command = _compiler()
    version = _version(command)
    target = _target(command, version)
    if _is_ours(target):
        return Built(target, version)
    folder = _writable(target.parent)
    made = folder / target.name
    problem = ""
    for variant in _VARIANTS:
        threads = _openmp_of_torch() if "-fopenmp" in variant else []
        problem = _compile([*command, *_OPTIONS, str(SOURCE), *threads, *variant], made)
        if not problem:
            return Built(made, version)
    raise CannotBuild(f"{version} failed: {problem}")


def _compiler() -> list[str]:
    if given := os.environ.get("CC"):
        windows = sys.platform == "win32"  # where a backslash parts the folders of a path
        return [word.strip('"') for word in shlex.split(given, posix=False)] if windows else shlex.split(given)
    for name in _COMPILERS:
        if found := shutil.which(name):
            return [found]
    raise CannotBuild(f"no C compiler is installed ({', '.join(_COMPILERS)})")


def _version(command: Sequence[str]) -> str:
    try:
        done = subprocess.run([*command, "--version"], capture_output=True, text=True, timeout=_TIMEOUT_S, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise CannotBuild(f"the compiler {command[0]!r} does not run ({error})") from None
    return done.stdout.partition("\n")[0].strip() or command[0]


def _target(command: Sequence[str], version: str) -> Path:
    """Name the library by all that decides what it contains: code for another processor must never be loaded."""
    parts = (*command, version, *_OPTIONS, repr(_VARIANTS), *_openmp_of_torch(), processor_identity())
    key = hashlib.sha256(SOURCE.read_bytes() + "\0".join(parts).encode()).hexdigest()[:20]
    return cache_folder() / f"int4-{key}{'.dll' if sys.platform == 'win32' else '.so'}"


def processor_identity() -> str:
    """Return the processor's name and all instructions that it knows, as far as the system tells."""
    found = [platform.machine(), platform.processor()]
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        wanted = ("model name", "flags", "Features", "CPU part", "CPU implementer")
        found += sorted({line for line in lines if line.startswith(wanted)})
    except OSError:
        pass  # not Linux
    return "\n".join(found)


def _openmp_of_torch() -> list[str]:
    """Return what links the OpenMP library that torch has loaded: the threads of two would be in each other's way."""
    try:
        mapped = {
            line.split(maxsplit=5)[-1] for line in Path("/proc/self/maps").read_text().splitlines() if "/" in line
        }
    except OSError:
        return []  # not Linux
    found = sorted(path for path in mapped if Path(path).name.startswith(_OPENMP_NAMES) and "torch" in path)
    return ["-Wl,--as-needed", found[0]] if found else []


def _is_ours(path: Path) -> bool:
    try:
        facts = path.stat()
    except OSError:
        return False
    return not hasattr(os, "getuid") or (facts.st_uid == os.getuid() and not facts.st_mode & 0o022)


def _writable(folder: Path) -> Path:
    """Return `folder`, made if need be; where it cannot be written, a private one that the system clears."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.NamedTemporaryFile(dir=folder):
            return folder
    except OSError:
        return Path(tempfile.mkdtemp(prefix="int4-workbench-"))


def _compile(command: Sequence[str], target: Path) -> str:
    """Compile to a file beside the target and move it there whole; return what went wrong, or ""."""
    made = target.with_name(f".{os.getpid()}-{target.name}")
    try:
        done = subprocess.run(
            [*command, "-o", str(made)], capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
        )
        if done.returncode == 0:
            made.chmod(0o700)
            made.replace(target)
            return ""
        lines = done.stderr.strip().splitlines()
        return next((line for line in lines if "error" in line), f"exit code {done.returncode}")
    except (OSError, subprocess.SubprocessError) as error:
        return str(error)
    finally:
        made.unlink(missing_ok=True)
