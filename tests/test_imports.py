"""One direction of imports: each room imports only from rooms above it, and heavy libraries have one door each."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "workbench"

# From the first to the last room; modules of a row in braces would import each other in no direction.
ORDER = """
errors config records demo inductor
blocks primitives affine portable
solvers.rtn solvers.hqq solvers
packing kernels linear layers
sources recipe recipe_edit coverage quantize
measure measure.timing measure.errors measure.speed
checkpoint checkpoint.native checkpoint.writer checkpoint.integrity checkpoint.save
hf exporting export_checks api
jobs views script session figures
widgets.component
widgets.commands widgets.facts widgets.form widgets.heatmap widgets.layer_table widgets.line_chart widgets.status
widgets.panel
widgets.layers_panel widgets.configure_panel widgets.errors_panel widgets.speed_panel widgets.export_panel
widgets.app widgets
launch cli
""".split()

# Foreign library → the only rooms that may import it.
DOORS = {
    "transformers": {"hf"},
    "huggingface_hub": {"hf"},
    "plotly": {"figures"},
    "ipywidgets": {"widgets"},
    "anywidget": {"widgets"},
    "IPython": {"widgets"},
    "dask": {"cluster"},
    "distributed": {"cluster"},
    "pickle": set(),
    "cloudpickle": set(),
    "dill": set(),
    "joblib": set(),
    "pandas": set(),
}
LAZY = ["transformers", "plotly", "ipywidgets", "anywidget", "dask", "IPython", "pandas"]


def modules() -> dict[str, Path]:
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if name:
            found[name] = path
    return found


MODULES = modules()


def imported(path: Path) -> set[str]:
    """Every module that a file imports anywhere, `from a import b` giving both "a" and "a.b"."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def rooms(path: Path) -> set[str]:
    """Rooms that a file imports; a module of a package stands for itself, not for its package."""
    wanted = {name.removeprefix("workbench.") for name in imported(path) if name.startswith("workbench.")}
    found = wanted & set(MODULES)
    packages = {room for room in found if any(other.startswith(f"{room}.") for other in found)}
    return found - packages


def test_every_room_has_its_place_in_the_order():
    assert set(MODULES) - set(ORDER) == set()
    assert len(set(ORDER)) == len(ORDER)


@pytest.mark.parametrize("room", sorted(MODULES))
def test_imports_only_from_rooms_above(room):
    above = ORDER[: ORDER.index(room)]
    assert sorted(rooms(MODULES[room]) - {*above}) == []


@pytest.mark.parametrize("library", sorted(DOORS))
def test_a_foreign_library_has_one_door(library):
    users = {room for room, path in MODULES.items() if any(n.split(".")[0] == library for n in imported(path))}
    users |= {"__init__"} & {n.split(".")[0] for n in imported(PACKAGE / "__init__.py") if n.split(".")[0] == library}
    doors = DOORS[library]
    assert {room for room in users if room not in doors and room.split(".")[0] not in doors} == set()


def test_the_checks_see_what_they_should(tmp_path):
    file = tmp_path / "one.py"
    file.write_text("def f():\n    import pickle\n    from workbench.solvers import hqq\n    from plotly import io\n")
    assert {"pickle", "plotly", "plotly.io"} <= imported(file)
    assert rooms(file) == {"solvers.hqq"}


def test_only_the_lazy_names_are_imported_by_a_name_in_a_string():
    users = {room for room, path in MODULES.items() if "importlib" in imported(path)}
    assert users <= {"widgets"}


def calls(path: Path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}


@pytest.mark.parametrize(
    "path", sorted([*PACKAGE.rglob("*.py"), *(ROOT / "scripts").glob("*.py")]), ids=lambda p: p.name
)
def test_no_code_of_a_checkpoint_is_ever_run(path):
    for function, keywords in calls(path):
        assert keywords.get("trust_remote_code", "False") == "False", function
        if function == "torch.load":
            assert path.parent != PACKAGE and keywords.get("weights_only") == "True", "pickles run code when read"
        assert function not in ("eval", "exec", "os.system", "torch.hub.load")


def test_importing_the_package_pulls_in_no_heavy_library():
    code = f"import sys, torch; import workbench; print([name for name in {LAZY} if name in sys.modules])"
    assert fresh(code) == "[]"


def test_each_public_name_pulls_in_only_what_it_needs():
    light = ["Int4Linear", "Int4WeightOnlyConfig", "Recipe", "bench_linear", "quantize_", "quantize_weight"]
    code = (
        f"import sys; import workbench as wb; names = [getattr(wb, name) for name in {light}];"
        f"print([name for name in {LAZY} if name in sys.modules])"
    )
    assert fresh(code) == "[]"


def fresh(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
