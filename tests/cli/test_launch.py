"""Starting JupyterLab: what is said first, where it listens, and how it ends."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

import workbench.cli.launch as launch
import workbench.cli.notebooks as notebooks
from tests.tiny_models import saved
from workbench.checkpoint.writer import MAX_SHARD_BYTES
from workbench.cli.launch import (
    FIRST_NOTEBOOK,
    MODEL_VARIABLE,
    addresses,
    forecast,
    free_port,
    is_remote,
    lab_command,
)
from workbench.cli.main import main
from workbench.cli.notebooks import prepare_notebooks
from workbench.demo import demo_path, notebooks_path
from workbench.errors import EnvironmentProblem

ROOT = Path(__file__).parents[2]


class Server:
    """Stands in for JupyterLab's process, and remembers what it was started with."""

    def __init__(self, monkeypatch, code=0):
        self.command, self.environment = [], {}

        def run(command, environment):
            self.command, self.environment = command, environment
            return code

        monkeypatch.setattr(launch, "run_server", run)


@pytest.fixture
def server(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SSH_CONNECTION", raising=False)
    monkeypatch.setenv("DISPLAY", ":0")
    return Server(monkeypatch)


# --- what is said first ---------------------------------------------------------------------------------------------


def test_the_forecast_comes_from_the_headers(tmp_path):
    save_file({"a": torch.zeros(1000, 500), "b": torch.zeros(10, dtype=torch.uint8)}, tmp_path / "model.safetensors")
    found = forecast(tmp_path)
    assert (found.model_bytes, found.largest_bytes) == (2_000_010, 2_000_000)
    assert found.memory_bytes == 900e6 + 8 * 2_000_000 + min(2_000_010, MAX_SHARD_BYTES)
    assert found.pass_seconds == pytest.approx(2_000_010 / 5e8)
    assert "2.00 MB of weights" in str(found) and "0.9 GB of memory" in str(found)


def test_a_model_is_forecast_before_anything_starts(server, tmp_path, capsys):
    folder = saved("qwen2", tmp_path / "models")
    assert main(["lab", str(folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"model {folder}: ") and "memory" in lines[0] and " s for a pass" in lines[0]
    assert server.environment[MODEL_VARIABLE] == str(folder)
    assert "Ctrl-C stops it" in lines[-2] and lines[-1].startswith("open http://localhost:")


def test_the_demo_model_is_forecast_too_and_no_old_model_is_kept(server, monkeypatch, capsys):
    monkeypatch.setenv(MODEL_VARIABLE, "/some/model")
    assert main(["lab"]) == 0
    out = capsys.readouterr().out
    assert "the embedded demo model" in out and str(forecast(demo_path())) in out and "workbench lab MODEL" in out
    assert MODEL_VARIABLE not in server.environment


def test_a_relative_path_still_leads_there_from_the_notebook(server, tmp_path, monkeypatch):
    folder = saved("qwen2", tmp_path)
    monkeypatch.chdir(tmp_path)
    assert main(["lab", "qwen2"]) == 0
    assert server.environment[MODEL_VARIABLE] == str(folder)


def test_missing_packages_are_named_with_their_command(monkeypatch, capsys):
    find = launch.importlib.util.find_spec
    monkeypatch.setattr(launch.importlib.util, "find_spec", lambda name: None if name == "jupyterlab" else find(name))
    assert main(["lab"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("workbench: The notebook needs jupyterlab") and '"int4-workbench[notebook]"' in error


def test_a_model_that_is_int4_already_is_handed_over_as_it_is(server, tmp_path, capsys):
    assert main(["quantize", "demo", "--out", str(tmp_path / "int4")]) == 0
    assert main(["lab", str(tmp_path / "int4")]) == 0
    assert server.environment[MODEL_VARIABLE] == str(tmp_path / "int4")
    assert "int4 already, shown and converted as it is" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["nowhere", "no config", "quantized otherwise"])
def test_a_model_that_the_app_could_not_open_is_refused_before_the_server(kind, server, tmp_path, capsys):
    folder = tmp_path / "model"
    if kind == "no config":
        folder.mkdir()
    elif kind == "quantized otherwise":
        shutil.copytree(demo_path(), folder)
        config = json.loads((folder / "config.json").read_text()) | {"quantization_config": {"quant_method": "hqq"}}
        (folder / "config.json").write_text(json.dumps(config))
    assert main(["lab", str(folder)]) == 2
    assert server.command == []
    assert capsys.readouterr().err.splitlines()[-1].startswith("workbench: ")


# --- where ----------------------------------------------------------------------------------------------------------


def test_the_token_is_in_the_environment_and_not_in_the_command(server, capsys):
    main(["lab"])
    token = server.environment["JUPYTER_TOKEN"]
    assert len(token) == 32 and f"?token={token}" in capsys.readouterr().out
    assert not any(token in part for part in server.command)
    main(["lab"])
    assert server.environment["JUPYTER_TOKEN"] != token


@pytest.mark.parametrize(("set_before", "wanted"), [(None, "passive"), ("active", "active")])
def test_threads_give_way_to_the_page_unless_a_person_says_otherwise(server, capsys, monkeypatch, set_before, wanted):
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    if set_before is not None:
        monkeypatch.setenv("OMP_WAIT_POLICY", set_before)
    main(["lab"])
    assert server.environment["OMP_WAIT_POLICY"] == wanted
    assert ("OMP_WAIT_POLICY" in capsys.readouterr().out) is (set_before is None)


def test_the_command_names_folder_port_and_notebook(tmp_path):
    command = lab_command(tmp_path / "a folder", 8899, browser=True)
    assert command[:3] == [sys.executable, "-m", "jupyterlab"]
    assert f"--ServerApp.root_dir={tmp_path / 'a folder'}" in command
    assert "--ServerApp.port=8899" in command and "--ServerApp.port_retries=0" in command
    assert f"--LabApp.default_url=/lab/tree/{FIRST_NOTEBOOK}" in command
    assert "--Application.log_level=WARN" in command
    assert "--no-browser" not in command
    assert "--no-browser" in lab_command(tmp_path, 8899, browser=False)


def test_only_root_is_allowed_as_root_and_windows_has_none(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 0, raising=False)
    assert "--allow-root" in lab_command(tmp_path, 1, browser=False)
    monkeypatch.setattr(os, "geteuid", lambda: 1000, raising=False)
    assert "--allow-root" not in lab_command(tmp_path, 1, browser=False)
    monkeypatch.delattr(os, "geteuid")
    assert "--allow-root" not in lab_command(tmp_path, 1, browser=False)


def own_addresses():
    """Families with an address of this machine's own: a machine may be without IPv6."""
    yield socket.AF_INET, "127.0.0.1"
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6) as probe:
        probe.bind(("::1", 0))
        yield socket.AF_INET6, "::1"


@pytest.mark.parametrize(("family", "own"), list(own_addresses()))
def test_a_taken_port_is_said_and_the_next_one_used(family, own, server, capsys):
    first = free_port(20_000)
    with socket.socket(family) as taken:
        taken.bind((own, first))
        taken.listen()
        assert main(["lab", "--port", str(first)]) == 0
    port = int(re.search(r"port (\d+) is taken: using (\d+)", capsys.readouterr().out)[2])
    assert port > first and f"--ServerApp.port={port}" in server.command


def test_no_free_port_is_said(monkeypatch):
    monkeypatch.setattr(launch, "_is_free", lambda *_: False)
    with pytest.raises(EnvironmentProblem, match=r"Ports 8888 to 8987 are all taken.*--port"):
        free_port(8888)
    with pytest.raises(EnvironmentProblem, match="Ports 65530 to 65535"):
        free_port(65530)


@pytest.mark.parametrize("port", ["0", "-1", "65536"])
def test_a_port_that_is_none_is_refused(port, server, capsys):
    assert main(["lab", "--port", port]) == 2
    assert capsys.readouterr().err == f"workbench: --port {port}. Allowed: 1 to 65535.\n"


@pytest.mark.parametrize(
    ("platform", "environment", "remote"),
    [
        ("linux", {"DISPLAY": ":0"}, False),
        ("linux", {"WAYLAND_DISPLAY": "wayland-0"}, False),
        ("linux", {}, True),
        ("linux", {"DISPLAY": ":0", "SSH_CONNECTION": "1 2 3 22"}, True),
        ("darwin", {}, False),
        ("darwin", {"SSH_CONNECTION": "1 2 3 22"}, True),
        ("win32", {}, False),
    ],
)
def test_who_sits_elsewhere(platform, environment, remote, monkeypatch):
    monkeypatch.setattr(sys, "platform", platform)
    assert is_remote(environment) == remote


def test_a_remote_person_is_given_the_ssh_line_and_no_browser(server, monkeypatch, capsys):
    monkeypatch.setenv("SSH_CONNECTION", "10.0.0.1 50000 10.0.0.2 2222")
    monkeypatch.setenv("USER", "ada")
    assert main(["lab"]) == 0
    port = re.search(r"--ServerApp.port=(\d+)", " ".join(server.command))[1]
    out = capsys.readouterr().out
    assert f"ssh -N -L {port}:localhost:{port} -p 2222 ada@{socket.gethostname()}\n" in out
    assert "--no-browser" in server.command


@pytest.mark.parametrize(("names", "user"), [({"USERNAME": "ada"}, "ada"), ({"LOGNAME": "eve"}, "eve"), ({}, "user")])
def test_the_ssh_line_finds_the_users_name(names, user):
    lines = addresses(1, "t", {"SSH_CONNECTION": "a 1 b 22", **names})
    assert any(line.strip() == f"ssh -N -L 1:localhost:1 {user}@{socket.gethostname()}" for line in lines)


# --- the notebooks --------------------------------------------------------------------------------------------------


def test_notebooks_are_copied_and_a_changed_one_is_kept(tmp_path, capsys):
    folder = prepare_notebooks(tmp_path / "deep" / "books")
    shipped = sorted(path.name for path in notebooks_path().glob("*.ipynb"))
    assert sorted(path.name for path in folder.iterdir()) == shipped and FIRST_NOTEBOOK in shipped
    prepare_notebooks(folder)
    assert capsys.readouterr().out == ""
    (folder / FIRST_NOTEBOOK).write_text("mine")
    prepare_notebooks(folder)
    assert (folder / FIRST_NOTEBOOK).read_text() == "mine"
    assert "kept your" in capsys.readouterr().out


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(EnvironmentProblem, match=r"cannot be copied.*--notebook-dir"):
        prepare_notebooks(tmp_path / "file" / "books")


def test_a_notebook_is_copied_whole_or_not_at_all(tmp_path, monkeypatch):
    def full(source, target):
        Path(target).write_bytes(Path(source).read_bytes()[:100])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(notebooks.shutil, "copyfile", full)
        with pytest.raises(EnvironmentProblem, match=r"cannot be copied to '.*': No space left on device\."):
            prepare_notebooks(tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert (prepare_notebooks(tmp_path) / FIRST_NOTEBOOK).read_bytes() == (
        notebooks_path() / FIRST_NOTEBOOK
    ).read_bytes()


# --- how it ends ----------------------------------------------------------------------------------------------------


def test_the_servers_own_failure_is_said(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    Server(monkeypatch, code=3)
    assert main(["lab"]) == 2
    assert "JupyterLab ended with code 3" in capsys.readouterr().err


@pytest.mark.parametrize(("code", "given"), [(-signal.SIGINT, 0), (0xC000013A, 0), (3, 3)])
def test_a_server_that_ctrl_c_ended_while_it_started_has_not_failed(code, given, monkeypatch):
    class Starting:
        answers = iter([KeyboardInterrupt(), code])

        def wait(self):
            answer = next(self.answers)
            if isinstance(answer, BaseException):
                raise answer
            return answer

    monkeypatch.setattr(launch.subprocess, "Popen", lambda *_, **__: Starting())
    assert launch.run_server([], {}) == given


def test_a_server_that_was_killed_has_failed(monkeypatch):
    monkeypatch.setattr(launch.subprocess, "Popen", lambda *_, **__: SimpleNamespace(wait=lambda: -signal.SIGTERM))
    assert launch.run_server([], {}) == -signal.SIGTERM


def answering(out, process):
    """Wait until the address that is printed answers; returns it and what it answered."""
    for line in out:
        if line.startswith("open "):
            address = line.split()[1]
            break
    while process.poll() is None:
        try:
            with urllib.request.urlopen(address) as page:
                return address, page.read().decode()
        except OSError:
            time.sleep(0.2)
    pytest.fail("the server ended")


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c twice", "terminate"])
def test_a_real_server_answers_and_stops(stop, tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JUPYTER_CONFIG_DIR": str(tmp_path / "config")}
    command = [sys.executable, "-m", "workbench", "lab", "--no-browser", "--port", "21000"]
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        address, page = answering(process.stdout, process)
        threading.Thread(target=process.stdout.read, daemon=True).start()
        assert "jupyter" in page.lower()
        assert (tmp_path / "int4-workbench-notebooks" / FIRST_NOTEBOOK).is_file()
        contents = address.split("/lab/")[0] + "/api/contents?token="
        with urllib.request.urlopen(contents + address.split("token=")[1]) as listing:
            assert FIRST_NOTEBOOK in listing.read().decode()
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(contents + "wrong")
        if stop == signal.SIGINT:  # as a terminal does: to both, and once more
            os.killpg(process.pid, signal.SIGINT)
            time.sleep(0.5)
            os.killpg(process.pid, signal.SIGINT)
        else:
            process.send_signal(signal.SIGTERM)
        process.wait(60)
        with pytest.raises(OSError):
            urllib.request.urlopen(address)
    finally:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
