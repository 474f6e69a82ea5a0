"""The set-up: what it plans on each kind of machine, what it says, and what it runs."""

import ast
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import bootstrap
import bootstrap_steps
from bootstrap_plan import Machine, Plan, SetUpProblem, plan, recent_enough

FRESH = Machine(
    python="/usr/bin/python3",
    python_version=(3, 11, 2),
    system="Linux",
    base_torch=None,
    base_packages=None,
    has_ensurepip=True,
    base_pip=(23, 0, 1),
    venv="none",
    venv_torch=None,
    up_to_date=False,
    browser=None,
    apt="chromium",
    with_sudo=False,
)
MINIMUM = (2, 11)


def said(decided: Plan) -> str:
    return "\n".join(decided.notices)


def test_too_old_python_is_named_with_the_mend():
    text = bootstrap.refusal((3, 10, 12), "/usr/bin/python3", [], "lab")
    assert "Python 3.10.12 (/usr/bin/python3) is too old" in text
    assert "3.11 or newer" in text
    assert "make lab PYTHON=" in text


def test_a_newer_python_on_the_machine_is_the_mend():
    text = bootstrap.refusal((3, 9, 2), "/usr/bin/python3", ["/opt/bin/python3.12"], "test")
    assert text.endswith("make test PYTHON=/opt/bin/python3.12")


@pytest.mark.parametrize("version", [(3, 11, 0), (3, 12, 1), (3, 13, 0), (3, 14, 0)])
def test_new_enough_pythons_are_taken(version):
    assert bootstrap.refusal(version, "python", [], "lab") == ""


def test_an_interpreter_that_does_not_start_is_no_mend(tmp_path):
    shim = tmp_path / "python3.13"
    shim.write_text("#!/bin/sh\nexit 127\n")
    shim.chmod(0o755)
    assert bootstrap.runs(sys.executable)
    assert not bootstrap.runs(str(shim))


def test_an_old_python_can_read_the_file_that_refuses_it():
    source = Path(bootstrap.__file__).read_text(encoding="utf-8")
    tree = ast.parse(source, feature_version=(3, 7))
    hints = [
        argument.annotation for node in ast.walk(tree) if isinstance(node, ast.arguments) for argument in node.args
    ]
    assert all(isinstance(hint, ast.Constant | ast.Name) for hint in hints), "evaluated by an old Python"
    at_the_top = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert {alias.name for node in at_the_top for alias in node.names} == {
        "os",
        "shutil",
        "subprocess",
        "sys",
    }


def test_fresh_machine_gets_all_and_is_told_the_size_first():
    decided = plan("lab", FRESH, MINIMUM)
    assert (decided.create, decided.sees_base, decided.install) == ("with ensurepip", False, True)
    assert decided.torch is None
    assert decided.browser == "no"
    for words in (".venv, new, with Python 3.11.2", "2.7 GB", "CPU build", "JupyterLab", "delete .venv"):
        assert words in said(decided)


def test_only_the_tests_need_a_browser():
    assert plan("test", FRESH, MINIMUM).browser == "apt"
    assert plan("test", replace(FRESH, apt="no"), MINIMUM).browser == "playwright"
    assert plan("test", replace(FRESH, browser="/usr/bin/chromium"), MINIMUM).browser == "no"
    assert "by sudo apt-get" in said(plan("test", replace(FRESH, with_sudo=True), MINIMUM))


def test_existing_pytorch_of_the_interpreter_is_kept():
    decided = plan("lab", replace(FRESH, base_torch="2.12.1+cu130"), MINIMUM)
    assert decided.sees_base
    assert decided.torch == "2.12.1+cu130"
    assert "PyTorch 2.12.1+cu130: already here, kept" in said(decided)
    assert "GB to download and 4.8 GB" not in said(decided)


def test_existing_pytorch_of_an_active_environment_is_kept():
    machine = replace(FRESH, base_torch="2.11.0", base_packages="/home/u/env/lib/python3.11/site-packages")
    assert plan("lab", machine, MINIMUM).base_packages == machine.base_packages
    assert plan("lab", replace(machine, base_torch=None), MINIMUM).base_packages is None


