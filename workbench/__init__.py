"""Int4 Workbench: int4 weight-only quantization for PyTorch's tinygemm kernels, seen while it is chosen.

    import workbench as wb

    wb.Workbench("path or hub name")  # the app, in a notebook; nothing given: the demo model
    model, tokenizer = wb.load_model("path or hub name")  # or wb.demo_model()
    cfg = wb.Int4WeightOnlyConfig(group_size=64)
    print(wb.preflight(model, cfg))  # every weight: int4 or not, and why
    print(wb.quantize_(model, cfg))  # in place
    wb.save_checkpoint(model, "folder", tokenizer=tokenizer)

Where to begin, by task:
    see and choose: Workbench, PreflightTable, preflight
    settings: Int4WeightOnlyConfig, Recipe, HqqOptions, RefinedOptions, CalibratedOptions
    quantize: load_model, demo_model, quantize_, quantize_weight, Int4Linear, compile_model
    keep and hand on: save_checkpoint, load_checkpoint, export_targets, export, import_checkpoint, TransformersConfig
    measure: bench_linear, tune, measure_quality, measure_throughput

Names are imported when they are first asked for, so that `import workbench` costs next to nothing.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "CalibratedOptions": "options",
    "HqqOptions": "options",
    "Int4Linear": "linear",
    "Int4WeightOnlyConfig": "config",
    "MappingType": "config",
    "QuantizedWeight": "affine",
    "PreflightTable": "widgets.preflight",
    "Recipe": "recipe.recipe",
    "RefinedOptions": "options",
    "TensorCoreTiledLayout": "config",
    "TransformersConfig": "hf.quantizer",
    "Workbench": "widgets.app",
    "WorkbenchError": "errors",
    "ZeroPointDomain": "config",
    "bench_linear": "measure.speed",
    "choose_qparams_affine": "affine",
    "compile_model": "compiling",
    "demo_calibration_text": "demo",
    "demo_model": "hf.loading",
    "dequantize_affine": "affine",
    "export": "conversion",
    "export_targets": "conversion",
    "import_checkpoint": "conversion",
    "load_checkpoint": "hf.loading",
    "load_model": "hf.loading",
    "measure_quality": "measure.quality",
    "measure_throughput": "measure.throughput",
    "preflight": "api",
    "quantize_": "quantize",
    "quantize_affine": "affine",
    "quantize_weight": "solvers",
    "save_checkpoint": "checkpoint.save",
    "tune": "tuning",
}

__all__ = sorted([*_HOMES, "__version__"])
_WIDGETS = ("ipywidgets", "anywidget", "traitlets")  # packages of the extra "notebook" that the widgets need

if TYPE_CHECKING:
    from workbench.affine import QuantizedWeight as QuantizedWeight
    from workbench.affine import choose_qparams_affine as choose_qparams_affine
    from workbench.affine import dequantize_affine as dequantize_affine
    from workbench.affine import quantize_affine as quantize_affine
    from workbench.api import preflight as preflight
    from workbench.checkpoint.save import save_checkpoint as save_checkpoint
    from workbench.compiling import compile_model as compile_model
    from workbench.config import Int4WeightOnlyConfig as Int4WeightOnlyConfig
    from workbench.config import MappingType as MappingType
    from workbench.config import TensorCoreTiledLayout as TensorCoreTiledLayout
    from workbench.config import ZeroPointDomain as ZeroPointDomain
    from workbench.conversion import export as export
    from workbench.conversion import export_targets as export_targets
    from workbench.conversion import import_checkpoint as import_checkpoint
    from workbench.demo import demo_calibration_text as demo_calibration_text
    from workbench.errors import WorkbenchError as WorkbenchError
    from workbench.hf.loading import demo_model as demo_model
    from workbench.hf.loading import load_checkpoint as load_checkpoint
    from workbench.hf.loading import load_model as load_model
    from workbench.hf.quantizer import TransformersConfig as TransformersConfig
    from workbench.linear import Int4Linear as Int4Linear
    from workbench.measure.quality import measure_quality as measure_quality
    from workbench.measure.speed import bench_linear as bench_linear
    from workbench.measure.throughput import measure_throughput as measure_throughput
    from workbench.options import CalibratedOptions as CalibratedOptions
    from workbench.options import HqqOptions as HqqOptions
    from workbench.options import RefinedOptions as RefinedOptions
    from workbench.quantize import quantize_ as quantize_
    from workbench.recipe.recipe import Recipe as Recipe
    from workbench.solvers import quantize_weight as quantize_weight
    from workbench.tuning import tune as tune
    from workbench.widgets.app import Workbench as Workbench
    from workbench.widgets.preflight import PreflightTable as PreflightTable


def __getattr__(name: str) -> Any:
    """Import the module that holds `name` on first use."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if _HOMES[name].startswith("widgets.") and (missing := _missing()):
        from workbench.errors import EnvironmentProblem

        what = f"wb.{name} needs {', '.join(missing)}, which this Python does not have."
        raise EnvironmentProblem(what, mend='pip install "int4-workbench[notebook]"')
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names that can be had here: a prompt asks for each of them to complete one."""
    without = _missing()
    return [name for name in __all__ if not (without and _HOMES.get(name, "").startswith("widgets."))]


def _missing() -> list[str]:
    """Name the packages of the widgets that are not installed."""
    return [name for name in _WIDGETS if importlib.util.find_spec(name) is None]
