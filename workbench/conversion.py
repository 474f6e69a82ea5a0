"""Public calls around export targets: which fit, write one, and bring a checkpoint of another library in."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from workbench.calibration import as_calibration
from workbench.checkpoint.contents import Contents
from workbench.checkpoint.findings import Findings
from workbench.checkpoint.model_contents import ModelContents
from workbench.checkpoint.native import int4_layers
from workbench.checkpoint.solved_contents import SolvedContents
from workbench.coverage.preflight import preflight_source
from workbench.errors import CheckpointError, ConfigError
from workbench.export_checks import writable_place
from workbench.exporting import calibration_model
from workbench.foreign import int4_method, open_int4, other_library
from workbench.foreign.folder import ForeignFolder
from workbench.foreign.gguf import gguf_path
from workbench.hf.folders import local_folder
from workbench.hf.imported_names import ImportedContents
from workbench.hf.loading import load_tokenizer
from workbench.hf.reverse_names import NamedContents, layers_of_model
from workbench.hf.skeleton import open_source
from workbench.int4_source import Int4Source
from workbench.layers import model_device
from workbench.measure.paired import Comparison
from workbench.quantization_report import QuantizationReport
from workbench.recipe.recipe import RecipeLike, as_recipe
from workbench.records.quality import Quality
from workbench.sources import ModelSource, Source
from workbench.targets import NATIVE
from workbench.targets.companions import Companions
from workbench.targets.run import ExportReport, TargetTable, fits_of, iter_export_to
from workbench.targets.target import Written


def export_targets(
    model: nn.Module | str | Path, recipe: RecipeLike | None = None, *, tokenizer: Any = None, **settings: Any
) -> TargetTable:
    """Say which formats can hold a model exactly, which would round, and what to change for the others.

    Nothing is read or solved: ask before quantizing.

    Args:
        model: A model, quantized or not, a model folder, a hub name, "demo", or an int4 checkpoint.
        recipe: What becomes int4, for a model that is not quantized yet.
        tokenizer: Of a live model: GGUF carries it, and not every one can be. A folder brings its own.
        settings: As `wb.quantize_` takes them: include, exclude, solver, domain, options, output_head.

    Raises:
        ModelError, CheckpointError: when a path cannot be read.
        ConfigError: for a recipe for what is int4 already.
    """
    contents = contents_of(model, recipe, tokenizer=tokenizer, **settings)
    at_hand = tokenizer is not None or not isinstance(model, nn.Module)
    return fits_of(contents.outline(), Companions(contents.write_files) if at_hand else None)


def export(
    model: nn.Module | str | Path,
    directory: Path | str,
    format: str = NATIVE,
    *,
    recipe: RecipeLike | None = None,
    tokenizer: Any = None,
    calibration: Any = None,
    report: QuantizationReport | None = None,
    quality: Quality | Comparison | None = None,
    overwrite: bool = False,
    progress: Callable[[Written], None] | None = None,
    cancel: threading.Event | None = None,
    **settings: Any,
) -> ExportReport:
    """Write a model in a format that another engine loads, atomically.

    Args:
        model: A model with int4 layers, an int4 checkpoint; or a dense model, a folder, a hub name or "demo", which is
            then quantized under the recipe on the way, layer by layer.
        directory: The folder to make.
        format: "native", or one of those that `wb.export_targets` lists.
        recipe: What becomes int4, for a model that is not quantized yet.
        tokenizer: Written beside a live model; a folder brings its own.
        calibration: For solver="calibrated", as `wb.quantize_` takes it.
        report: What `wb.quantize_` returned for an int4 model: the model card then has the errors of the layers.
        quality: What `wb.measure_quality` returned, which the model card then has.
        overwrite: Replace a folder that exists; old or new is there at any moment, never a mixture.
        progress: Called after each int4 layer.
        cancel: Set it to stop; nothing is left behind.
        settings: As `wb.quantize_` takes them: include, exclude, solver, domain, options, output_head.

    Returns:
        What was written; print it.

    Raises:
        ConfigError: for an unknown format, or a recipe for what is int4 already.
        CheckpointError: when the format cannot hold the model, or the folder exists or cannot be written.
        ModelError: when a path cannot be read.
        Cancelled: when `cancel` was set.
    """
    place = destination(model, directory, overwrite=overwrite)
    contents = contents_of(model, recipe, tokenizer=tokenizer, calibration=calibration, **settings)
    found = Findings(() if report is None else report.layers, quality)
    for step in iter_export_to(format, contents, place, overwrite=overwrite, found=found, cancel=cancel):
        if isinstance(step, ExportReport):
            return step
        if progress is not None:
            progress(step)
    raise AssertionError("the report comes last")


def import_checkpoint(
    path: str | Path, directory: Path | str, *, overwrite: bool = False, cancel: threading.Event | None = None
) -> ExportReport:
    """Convert an int4 checkpoint of another library to the native format; codes stay as they are, bit for bit.

    Args:
        path: A folder in compressed-tensors' pack-quantized, GPTQ or AWQ form, or a GGUF file of Q4_0 and Q4_1.
        directory: The folder to make; `wb.load_checkpoint` loads it.
        overwrite: Replace a folder that exists; old or new is there at any moment, never a mixture.
        cancel: Set it to stop; nothing is left behind.

    Returns:
        What was written; print it.

    Raises:
        CheckpointError: when it is damaged, of an unknown form, or `directory` cannot be written.
        Cancelled: when `cancel` was set.
    """
    place = writable_place(directory, Path(path).expanduser(), overwrite=overwrite)
    for step in iter_export_to(NATIVE, opened_int4(path), place, overwrite=overwrite, cancel=cancel):
        if isinstance(step, ExportReport):
            return step
    raise AssertionError("the report comes last")


def contents_of(
    model: nn.Module | str | Path,
    recipe: RecipeLike | None = None,
    *,
    tokenizer: Any = None,
    calibration: Any = None,
    **settings: Any,
) -> NamedContents:
    """Return what a checkpoint is written from; see `export` for the arguments."""
    if isinstance(model, nn.Module):
        if int4_layers(model):
            _refuse_recipe(recipe, settings)
            return NamedContents(ModelContents(model, tokenizer))
        source: Source = ModelSource(model)
        device: Any = model_device(model)
    else:
        if (path := int4_path(model)) is not None:
            _refuse_recipe(recipe, settings)
            return NamedContents(opened_int4(path))
        source, device = open_source(model), "cpu"
    settled = as_recipe(recipe, **settings)
    coverage = preflight_source(source, settled, device=device)
    if not coverage.configs:
        raise ConfigError("No layer becomes int4 under this recipe.", mend="print(wb.preflight(model, recipe))")
    contents = SolvedContents(source, coverage, settled, tokenizer=tokenizer)
    if calibration is not None:
        words = load_tokenizer(model) if tokenizer is None and not isinstance(model, nn.Module) else tokenizer
        run = calibration_model(source, coverage)
        contents.calibrate(as_calibration(calibration, words, run), run)
    return NamedContents(contents)


def destination(model: nn.Module | str | Path, directory: Path | str, *, overwrite: bool) -> Path:
    """Return the folder to write, which is not the one that is read; raises as `writable_place` does."""
    read = None if isinstance(model, nn.Module) else int4_path(model) or local_folder(model)
    return writable_place(directory, read, overwrite=overwrite)


def opened_int4(path: str | Path) -> Contents:
    """Open an int4 checkpoint, native or of another library, with everything named as the model names it.

    Raises:
        CheckpointError: when it is no int4 checkpoint of a known format, or is damaged.
    """
    contents = open_int4(path)
    return ImportedContents(contents) if isinstance(contents, ForeignFolder) else contents


def int4_source(path_or_name: str | Path) -> Int4Source | None:
    """Open an int4 checkpoint by configuration and headers, no value is read; None for anything else.

    Raises:
        CheckpointError: when it is damaged, or holds what int4 codes cannot.
        ModelError: when there is no model of that name.
    """
    if (path := int4_path(path_or_name)) is None:
        return None
    contents = opened_int4(path)
    listed = layers_of_model(contents.outline().config)
    method = other_library(path) or NATIVE
    return Int4Source(contents, path, listed, name=str(path_or_name), method=method)


def int4_path(path_or_name: str | Path) -> Path | None:
    """Return the path of an int4 checkpoint, native or of another library; None for anything else."""
    path = Path(path_or_name).expanduser()
    try:
        if (file := gguf_path(path)) is not None:
            return file
        folder = local_folder(path_or_name)
        return folder if int4_method(folder) else None
    except CheckpointError:
        return None  # what it lacks is said by who opens it


def _refuse_recipe(recipe: RecipeLike | None, settings: dict[str, Any]) -> None:
    if recipe is not None or any(value not in (None, False) for value in settings.values()):
        raise ConfigError(
            "A recipe, and the model is int4 already.", mend="leave the recipe away, or name the original"
        )
