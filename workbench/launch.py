"""Start JupyterLab on the shipped notebooks, with what a person needs to know said first."""

from __future__ import annotations

import importlib.util
import os
import secrets
import shutil
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from workbench.coverage import size
from workbench.demo import notebooks_path
from workbench.errors import EnvironmentProblem
from workbench.sources import SafetensorsFolder

FIRST_NOTEBOOK = "01_workbench.ipynb"
MODEL_VARIABLE = "INT4_WORKBENCH_MODEL"
COPIES = "int4-workbench-notebooks"
_NEEDED = ("jupyterlab", "ipykernel", "ipywidgets", "anywidget", "plotly")
_READ_BYTES_PER_S = 5e8  # headers and one layer at a time; a whole pass reads every byte once
_LARGEST_COPIES = 8  # the largest layer in its own dtype, float32 and the solver's working copies
_BASE_BYTES = 900e6  # a kernel with torch and transformers imported


@dataclass(frozen=True)
class Forecast:
    """What opening a model will take.

    Attributes:
        model_bytes: Bytes of its weights on disk.
        largest_bytes: Bytes of its largest tensor.
        memory_bytes: Memory of the kernel at most, while its layers are looked at or exported one by one.
        pass_seconds: Seconds that one pass over all weights takes at least, at 0.5 GB/s.
    """

    model_bytes: int
    largest_bytes: int
    memory_bytes: float
    pass_seconds: float

    def __str__(self) -> str:
        """Say it in a line, with its basis."""
        return (
            f"{size(self.model_bytes)} of weights; the workbench reads one layer at a time (the largest tensor has "
            f"{size(self.largest_bytes)}), so expect up to about {size(self.memory_bytes)} of memory, and "
            f"at least {max(1, round(self.pass_seconds))} s for a pass over all layers (from the headers, at 0.5 GB/s)"
        )


def forecast(folder: Path) -> Forecast:
    """Estimate memory and time from the headers of a model folder.

    Raises:
        ModelError: when the folder holds no readable model.
    """
    stored = SafetensorsFolder(folder)
    sizes = [stored.size_bytes(name) for name in stored.names()]
    largest = max(sizes, default=0)
    return Forecast(sum(sizes), largest, _BASE_BYTES + _LARGEST_COPIES * largest, sum(sizes) / _READ_BYTES_PER_S)


def launch_lab(model: str | None = None, *, port: int = 8888, browser: bool = True, folder: Path | None = None) -> int:
    """Copy the notebooks beside the person, say what to expect, and run JupyterLab until it ends.

    Args:
        model: A model folder or hub name; None is the demo model.
        port: First port to try.
        browser: Whether to open a browser.
        folder: Where the notebooks go; None is a folder in the working directory.

    Returns:
        JupyterLab's exit code.

    Raises:
        EnvironmentProblem: when the notebook packages are missing.
        ModelError: when the model cannot be read.
    """
    check_notebook_packages()
    environment = dict(os.environ)
    if model is not None:
        from workbench.hf import local_folder

        place = local_folder(model)
        print(f"model {model}: {forecast(place)}", flush=True)
        environment[MODEL_VARIABLE] = str(place.absolute()) if Path(model).exists() else model
    else:
        environment.pop(MODEL_VARIABLE, None)
        print("model: the embedded demo model (11.5 MB; name another with `workbench lab MODEL`)", flush=True)
    notebooks = prepare_notebooks(folder or Path.cwd() / COPIES)
    port, token = free_port(port), secrets.token_hex(16)
    for line in addresses(port, token, environment):
        print(line, flush=True)
    command = lab_command(notebooks, port, token, browser=browser and not is_remote(environment))
    try:
        return subprocess.run(command, env=environment, check=False).returncode
    except KeyboardInterrupt:
        return 0


def check_notebook_packages() -> None:
    """Refuse to start without the packages that the notebook needs.

    Raises:
        EnvironmentProblem: naming what is missing and the command that installs it.
    """
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise EnvironmentProblem(
            f"The notebook needs {', '.join(missing)}, which this Python does not have.",
            mend='pip install "int4-workbench[notebook]"',
        )


def prepare_notebooks(folder: Path) -> Path:
    """Copy the shipped notebooks into `folder`; a notebook that a person changed is kept, and said.

    Returns:
        The folder.

    Raises:
        EnvironmentProblem: when the folder cannot be written.
    """
    shipped = notebooks_path()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for notebook in sorted(shipped.glob("*.ipynb")):
            copy = folder / notebook.name
            if not copy.exists():
                shutil.copyfile(notebook, copy)
            elif copy.read_bytes() != notebook.read_bytes():
                print(f"kept your {copy} (delete it to get the shipped one)", flush=True)
    except OSError as error:
        raise EnvironmentProblem(
            f"The notebooks cannot be copied to {str(folder)!r}: {error}.", mend="name a folder with --notebook-dir"
        ) from None
    return folder


def lab_command(notebooks: Path, port: int, token: str, *, browser: bool) -> list[str]:
    """Return the command that starts JupyterLab on the first notebook."""
    command = [
        sys.executable,
        "-m",
        "jupyterlab",
        f"--ServerApp.root_dir={notebooks}",
        f"--ServerApp.port={port}",
        f"--IdentityProvider.token={token}",
        f"--LabApp.default_url=/lab/tree/{FIRST_NOTEBOOK}",
    ]
    if not browser:
        command.append("--no-browser")
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        command.append("--allow-root")
    return command


def addresses(port: int, token: str, environment: dict[str, str]) -> list[str]:
    """Return the lines that say where to look, and over SSH how to get there."""
    url = f"http://localhost:{port}/lab/tree/{FIRST_NOTEBOOK}?token={token}"
    lines = [f"open {url}"]
    if is_remote(environment):
        user = environment.get("USER") or environment.get("LOGNAME") or "user"
        lines += [
            "this is a remote machine: on your own one, run",
            f"    ssh -N -L {port}:localhost:{port} {user}@{socket.gethostname()}",
            "and open the address above there",
        ]
    return lines


def is_remote(environment: dict[str, str]) -> bool:
    """Say whether the person sits at another machine: over SSH, or on Linux without a display."""
    if environment.get("SSH_CONNECTION"):
        return True
    no_display = not (environment.get("DISPLAY") or environment.get("WAYLAND_DISPLAY"))
    return sys.platform.startswith("linux") and no_display


def free_port(first: int) -> int:
    """Return the first free port from `first` on.

    Raises:
        EnvironmentProblem: when 100 ports in a row are taken.
    """
    for port in range(first, first + 100):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise EnvironmentProblem(f"Ports {first} to {first + 99} are all taken.", mend="name another with --port")