def test_existing_pytorch_that_is_too_old_stays_and_is_named():
    decided = plan("lab", replace(FRESH, base_torch="2.5.1"), MINIMUM)
    assert not decided.sees_base
    assert decided.torch is None
    assert "PyTorch 2.5.1 of /usr/bin/python3 is older than 2.11: it stays as it is" in said(decided)


def test_existing_environment_is_kept_with_its_pytorch():
    decided = plan("test", replace(FRESH, venv="works", venv_torch="2.13.0+cpu"), MINIMUM)
    assert (decided.create, decided.install, decided.torch) == ("no", True, "2.13.0+cpu")
    decided = plan("lab", replace(FRESH, venv="works", venv_torch="2.9.0"), MINIMUM)
    assert decided.torch is None
    assert "PyTorch 2.9.0 of .venv is older than 2.11: it is replaced" in said(decided)


def test_broken_environment_is_made_anew_and_said():
    decided = plan("lab", replace(FRESH, venv="broken", up_to_date=True), MINIMUM)
    assert (decided.create, decided.install) == ("with ensurepip", True)
    assert "made anew" in said(decided)


def test_second_run_does_nothing_and_says_nothing():
    machine = replace(FRESH, venv="works", venv_torch="2.13.0", up_to_date=True, browser="/usr/bin/chromium")
    decided = plan("test", machine, MINIMUM)
    assert (decided.create, decided.install, decided.browser, decided.notices) == ("no", False, "no", ())


def test_debian_without_venv_package_uses_its_pip():
    assert plan("lab", replace(FRESH, has_ensurepip=False), MINIMUM).create == "with this pip"


@pytest.mark.parametrize(("pip", "named"), [(None, "no pip"), ((22, 0, 2), "pip 22.0.2")])
def test_no_way_to_a_virtual_environment_is_named_with_the_mend(pip, named):
    with pytest.raises(SetUpProblem, match=rf"{named}.*apt-get install python3-venv"):
        plan("lab", replace(FRESH, has_ensurepip=False, base_pip=pip), MINIMUM)


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("2.11.0", True),
        ("2.11", True),
        ("3.0.0a0+git", True),
        ("2.10.9", False),
        ("1.13.1", False),
        ("x", False),
    ],
)
def test_version_comparison(version, expected):
    assert recent_enough(version, MINIMUM) is expected


def test_kept_pytorch_replaces_its_pin():
    decided = plan("lab", replace(FRESH, base_torch="2.12.1+cu130"), MINIMUM)
    pins = "numpy==2.4.6\ntorch==2.13.0\ntornado==6.6.1\n"
    text = bootstrap_steps.constraints_for(decided, pins)
    assert text.splitlines() == ["numpy==2.4.6", "tornado==6.6.1", "torch==2.12.1+cu130"]
    assert bootstrap_steps.constraints_for(plan("lab", FRESH, MINIMUM), pins) == pins


@pytest.mark.parametrize(("goal", "extra"), [("lab", "notebook"), ("test", "test")])
def test_pip_installs_the_goals_extra(goal, extra):
    command = bootstrap_steps.pip_command(plan(goal, FRESH, MINIMUM), Path("pins.txt"))
    assert command[-1].endswith(f"[{extra}]")
    assert command[command.index("--constraint") + 1] == "pins.txt"


@pytest.mark.parametrize(("admits", "tries"), [("torch==2.13.0\n", 2), ("", 3)])
def test_failing_pins_do_not_block_a_user_but_do_block_ci(monkeypatch, tmp_path, capsys, admits, tries):
    pins = "numpy==9.9\ntorch==2.13.0\n"
    (tmp_path / "constraints.txt").write_text(pins)
    monkeypatch.setattr(bootstrap_steps, "ROOT", tmp_path)
    monkeypatch.setattr(bootstrap_steps, "VENV", tmp_path)
    tried = []

    def run(command, mend):
        tried.append(Path(command[command.index("--constraint") + 1]).read_text())
        if tried[-1] != admits:
            raise SetUpProblem("no matching distribution")

    monkeypatch.setattr(bootstrap_steps, "_run", run)
    decided = plan("lab", FRESH, MINIMUM)
    monkeypatch.setenv("CI", "true")
    with pytest.raises(SetUpProblem, match="no matching distribution"):
        bootstrap_steps._install(decided)
    assert tried == [pins]
    monkeypatch.delenv("CI")
    bootstrap_steps._install(decided)
    assert tried[1:] == [pins, "torch==2.13.0\n", ""][:tries]
    assert "trying the tested PyTorch only" in capsys.readouterr().out


