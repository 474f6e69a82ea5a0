"""What the set-up will do on a machine, decided without touching it. Standard library only."""

import re
from dataclasses import dataclass
from typing import Literal

Goal = Literal["lab", "test"]
EXTRAS: dict[Goal, str] = {"lab": "notebook", "test": "test"}
PIP_WITH_PYTHON_OPTION = (22, 3)
UNDO = "Everything stays inside .venv in this folder; to undo it, delete .venv."
TORCH_LINUX = (
    "PyTorch, new: on Linux at most 2.7 GB to download and 4.8 GB on disk, because the default build "
    "brings NVIDIA's CUDA libraries. Without an NVIDIA GPU a CPU build is enough (0.2 GB, 0.8 GB on disk): "
    "stop this now and name pip the index that PyTorch's installation page gives for CPU: "
    "PIP_EXTRA_INDEX_URL=… make {goal}"
)
TORCH_ELSEWHERE = "PyTorch, new: about 0.1 GB to download, 0.5 GB on disk"
PACKAGES: dict[Goal, str] = {
    "lab": "transformers, JupyterLab and what they need: about 0.1 GB to download, 0.7 GB on disk",
    "test": "transformers, JupyterLab, test tools, what they need: about 0.2 GB to download, 0.9 GB on disk",
}


class SetUpProblem(Exception):
    """A machine on which the set-up cannot go on; the message ends with the mend."""


@dataclass(frozen=True)
class Machine:
    """What the set-up found."""

    python: str  # path of the interpreter that runs the set-up
    python_version: tuple[int, int, int]
    system: str  # as platform.system() says: Linux, Darwin, Windows
    base_torch: str | None  # version of the PyTorch that this interpreter sees
    base_packages: str | None  # its site-packages if it is itself a virtual environment, else None
    has_ensurepip: bool  # python -m venv can install pip
    base_pip: tuple[int, ...] | None  # version of its pip
    venv: Literal["none", "works", "broken"]
    venv_torch: str | None  # version of the PyTorch in .venv
    up_to_date: bool  # .venv was set up for this goal with the same requirements
    browser: str | None  # path of a Chromium or Chrome
    apt: Literal["chromium", "no"]  # whether apt-get could install Chromium: Debian's package, and rights
    with_sudo: bool  # apt-get needs sudo


@dataclass(frozen=True)
class Plan:
    """What the set-up will do, in this order; nothing at all when every field is empty."""

    goal: Goal
    create: Literal["no", "with ensurepip", "with this pip"]  # how .venv comes to be
    sees_base: bool  # .venv sees the packages of the interpreter it is made from
    base_packages: str | None  # a folder of packages that .venv is to see besides
    torch: str | None  # the version that is kept
    install: bool  # pip installs the project with the goal's extra
    browser: Literal["no", "apt", "playwright"]  # where Chromium comes from
    notices: tuple[str, ...]  # what is said before anything is done


def recent_enough(version: str, minimum: tuple[int, int]) -> bool:
    """Whether a version such as 2.13.0+cpu is at least `minimum`, by its first two numbers."""
    numbers = re.match(r"(\d+)\.(\d+)", version)
    return numbers is not None and (int(numbers[1]), int(numbers[2])) >= minimum


def plan(goal: Goal, machine: Machine, minimum_torch: tuple[int, int]) -> Plan:
    """Decides the steps and their announcement.

    Raises:
        SetUpProblem: no way to put pip into a new .venv.
    """
    keeps_venv = machine.venv == "works"
    base_serves = machine.base_torch is not None and recent_enough(machine.base_torch, minimum_torch)
    create = "no" if keeps_venv else _creation(machine)
    sees_base = create != "no" and base_serves
    torch = machine.venv_torch if keeps_venv else machine.base_torch if base_serves else None
    if torch is not None and not recent_enough(torch, minimum_torch):
        torch = None
    install = create != "no" or not machine.up_to_date
    browser = _browser(machine) if goal == "test" and machine.browser is None else "no"
    notices: list[str] = []
    if install:
        notices += _announcement(goal, machine, minimum_torch, create != "no", torch)
    if browser != "no":
        notices.append(_browser_announcement(machine, browser))
    if install:
        notices.append(UNDO if browser == "no" else f"All but Chromium: {UNDO}")
    base_packages = machine.base_packages if sees_base else None
    return Plan(goal, create, sees_base, base_packages, torch, install, browser, tuple(notices))


def _creation(machine: Machine) -> Literal["with ensurepip", "with this pip"]:
    if machine.has_ensurepip:
        return "with ensurepip"
    if machine.base_pip is not None and machine.base_pip >= PIP_WITH_PYTHON_OPTION:
        return "with this pip"
    found = "no pip" if machine.base_pip is None else f"pip {'.'.join(map(str, machine.base_pip))}"
    raise SetUpProblem(
        f"{machine.python} has no ensurepip and {found}, so no virtual environment can be made with it. "
        "To mend it: apt-get install python3-venv   (or python3-pip, at least 22.3)"
    )


def _announcement(
    goal: Goal, machine: Machine, minimum_torch: tuple[int, int], creates: bool, torch: str | None
) -> list[str]:
    version = ".".join(map(str, machine.python_version))
    lines = []
    if machine.venv == "broken":
        lines.append(".venv, made anew: the one in this folder has no Python that runs with pip")
    elif creates:
        lines.append(f".venv, new, with Python {version} ({machine.python})")
    else:
        lines.append(".venv: the one in this folder, with what is missing added")
    least = ".".join(map(str, minimum_torch))
    for place, found in ((".venv", machine.venv_torch), (machine.python, machine.base_torch)):
        if found is not None and not recent_enough(found, minimum_torch):
            fate = "is replaced" if place == ".venv" else "stays as it is, .venv gets its own"
            lines.append(f"PyTorch {found} of {place} is older than {least}: it {fate}")
    if torch is not None:
        lines.append(f"PyTorch {torch}: already here, kept")
    else:
        lines.append(TORCH_LINUX.format(goal=goal) if machine.system == "Linux" else TORCH_ELSEWHERE)
    lines.append(PACKAGES[goal])
    return lines


def _browser(machine: Machine) -> Literal["apt", "playwright"]:
    return "apt" if machine.apt == "chromium" else "playwright"


def _browser_announcement(machine: Machine, browser: Literal["apt", "playwright"]) -> str:
    if browser == "apt":
        by = "sudo apt-get" if machine.with_sudo else "apt-get"
        return f"Chromium for the browser tests, by {by}: about 0.1 GB to download, 0.4 GB on disk; it stays"
    return (
        "Chromium for the browser tests, by Playwright into its cache in your home: about 0.2 GB to "
        "download, 0.6 GB on disk; if it then lacks system libraries, install the system's Chromium or Chrome"
    )
