"""Save a quantized model, or quantize a source straight into a checkpoint, one layer at a time."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from workbench.calibration import Calibration
from workbench.checkpoint.atomic import new_directory
from workbench.checkpoint.card import named_config, native_card, write_card
from workbench.checkpoint.contents import Contents, Part, has_tokenizer, tokenizer_notes, write_config
from workbench.checkpoint.findings import Findings, with_layers
from workbench.checkpoint.manifest import write_manifest
from workbench.checkpoint.model_contents import ModelContents
from workbench.checkpoint.native import ModuleFormat, describe
from workbench.checkpoint.solved_contents import SolvedContents
from workbench.checkpoint.writer import MAX_SHARD_BYTES, ShardWriter
from workbench.coverage.coverage import Coverage
from workbench.measure.paired import Comparison
from workbench.portable import portable_tensors
from workbench.quantization_report import QuantizationReport
from workbench.recipe.recipe import Recipe
from workbench.records.errors import LayerResult
from workbench.records.quality import Quality
from workbench.solving import SolvedLayer
from workbench.sources import Source


def save_checkpoint(
    model: nn.Module,
    directory: Path | str,
    *,
    tokenizer: Any = None,
    overwrite: bool = False,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    report: QuantizationReport | None = None,
    quality: Quality | Comparison | None = None,
) -> Path:
    """Save a quantized model as a native checkpoint, atomically.

    Args:
        model: A model with `Int4Linear` layers.
        directory: The folder to make.
        tokenizer: Saved beside the model when given.
        overwrite: Replace a folder that exists; old or new is there at any moment, never a mixture.
        max_shard_bytes: Most bytes of a shard.
        report: What `wb.quantize_` returned: the model card then has the errors of the layers.
        quality: What `wb.measure_quality` returned, which the model card then has.

    Returns:
        The folder.

    Raises:
        CheckpointError: when the model has no int4 layer, or the folder exists or cannot be written.
        ModelError: when the model has adapters of PEFT.
    """
    contents = ModelContents(model, tokenizer)
    found = Findings(() if report is None else report.layers, quality)
    settings: dict[str, Any] = {"overwrite": overwrite, "max_shard_bytes": max_shard_bytes, "found": found}
    for _ in iter_write_native(contents, directory, **settings):
        pass
    return Path(directory)


def iter_write_quantized(
    source: Source,
    coverage: Coverage,
    recipe: Recipe,
    directory: Path | str,
    *,
    tokenizer: Any = None,
    overwrite: bool = False,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    calibration: Calibration | None = None,
    model: nn.Module | None = None,
    cancel: threading.Event | None = None,
) -> Iterator[SolvedLayer]:
    """Quantize a source straight into a checkpoint; yields each layer, and the folder appears after the last.

    `calibration` and `model` are those of `iter_quantize`.

    Raises:
        CheckpointError: when the folder exists or cannot be written.
        Cancelled: when `cancel` was set; nothing is left behind.
        WeightError: when a weight holds NaN or infinity; nothing is left behind.
    """
    contents = SolvedContents(source, coverage, recipe, tokenizer=tokenizer, calibration=calibration, model=model)
    settings: dict[str, Any] = {"overwrite": overwrite, "max_shard_bytes": max_shard_bytes, "cancel": cancel}
    for part in iter_write_native(contents, directory, **settings):
        assert part.solved is not None
        yield part.solved


def iter_write_native(
    contents: Contents,
    directory: Path | str,
    *,
    overwrite: bool = False,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    found: Findings | None = None,
    cancel: threading.Event | None = None,
) -> Iterator[Part]:
    """Write a native checkpoint, atomically; yields each int4 part, and the folder appears after the last.

    The model card says what was `found` out, and the errors of the layers that are solved on the way.

    Raises:
        CheckpointError: when the folder exists or cannot be written.
        Cancelled: when `cancel` was set; nothing is left behind.
    """
    outline = contents.outline()
    formats: dict[str, ModuleFormat] = {}
    solved: list[LayerResult] = []
    with new_directory(directory, overwrite=overwrite, need_bytes=outline.native_bytes) as folder:
        writer = ShardWriter(folder, max_shard_bytes)
        for part in contents.parts(cancel):
            if part.weight is None:
                writer.add(part.tensors)
                continue
            formats[part.name] = ModuleFormat.of(part.weight, outline.int4[part.name].experts)
            writer.add({**portable_tensors(part.weight, f"{part.name}."), **part.tensors})
            solved += [] if part.solved is None else [part.solved.result]
            yield part
        hashes = writer.finish()
        contents.write_files(folder)
        quantization = describe(formats, outline.dense_layers, outline.recipe)
        write_config(folder, {**named_config(outline), "quantization_config": quantization})
        card = native_card(Path(directory), outline.config, tokenizer=has_tokenizer(folder))
        card = replace(card, notes=(*outline.notes, *tokenizer_notes(folder)))
        write_card(folder, outline, card, with_layers(found, solved))
        write_manifest(folder, hashes)