def test_pip_that_always_fails_is_said(monkeypatch, tmp_path):
    (tmp_path / "constraints.txt").write_text("")
    monkeypatch.setattr(bootstrap_steps, "ROOT", tmp_path)
    monkeypatch.setattr(bootstrap_steps, "VENV", tmp_path)
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setattr(bootstrap_steps, "PYTHON", Path(sys.executable).with_name("no-such-python"))
    with pytest.raises(SetUpProblem, match="check the network"):
        bootstrap_steps._install(plan("lab", FRESH, MINIMUM))


def test_stamp_is_void_once_the_requirements_change(monkeypatch, tmp_path):
    for name in ("pyproject.toml", "constraints.txt"):
        (tmp_path / name).write_text("a")
    monkeypatch.setattr(bootstrap_steps, "ROOT", tmp_path)
    monkeypatch.setattr(bootstrap_steps, "STAMP", tmp_path / "stamp.json")
    bootstrap_steps._write_stamp(goals=["lab"])
    assert bootstrap_steps.look("lab").up_to_date
    assert not bootstrap_steps.look("test").up_to_date
    bootstrap_steps._write_stamp(goals=["lab", "test"])
    assert bootstrap_steps.look("test").up_to_date
    (tmp_path / "constraints.txt").write_text("b")
    assert not bootstrap_steps.look("test").up_to_date
    (tmp_path / "stamp.json").write_text("[]")
    assert not bootstrap_steps.look("lab").up_to_date


def test_venv_without_a_running_python_is_broken(monkeypatch, tmp_path):
    monkeypatch.setattr(bootstrap_steps, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(bootstrap_steps, "PYTHON", tmp_path / ".venv" / "bin" / "python")
    assert bootstrap_steps.look("lab").venv == "none"
    (tmp_path / ".venv").mkdir()
    assert bootstrap_steps.look("lab").venv == "broken"
    monkeypatch.setattr(bootstrap_steps, "PYTHON", Path(sys.executable))
    assert bootstrap_steps.look("lab").venv == "works"


def test_minimum_torch_is_read_from_the_project():
    assert bootstrap_steps.minimum_torch(Path(__file__).parents[1] / "pyproject.toml") >= (2, 11)


def test_unknown_goal_is_refused(capsys):
    assert bootstrap_steps.set_up("play") == 2
    assert "Allowed: lab, test" in capsys.readouterr().err


def test_failed_step_is_named_with_the_mend_and_exit_code_2(monkeypatch, capsys):
    def fail(decided):
        bootstrap_steps._run([sys.executable, "-c", "raise SystemExit(3)"], "try again")

    monkeypatch.setattr(bootstrap_steps, "carry_out", fail)
    assert bootstrap_steps.set_up("lab") == 2
    error = capsys.readouterr().err
    assert "exit code 3" in error
    assert error.endswith("To mend it: try again\n")


def test_probe_reports_the_pytorch_of_an_interpreter():
    answer = subprocess.run([sys.executable, "-c", bootstrap_steps.PROBE], capture_output=True, text=True, check=True)
    assert json.loads(answer.stdout).startswith("2.")


def test_a_ctrl_c_is_no_traceback(monkeypatch, capsys):
    def stopped(decided):
        raise KeyboardInterrupt

    monkeypatch.setattr(bootstrap_steps, "look", lambda goal: FRESH)
    monkeypatch.setattr(bootstrap_steps, "carry_out", stopped)
    assert bootstrap_steps.set_up("lab") == 130
    assert capsys.readouterr().err == "stopped; 'make lab' again goes on\n"
