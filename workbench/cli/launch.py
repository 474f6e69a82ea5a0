"""Start JupyterLab on the shipped notebooks, with what a person needs to know said first."""

from __future__ import annotations

import errno
import importlib.util
import os
import secrets
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from workbench.checkpoint.writer import MAX_SHARD_BYTES
from workbench.cli.notebooks import prepare_notebooks
from workbench.demo import demo_path
from workbench.errors import EnvironmentProblem
from workbench.safetensors_folder import SafetensorsFolder
from workbench.sizes import size

FIRST_NOTEBOOK = "01_workbench.ipynb"
MODEL_VARIABLE = "INT4_WORKBENCH_MODEL"
COPIES = "int4-workbench-notebooks"
# PyTorch's threads give the core away while they wait for each other, so that the page gets it: beside a browser on two
# cores the 95th percentile of a preview fell from 0.27 to 0.18 s. Alone, a kernel at batch 1 takes some 10 % longer.
PATIENT_THREADS = {"OMP_WAIT_POLICY": "passive"}
_NEEDED = ("jupyterlab", "ipykernel", "ipywidgets", "anywidget", "plotly")
_READ_BYTES_PER_S = 5e8  # headers and one layer at a time; a whole pass reads every byte once
_LARGEST_COPIES = 8  # the largest layer in its own dtype, float32 and the solver's working copies; and one shard
_BASE_BYTES = 900e6  # a kernel with torch and transformers imported
_STOPPED = (-signal.SIGINT, -signal.SIGTERM, 0xC000013A)  # what a process ended by Ctrl-C returns; the last: Windows


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
            f"{size(self.largest_bytes)}), so expect up to about {self.memory_bytes / 1e9:.1f} GB of memory, and "
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
    total, shard = sum(sizes), min(sum(sizes), MAX_SHARD_BYTES)
    memory_bytes = _BASE_BYTES + _LARGEST_COPIES * largest + shard
    return Forecast(total, largest, memory_bytes, total / _READ_BYTES_PER_S)


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
    environment = {**PATIENT_THREADS, **os.environ, **model_variable(model)}
    if model is None:
        environment.pop(MODEL_VARIABLE, None)
    notebooks = prepare_notebooks((folder or Path(COPIES)).absolute())
    wanted, port = port, free_port(port)
    if port != wanted:
        print(f"port {wanted} is taken: using {port}", flush=True)
    if "OMP_WAIT_POLICY" not in os.environ:
        said = "OMP_WAIT_POLICY=passive: PyTorch's threads leave the processor to the page while they wait"
        print(f"{said} (set it yourself to change that)", flush=True)
    environment["JUPYTER_TOKEN"] = secrets.token_hex(16)  # not in the command, which every user of a machine can see
    print("starting JupyterLab, which takes some seconds; Ctrl-C stops it", flush=True)
    for line in addresses(port, environment["JUPYTER_TOKEN"], environment):
        print(line, flush=True)
    return run_server(lab_command(notebooks, port, browser=browser and not is_remote(environment)), environment)


def model_variable(model: str | None) -> dict[str, str]:
    """Say what opening a model will take, and return the variable that hands it to the notebook.

    Raises:
        ModelError: when the model cannot be read.
    """
    if model is None:
        print(f"model: the embedded demo model, {forecast(demo_path())}", flush=True)
        print("name another with: workbench lab MODEL", flush=True)
        return {}
    from workbench.conversion import int4_path
    from workbench.hf.folders import dense_folder

    place = int4_path(model)
    if place is not None:
        print(f"model {model}: int4 already, shown and converted as it is", flush=True)
    else:
        place = dense_folder(model)
        print(f"model {model}: {forecast(place)}", flush=True)
    return {MODEL_VARIABLE: str(place.absolute()) if Path(model).exists() else model}


def run_server(command: list[str], environment: dict[str, str]) -> int:
    """Run JupyterLab until it ends, and return its exit code.

    Ctrl-C reaches the server too, which asks whether to stop: it is waited for. A second Ctrl-C stops it, as does
    ending this process. A server that a Ctrl-C ended before it could ask has not failed: 0.
    """
    process = subprocess.Popen(command, env=environment)
    before = signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    asked = False
    try:
        while True:
            try:
                code = process.wait()
                return 0 if asked and code in _STOPPED else code
            except KeyboardInterrupt:
                if asked:
                    process.terminate()
                asked = True
    finally:
        signal.signal(signal.SIGTERM, before)


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


def lab_command(notebooks: Path, port: int, *, browser: bool) -> list[str]:
    """Return the command that starts JupyterLab on the first notebook."""
    command = [
        sys.executable,
        "-m",
        "jupyterlab",
        f"--ServerApp.root_dir={notebooks}",
        f"--ServerApp.port={port}",
        "--ServerApp.port_retries=0",  # another port than the one that was said would be no help
        "--Application.log_level=WARN",  # else twenty lines, one with an address that lacks the token, hide ours
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
        names = (environment.get(name) for name in ("USER", "LOGNAME", "USERNAME"))
        user = next((name for name in names if name), "user")
        lines += [
            "this looks like a remote machine: on your own one, run",
            f"    ssh -N -L {port}:localhost:{port} {ssh_port(environment)}{user}@{socket.gethostname()}",
            "(or with the name by which you reach this machine), and open the address above there",
        ]
    return lines


def ssh_port(environment: dict[str, str]) -> str:
    """Return ssh's option for the port that this session came in by, "" for the usual one."""
    parts = environment.get("SSH_CONNECTION", "").split()
    return f"-p {parts[3]} " if len(parts) == 4 and parts[3] != "22" else ""


def is_remote(environment: dict[str, str]) -> bool:
    """Say whether the person sits at another machine: over SSH, or on Linux without a display."""
    if environment.get("SSH_CONNECTION"):
        return True
    no_display = not (environment.get("DISPLAY") or environment.get("WAYLAND_DISPLAY"))
    return sys.platform.startswith("linux") and no_display


def free_port(first: int) -> int:
    """Return the first port from `first` on that is free on this machine's own addresses.

    Raises:
        EnvironmentProblem: when 100 ports in a row are taken.
    """
    last = min(first + 99, 65535)
    for port in range(first, last + 1):
        if _is_free(socket.AF_INET, "127.0.0.1", port) and _is_free(socket.AF_INET6, "::1", port):
            return port
    raise EnvironmentProblem(f"Ports {first} to {last} are all taken.", mend="name another with --port")


def _is_free(family: socket.AddressFamily, address: str, port: int) -> bool:
    """Say whether a server could listen there; an address that this machine does not have is no hindrance."""
    try:
        with socket.socket(family) as probe:
            probe.bind((address, port))
    except OSError as error:
        return error.errno in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)
    return True
