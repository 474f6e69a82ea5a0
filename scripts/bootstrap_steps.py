"""Looks at the machine, says what the set-up will do, and does it. Standard library only."""

import hashlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import textwrap
import tomllib
from pathlib import Path
from typing import Any, Literal

from bootstrap_plan import EXTRAS, Goal, Machine, Plan, SetUpProblem, plan

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
STAMP = VENV / "int4-workbench.json"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PROBE = """
import importlib.metadata, json, pip
try:
    torch = importlib.metadata.version("torch")
except importlib.metadata.PackageNotFoundError:
    torch = None
print(json.dumps(torch))
"""


def set_up(goal: str) -> int:
    """Brings .venv, and for the tests a Chromium, to what the goal needs; 0, 2 with the mend said, 130 on Ctrl-C."""
    if goal not in EXTRAS:
        print(f"unknown goal {goal!r}. Allowed: {', '.join(EXTRAS)}.", file=sys.stderr)
        return 2
    try:
        decided = plan(goal, look(goal), minimum_torch(ROOT / "pyproject.toml"))
        if decided.notices:
            print(f"Setting up int4-workbench for 'make {goal}':")
            for notice in decided.notices:
                print(textwrap.fill(notice, 100, initial_indent="  - ", subsequent_indent="    "), flush=True)
        carry_out(decided)
    except SetUpProblem as problem:
        print(problem, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"stopped; 'make {goal}' again goes on", file=sys.stderr)
        return 130
    return 0


def minimum_torch(pyproject: Path) -> tuple[int, int]:
    """The oldest PyTorch that the project's requirements admit."""
    requirements = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]["dependencies"]
    found = [match for line in requirements if (match := re.match(r"torch>=(\d+)\.(\d+)", line))]
    assert len(found) == 1, f"one 'torch>=X.Y' expected in {pyproject}"
    return int(found[0][1]), int(found[0][2])


def look(goal: Goal) -> Machine:
    """Finds out what the plan depends on; changes nothing."""
    venv, venv_torch = _look_at_venv()
    stamp = _read_stamp()
    apt, with_sudo = _look_at_apt()
    return Machine(
        python=sys.executable,
        python_version=sys.version_info[:3],
        system=platform.system(),
        base_torch=_version("torch"),
        base_packages=sysconfig.get_path("purelib") if sys.prefix != sys.base_prefix else None,
        has_ensurepip=importlib.util.find_spec("ensurepip") is not None,
        base_pip=_numbers(_version("pip")),
        venv=venv,
        venv_torch=venv_torch,
        up_to_date=stamp.get("digest") == _digest() and goal in stamp.get("goals", []),
        browser=_find_browser(stamp),
        apt=apt,
        with_sudo=with_sudo,
    )


def carry_out(decided: Plan) -> None:
    """Does what the plan says.

    Raises:
        SetUpProblem: a step failed; the message names it and the mend.
    """
    if decided.create != "no":
        _create_venv(decided)
    if decided.install:
        _install(decided)
        _write_stamp(goals=["lab", "test"] if decided.goal == "test" else ["lab"])
    if decided.browser == "apt":
        _install_chromium_with_apt()
    elif decided.browser == "playwright":
        _run([str(PYTHON), "-m", "playwright", "install", "chromium"], "install a Chromium or Chrome by hand")
        _write_stamp(browser=_playwright_browser())


def pip_command(decided: Plan, constraints: Path) -> list[str]:
    """The command that installs the project in .venv."""
    options = ["install", "--disable-pip-version-check", "--constraint", str(constraints)]
    return [str(PYTHON), "-m", "pip", *options, "--editable", f"{ROOT}[{EXTRAS[decided.goal]}]"]


def constraints_for(decided: Plan, pins: str) -> str:
    """The pins of constraints.txt, with that of torch replaced by the version that is kept."""
    if decided.torch is None:
        return pins
    others = [line for line in pins.splitlines() if not line.startswith("torch==")]
    return "\n".join([*others, f"torch=={decided.torch}"]) + "\n"


