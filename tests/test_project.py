"""The project's own files agree with each other."""

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import oldest_constraints
import require_browser_tests
from tests import processes

ROOT = Path(__file__).parents[1]
CONDA_NAMES = {"pytorch": "torch"}
BROUGHT_BY_TORCH = {"triton"}  # by its builds for CUDA on Linux; nothing needs it elsewhere


def requirements(*extras: str) -> dict[str, Requirement]:
    """The requirements of pyproject.toml and of the given extras, by name."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = list(project["dependencies"])
    for extra in extras:
        lines += project["optional-dependencies"][extra]
    found = [Requirement(line) for line in lines]
    return {canonicalize_name(item.name): item for item in found if item.name != project["name"]}


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in pairs}


def test_conda_environment_has_the_same_ranges_as_pyproject():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    conda = [Requirement(line) for line in environment["dependencies"] if isinstance(line, str) and line != "pip"]
    ranges = {canonicalize_name(CONDA_NAMES.get(item.name, item.name)): item.specifier for item in conda}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert str(ranges.pop("python")) == project["requires-python"]
    assert ranges == {name: item.specifier for name, item in requirements("notebook").items()}
    assert {"pip": ["--editable=."]} in environment["dependencies"]


def test_pins_satisfy_every_range():
    pinned = pins()
    for name, item in requirements("notebook", "peft", "gguf", "test").items():
        assert name in pinned, f"{name} is not in constraints.txt"
        assert item.specifier.contains(pinned[name]), f"{item} does not admit {pinned[name]}"


def test_pins_name_releases_and_not_builds():
    assert [version for version in pins().values() if not re.fullmatch(r"[0-9][0-9a-z.]*", version)] == []


def test_the_oldest_pins_are_where_the_ranges_begin():
    text = (ROOT / "constraints-oldest.txt").read_text(encoding="utf-8")
    found = [Requirement(line) for line in text.splitlines() if not line.startswith("#")]
    oldest = {canonicalize_name(item.name): next(iter(item.specifier)).version for item in found}
    ranges = requirements("peft")
    assert set(oldest) == set(ranges) - {"torch"}
    for name, version in oldest.items():
        [least] = [item.version for item in ranges[name].specifier if item.operator == ">="]
        assert Version(version) == Version(least), name


def test_the_constraints_of_the_oldest_pin_each_package_once():
    merged = oldest_constraints.merged("# pins\na_b==2\nc==3\n", "A-B==1; python_version < '4'\n", "d==1")
    assert merged == "A-B==1; python_version < '4'\nc==3\nd==1\n"


def test_every_import_of_the_package_is_declared():
    declared = set(requirements("notebook", "peft", "gguf"))
    distributions = packages_distributions()
    for path in (ROOT / "workbench").rglob("*.py"):
        for name in imported(ast.parse(path.read_text(encoding="utf-8"))):
            if name == "workbench" or name in sys.stdlib_module_names or name in BROUGHT_BY_TORCH:
                continue
            candidates = {canonicalize_name(found) for found in distributions.get(name, [name])}
            assert candidates & declared, f"{path.name} imports {name}, which pyproject.toml lacks"


def imported(tree: ast.Module) -> set[str]:
    """The top-level names that a module imports, anywhere in it."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names.add(node.module.split(".")[0])
    return names


def test_lint_rules_are_those_of_the_house():
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    assert set(tools["ruff"]["lint"]["select"]) >= {"E", "F", "W", "B", "I", "UP", "RUF", "PTH", "D"}
    assert tools["mypy"]["strict"] is True
    relaxed = [item["module"] for item in tools["mypy"]["overrides"] if item.get("strict") is False]
    assert relaxed == ["workbench.widgets.*"]


@pytest.mark.parametrize(
    ("cases", "wrong"),
    [
        ('<testcase classname="tests.browser.test_walk" name="walk"/>', ""),
        ('<testcase classname="tests.browser.test_walk.TestWalk" name="walk"/>', ""),
        ('<testcase classname="tests.test_affine" name="a"/>', "none was collected"),
        ('<testcase classname="tests.browser.test_walk" name="walk"><skipped/></testcase>', "skipped: walk"),
    ],
)
def test_ci_notices_that_the_browser_tests_did_not_run(tmp_path, cases, wrong):
    report = tmp_path / "junit.xml"
    report.write_text(f"<testsuites><testsuite>{cases}</testsuite></testsuites>")
    found = require_browser_tests.problem(report)
    assert wrong in found
    assert bool(found) == bool(wrong)


@pytest.mark.parametrize(
    ("test", "group"),
    [
        ("tests/browser/test_walk.py::TestBadInput::test_a[x::y]", "browser"),
        ("tests/cuda/test_linear.py::test_a", "cuda"),
        ("tests/checkpoint/test_save.py::test_a", "checkpoint/test_save.py"),
        ("tests/cli/test_main.py::test_browser", "cli/test_main.py"),
    ],
)
def test_tests_that_share_a_server_stay_in_one_process(test, group):
    assert processes.group_of(test) == group


def test_the_groups_that_come_first_are_there():
    assert [name for name in (*processes.LONGEST, *processes.TOGETHER) if not (ROOT / "tests" / name).exists()] == []
    assert processes.place_of("tests/browser/test_walk.py::test_a") == 0
    first, last = "tests/cli/test_quantize_commands.py::test_a", "tests/test_affine.py::test_a"
    assert processes.place_of(first) < processes.place_of(last)


def test_ci_notices_a_missing_report(tmp_path):
    assert "no test report" in require_browser_tests.problem(tmp_path / "junit.xml")
