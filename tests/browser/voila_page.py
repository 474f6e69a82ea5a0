"""A notebook as a stand-alone page: a real Voilà that runs it when the page is opened."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import nbformat
from notebook_page import environment, free_port


@dataclass(frozen=True)
class VoilaServer:
    """A running Voilà over a folder of notebooks.

    Attributes:
        url: Its address without a path.
        root: The folder that it serves.
        process: Its process, leader of its own process group.
    """

    url: str
    root: Path
    process: subprocess.Popen[bytes]

    @classmethod
    def start(cls, folder: Path) -> VoilaServer:
        """Start a server with its state and notebooks under `folder`, and wait until it answers."""
        root, port = folder / "root", free_port()
        root.mkdir()
        command = [
            *(sys.executable, "-m", "voila", str(root), "--no-browser", "--Voila.ip=127.0.0.1", f"--port={port}"),
            *("--token=", "--strip_sources=True", "--VoilaConfiguration.allow_theme_override=YES"),
        ]
        with (folder / "voila.log").open("wb") as log:
            process = subprocess.Popen(
                command, env=environment(folder), stdout=log, stderr=log, start_new_session=True, cwd=root
            )
        server = cls(f"http://127.0.0.1:{port}", root, process)
        try:
            server._wait_ready(folder / "voila.log")
        except BaseException:
            server.stop()
            raise
        return server

    def add(self, name: str, cells: Sequence[str]) -> str:
        """Put a notebook of these cells there, and return the address of its page."""
        book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
        book.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
        nbformat.write(book, self.root / f"{name}.ipynb")
        return f"{self.url}/voila/render/{name}.ipynb"

    def _wait_ready(self, log: Path) -> None:
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                urllib.request.urlopen(f"{self.url}/", timeout=5).close()
                return
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                time.sleep(0.1)
        raise RuntimeError(f"Voilà did not start:\n{log.read_text(encoding='utf-8')[-4000:]}")

    def stop(self) -> None:
        """End the server and its kernels."""
        try:
            self.process.terminate()
            self.process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
