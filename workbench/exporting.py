"""From recipe to checkpoint in hand: quantize, write, load again, generate."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from workbench.calibration import Calibration
from workbench.checkpoint.contents import Contents
from workbench.checkpoint.findings import Findings
from workbench.checkpoint.integrity import verify_checkpoint
from workbench.checkpoint.solved_contents import SolvedContents
from workbench.coverage.coverage import Coverage, needs_calibration
from workbench.errors import Cancelled
from workbench.measure.causal import stoppable
from workbench.recipe.recipe import Recipe
from workbench.records.errors import LayerResult
from workbench.records.progress import Progress
from workbench.solving import SolvedBefore
from workbench.sources import FolderSource, ModelSource, Source
from workbench.targets import NATIVE
from workbench.targets.run import ExportReport, iter_export_to, verify_export

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
        report: Format, largest difference of a weight, and the lines that load it.
    """

    directory: Path
    files: int
    size_bytes: int
    seconds: float
    layers: tuple[LayerResult, ...]
    verified: bool
    checked: str
    sample: str
    report: ExportReport


def iter_export(
    source: Source,
    coverage: Coverage,
    recipe: Recipe,
    directory: Path,
    *,
    target: str = NATIVE,
    tokenizer: Any = None,
    overwrite: bool = False,
    verify: bool = True,
    calibration: Calibration | None = None,
    model: nn.Module | None = None,
    solved: SolvedBefore | None = None,
    found: Findings | None = None,
    cancel: threading.Event | None = None,
) -> Iterator[Progress | ExportResult]:
    """Write a checkpoint and check it; yields progress, and the result last.

    A calibration text is run through `model`; without one, that of a folder is loaded. What `solved` has of the layers
    is not solved again. The model card says what was `found` out.

    Raises:
        ConfigError: for an unknown format.
        CheckpointError: when the format cannot hold it, it cannot be written, or does not load as it was saved.
        Cancelled: when `cancel` was set before the checkpoint was in place; nothing is left behind.
    """
    run = calibration_model(source, coverage) if model is None else model
    contents = SolvedContents(source, coverage, recipe, tokenizer=tokenizer, calibration=calibration, model=run)
    contents.solved = solved
    settings: dict[str, Any] = {"overwrite": overwrite, "verify": verify, "found": found, "cancel": cancel}
    yield from iter_write(contents, directory, target=target, **settings)


def iter_write(
    contents: Contents,
    directory: Path,
    *,
    target: str = NATIVE,
    overwrite: bool = False,
    verify: bool = True,
    found: Findings | None = None,
    cancel: threading.Event | None = None,
) -> Iterator[Progress | ExportResult]:
    """Write a checkpoint of contents, and check it; yields and raises as `iter_export`.

    Layers are solved on the way; codes that are there already stay as they are.
    """
    start = time.monotonic()
    layers: list[LayerResult] = []
    report: ExportReport | None = None
    forms = contents.outline().int4
    left = {name: math.prod(form.shape) for name, form in forms.items()}
    total = sum(left.values()) or 1
    for step in iter_export_to(
        target, _named(contents, target), directory, overwrite=overwrite, found=found, cancel=cancel
    ):
        if isinstance(step, ExportReport):
            report = step
        elif step.solved is not None:
            layers.append(step.solved.result)
            yield replace(step.solved.progress, label=step.solved.label)
        elif not layers:  # else a further piece of a layer that the format cuts in several
            left.pop(step.name, None)
            yield _converted(total - sum(left.values()), total, step.name, start)
    assert report is not None, "the report comes last"
    checked, sample = "", ""
    if verify:
        yield Progress(total, total, "verifying", time.monotonic() - start, None)
        checked, sample = _verified(directory, target, cancel)
    seconds = time.monotonic() - start
    held = tuple(layers)
    yield ExportResult(directory, report.files, report.size_bytes, seconds, held, verify, checked, sample, report)


def _converted(done: int, total: int, name: str, start: float) -> Progress:
    elapsed = time.monotonic() - start
    return Progress(done, total, name, elapsed, elapsed / done * (total - done) if done else None)


def _named(contents: Contents, target: str) -> Contents:
    """Let other formats than ours have the names of the hub; transformers, which knows them, is slow to import."""
    if target == NATIVE:
        return contents
    from workbench.hf.reverse_names import NamedContents

    return NamedContents(contents)


def _verified(directory: Path, target: str, cancel: threading.Event | None) -> tuple[str, str]:
    """Check what was written; return what was checked, and text that it generated ("" for none)."""
    if target != NATIVE:
        return f"{verify_export(directory)} files against their hashes", ""
    try:
        count = verify_checkpoint(directory, cancel=cancel)
        sample = sample_text(directory, cancel=cancel)
    except Cancelled:
        raise Cancelled("Verifying was cancelled.", mend=f"the checkpoint {str(directory)!r} is whole") from None
    return f"{count} hashes and headers, loaded again" + (" and generated" if sample else ""), sample


def calibration_model(source: Source, coverage: Coverage) -> nn.Module | None:
    """Return the model that a calibration text is run through: loaded whole from a folder; None when none is needed."""
    if not needs_calibration(coverage):
        return None
    if isinstance(source, ModelSource):
        return source.model
    from workbench.hf.loading import load_model  # late: it brings transformers

    model: nn.Module = load_model(source.path if isinstance(source, FolderSource) else source.name)[0]
    return model


def sample_text(
    directory: Path, prompt: str = PROMPT, new_tokens: int = _NEW_TOKENS, *, cancel: threading.Event | None = None
) -> str:
    """Load a checkpoint and return greedy text after a prompt; "" for a model that does not generate text.

    Raises:
        Cancelled: when `cancel` was set, before the model's next layer.
    """
    from workbench.hf.loading import load_checkpoint  # late: it brings transformers

    model, tokenizer = load_checkpoint(directory)
    if tokenizer is None or not model.can_generate():
        return ""
    with torch.inference_mode(), stoppable([model], cancel):
        ids = tokenizer(prompt, return_tensors="pt").to(model.device)
        tokens = model.generate(**ids, max_new_tokens=new_tokens, do_sample=False)
    return str(tokenizer.decode(tokens[0], skip_special_tokens=True))