def _create_venv(decided: Plan) -> None:
    options = ["--clear", *(["--system-site-packages"] if decided.sees_base else [])]
    if decided.create == "with ensurepip":
        _run(
            [sys.executable, "-m", "venv", *options, str(VENV)],
            "apt-get install python3-venv, then try again",
        )
    else:
        _run(
            [sys.executable, "-m", "venv", "--without-pip", *options, str(VENV)],
            "apt-get install python3-venv",
        )
        _run(
            [sys.executable, "-m", "pip", "--python", str(PYTHON), "install", "--ignore-installed", "pip"],
            "check the network, or apt-get install python3-venv",
        )
    if decided.base_packages is not None:
        ask = [str(PYTHON), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
        packages = Path(subprocess.run(ask, check=True, capture_output=True, text=True).stdout.strip())
        (packages / "int4_workbench_base.pth").write_text(decided.base_packages + "\n", encoding="utf-8")


def _install(decided: Plan) -> None:
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    torch_pin = "".join(line for line in pins.splitlines(keepends=True) if line.startswith("torch=="))
    constraints = VENV / "int4-workbench-constraints.txt"
    levels = [
        ("the tested versions", pins),
        ("the tested PyTorch only", torch_pin),
        ("the newest versions", ""),
    ]
    for number, (name, kept) in enumerate(levels):
        constraints.write_text(constraints_for(decided, kept), encoding="utf-8")
        try:
            _run(pip_command(decided, constraints), "check the network and the free disk space, then try again")
            return
        except SetUpProblem:
            if os.environ.get("CI") or number + 1 == len(levels):
                raise
            print(f"pip failed with {name}, see above: trying {levels[number + 1][0]}.", flush=True)


def _install_chromium_with_apt() -> None:
    asks_nothing = ["-n"] if os.environ.get("CI") or not sys.stdin.isatty() else []
    sudo = ["sudo", *asks_nothing] if os.getuid() != 0 else []
    environment = ["env", "DEBIAN_FRONTEND=noninteractive"]
    mend = "apt-get install chromium, or put a Chromium or Chrome on the PATH"
    _run([*sudo, *environment, "apt-get", "update", "-q"], mend)
    packages = ["chromium", "fonts-dejavu-core"]
    _run([*sudo, *environment, "apt-get", "install", "-q", "-y", "--no-install-recommends", *packages], mend)


def _run(command: list[str], mend: str) -> None:
    print("+ " + " ".join(command), flush=True)
    try:
        code = subprocess.run(command, cwd=ROOT, check=False).returncode
    except OSError as error:
        raise SetUpProblem(f"{command[0]} cannot be run: {error}. To mend it: {mend}") from error
    if code != 0:
        raise SetUpProblem(f"this step failed with exit code {code}: {' '.join(command)}. To mend it: {mend}")


def _look_at_venv() -> tuple[Literal["none", "works", "broken"], str | None]:
    if not VENV.exists():
        return "none", None
    try:
        answer = subprocess.run([str(PYTHON), "-c", PROBE], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "broken", None
    return "works", json.loads(answer.stdout)


def _look_at_apt() -> tuple[Literal["chromium", "no"], bool]:
    """Debian's package is a real one; Ubuntu's only asks for a snap."""
    if platform.system() != "Linux" or shutil.which("apt-get") is None:
        return "no", False
    try:
        release = platform.freedesktop_os_release()
    except OSError:
        return "no", False
    if "ubuntu" in f"{release.get('ID', '')} {release.get('ID_LIKE', '')}":
        return "no", False
    if os.getuid() == 0:
        return "chromium", False
    return ("chromium", True) if shutil.which("sudo") else ("no", False)


def _find_browser(stamp: dict[str, Any]) -> str | None:
    own = stamp.get("browser")
    return next(filter(None, map(shutil.which, BROWSERS)), own if own and Path(own).exists() else None)


def _playwright_browser() -> str:
    ask = (
        "from playwright.sync_api import sync_playwright\n"
        "with sync_playwright() as p: print(p.chromium.executable_path)"
    )
    answer = subprocess.run([str(PYTHON), "-c", ask], check=True, capture_output=True, text=True)
    return answer.stdout.strip()


def _digest() -> str:
    parts = [(ROOT / name).read_bytes() for name in ("pyproject.toml", "constraints.txt")]
    return hashlib.sha256(b"\0".join([*parts, str(ROOT).encode()])).hexdigest()


def _read_stamp() -> dict[str, Any]:
    try:
        stamp = json.loads(STAMP.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return stamp if isinstance(stamp, dict) else {}


def _write_stamp(**facts: Any) -> None:
    STAMP.write_text(json.dumps(_read_stamp() | facts | {"digest": _digest()}), encoding="utf-8")


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _numbers(version: str | None) -> tuple[int, ...] | None:
    return None if version is None else tuple(int(part) for part in re.findall(r"\d+", version)[:3])
