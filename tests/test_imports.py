"""One direction of imports: each room imports only from rooms above it, and heavy libraries have one door each."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "workbench"

# From the first room to the last. A module that is not named here belongs to the room of its package.
ORDER = """
errors not_for_transformers
sizes disk printed shell export_formats workers options resolved_config config records demo inductor
improve.allocation
blocks primitives affine portable
solvers digests
user_cache machine paths path_store layout packing device_layout tiles
triton.jit triton.products triton.blocks triton.launch triton.kernels
triton cuda_paths
packed portable_module packed_module native dequantize choice products kernels linear
stand_in kinds expert_routing experts offload layers
strict_json safetensors_header safetensors_folder stored_formats sources known_layers
recipe.patterns recipe.text recipe.presets recipe.choice recipe.rule recipe.torchao recipe.recipe recipe
recipe.edit recipe.assign recipe.nodes recipe.diff recipe.history coverage recipe.rules
forward input_tap token_sequences calibration block_chains solving_order
stopped_run upstream chain_passes solved_in_place sequential
solving quantization_report checkpoint.native quantize compiling
measure tuning
checkpoint.atomic checkpoint.mapped checkpoint.writer checkpoint.files checkpoint.manifest
checkpoint.hashing checkpoint.pieces
checkpoint.integrity checkpoint.contents checkpoint.model_tensors checkpoint.model_contents
checkpoint.solved_contents checkpoint.stored_contents
checkpoint.card_text checkpoint.findings
checkpoint.card checkpoint.save checkpoint
targets.companions targets.target targets.folder targets.stored_names targets.int32_codes targets.group_sizes
targets.int_family targets.int_target
targets.compressed_tensors targets.gptq targets.awq
targets.gguf_blocks targets.gguf_file
targets.gguf_models targets.gguf_metadata targets.gguf_tensors targets.gguf_sentencepiece
targets.gguf_spaced targets.gguf_pretokenizers targets.gguf_transformers
targets.gguf_tokenizer targets.gguf targets.mlx_models targets.mlx targets.torchao targets targets.record targets.run
foreign.gguf_reader foreign.settings foreign.gguf_config foreign.gguf_tokenizer foreign.gguf_names foreign.gguf
foreign.folder foreign.int_words foreign.compressed_tensors foreign.gptq foreign.awq foreign int4_source
hf exporting export_checks api conversion
jobs.job jobs.lane jobs improve.improvement improve.rows improve.trials improve.units improve.improve improve
views.cache views.solved_layers views.views views.groups views.ordered views.int4_layers views
calibration_text report
session.given session.events session.turns session.rooms session.details session.compare session.zoom session.ahead
session.script
session.layers session.state session.microscope session.speed session.history session.recipe
session.layer_inputs session.tokenized_text session.calibration session.sweep session.exact session.views session.words
session.twin session.model_pair session.quality_text session.quality_prompt session.quality_plan session.quality_state
session.quality_run session.prompt session.quality session.perplexity session.stored
session.improve session.decode_target session.verdict session.export session.report
session.connected session.session session.opening session
figures widgets
cli.notebooks cli.launch cli.progress cli.settings
cli.quantize_commands cli.measure_commands cli.page_commands cli.export_commands cli.inspect_commands cli.main cli
__main__
""".split()

# Foreign library → the only rooms that may import it.
DOORS = {
    "transformers": {"hf"},
    "huggingface_hub": {"hf"},
    "peft": {"hf"},
    "gguf": {"foreign.gguf"},
    "plotly": {"figures"},
    "ipywidgets": {"widgets"},
    "anywidget": {"widgets"},
    "triton": {"triton.jit", "triton.products", "triton.kernels"},
    "IPython": {"widgets"},
    "dask": {"cluster"},
    "distributed": {"cluster"},
    "pickle": set(),
    "cloudpickle": set(),
    "dill": set(),
    "joblib": set(),
    "pandas": set(),
}
LAZY = ["triton", "transformers", "peft", "plotly", "ipywidgets", "anywidget", "dask", "IPython", "pandas"]


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


def wanted(path: Path) -> set[str]:
    """Modules of ours that a file imports; one inside a package stands for itself, not for its package."""
    names = {name.removeprefix("workbench.") for name in imported(path) if name.startswith("workbench.")}
    found = names & set(MODULES)
    return found - {name for name in found if any(other.startswith(f"{name}.") for other in found)}


def room(module: str) -> str:
    return module if module in ORDER else module.split(".")[0]


def test_every_module_has_its_room_in_the_order():
    assert {module for module in MODULES if room(module) not in ORDER} == set()
    assert len(set(ORDER)) == len(ORDER)


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_only_from_rooms_above(module):
    place = ORDER.index(room(module))
    assert [other for other in wanted(MODULES[module]) if ORDER.index(room(other)) > place] == []


def test_no_modules_import_each_other_in_a_circle():
    graph = {module: wanted(path) - {module} for module, path in MODULES.items()}
    assert list(graphlib.TopologicalSorter(graph).static_order())


@pytest.mark.parametrize("library", sorted(DOORS))
def test_a_foreign_library_has_one_door(library):
    users = {name for name, path in MODULES.items() if any(n.split(".")[0] == library for n in imported(path))}
    assert {name for name in users if room(name) not in DOORS[library]} == set()
    assert library not in {name.split(".")[0] for name in imported(PACKAGE / "__init__.py")}


def test_the_checks_see_what_they_should(tmp_path):
    file = tmp_path / "one.py"
    file.write_text("def f():\n    import pickle\n    from workbench.solvers import hqq\n    from plotly import io\n")
    assert {"pickle", "plotly", "plotly.io"} <= imported(file)
    assert wanted(file) == {"solvers.hqq"}


def test_only_the_lazy_names_are_imported_by_a_name_in_a_string():
    users = {name for name, path in MODULES.items() if "importlib" in imported(path)}
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
    light = ["Int4Linear", "Int4WeightOnlyConfig", "Recipe", "bench_linear", "measure_quality"]
    light += ["compile_model", "measure_throughput", "quantize_", "quantize_weight"]
    code = (
        f"import sys; import workbench as wb; names = [getattr(wb, name) for name in {light}];"
        f"print([name for name in {LAZY} if name in sys.modules])"
    )
    assert fresh(code) == "[]"


def fresh(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
