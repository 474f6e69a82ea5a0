"""From recipe to checkpoint in hand: quantize, write, load again, generate."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from workbench.calibration import Calibration
from workbench.checkpoint.contents import SolvedContents
from workbench.checkpoint.integrity import verify_checkpoint
from workbench.checkpoint.save import iter_write_native
from workbench.checkpoint.writer import size_on_disk
from workbench.coverage import Coverage
from workbench.errors import Cancelled
from workbench.quantize import SolvedBefore, needs_calibration
from workbench.recipe import Recipe
from workbench.records import LayerResult, Progress
from workbench.sources import FolderSource, ModelSource, Source

PROMPT = "The module provides"
_NEW_TOKENS = 24


@dataclass(frozen=True)
class ExportResult:
    """A written checkpoint.

    Attributes:
        directory: Where it is.
        files: Number of files.
        size_bytes: Bytes of all files.
        seconds: Time that it took, verification included, in seconds.
        layers: Errors of each int4 layer.
        verified: Whether it was checked and loaded again.
        checked: What was checked, in a phrase.
        sample: Text that the loaded checkpoint generated, or "".
    """

    directory: Path
    files: int
    size_bytes: int
    seconds: float
    layers: tuple[LayerResult, ...]
    verified: bool
    checked: str
    sample: str


def iter_export(
    source: Source,
    coverage: Coverage,
    recipe: Recipe,
    directory: Path,
    *,
    tokenizer: Any = None,
    overwrite: bool = False,
    verify: bool = True,
    calibration: Calibration | None = None,
    model: nn.Module | None = None,
    solved: SolvedBefore | None = None,
    cancel: threading.Event | None = None,
) -> Iterator[Progress | ExportResult]:
    """Write a checkpoint and check it; yields progress, and the result last.

    A calibration text is run through `model`; without one, that of a folder is loaded. What `solved` has of the layers
    is not solved again.

    Raises:
        CheckpointError: when it cannot be written, or does not load as it was saved.
        Cancelled: when `cancel` was set before the checkpoint was in place; nothing is left behind.
    """
    start = time.monotonic()
    layers: list[LayerResult] = []
    run = calibration_model(source, coverage) if model is None else model
    contents = SolvedContents(source, coverage, recipe, tokenizer=tokenizer, calibration=calibration, model=run)
    contents.solved = solved
    for part in iter_write_native(contents, directory, overwrite=overwrite, cancel=cancel):
        assert part.solved is not None  # as every part of `SolvedContents` that is int4
        layers.append(part.solved.result)
        yield replace(part.solved.progress, label=f"{part.name}, {part.solved.result.solver}")
    checked, sample = "", ""
    if verify:
        total = (coverage.int4_rows and sum(row.parameters for row in coverage.int4_rows)) or 1
        yield Progress(total, total, "verifying", time.monotonic() - start, None)
        count = verify_checkpoint(directory)
        if cancel is not None and cancel.is_set():
            raise Cancelled("Verifying was cancelled.", mend=f"the checkpoint {str(directory)!r} is whole")
        sample = sample_text(directory)
        checked = f"{count} hashes and headers, loaded again" + (" and generated" if sample else "")
    files = [path for path in directory.rglob("*") if path.is_file()]
    size_bytes = size_on_disk(directory)
    seconds = time.monotonic() - start
    yield ExportResult(directory, len(files), size_bytes, seconds, tuple(layers), verify, checked, sample)


def calibration_model(source: Source, coverage: Coverage) -> nn.Module | None:
    """Return the model that a calibration text is run through: loaded whole from a folder; None when none is needed."""
    if not needs_calibration(coverage):
        return None
    if isinstance(source, ModelSource):
        return source.model
    from workbench.hf import load_model  # late: it brings transformers

    model: nn.Module = load_model(source.path if isinstance(source, FolderSource) else source.name)[0]
    return model


def sample_text(directory: Path, prompt: str = PROMPT, new_tokens: int = _NEW_TOKENS) -> str:
    """Load a checkpoint and return greedy text after a prompt; "" for a model that does not generate text."""
    from workbench.hf import load_checkpoint  # late: it brings transformers

    model, tokenizer = load_checkpoint(directory)
    if tokenizer is None or not model.can_generate():
        return ""
    with torch.inference_mode():
        ids = tokenizer(prompt, return_tensors="pt").to(model.device)
        tokens = model.generate(**ids, max_new_tokens=new_tokens, do_sample=False)
    return str(tokenizer.decode(tokens[0], skip_special_tokens=True))
