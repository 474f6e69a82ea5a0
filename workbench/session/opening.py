"""Opening a session: what may be given as a model, and the device that a person expects it to run on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from workbench.errors import ModelError
from workbench.known_layers import open_known
from workbench.layers import model_device
from workbench.recipe.recipe import Recipe
from workbench.session.given import given_of
from workbench.session.session import Session
from workbench.sources import ModelSource, Source


def open_session(
    model: nn.Module | Source | str | Path,
    tokenizer: Any = None,
    *,
    device: torch.device | str | None = None,
    **settings: Any,
) -> Session:
    """Make a session over a live model, a source of weights, a model folder, a hub name, or "demo".

    A model that is int4 already, live or on disk in any format that `wb.import_checkpoint` reads, is taken as it is,
    to be looked at, timed and converted; with a `recipe`, that is for what is dense in it still.

    Args:
        model: A live model is not changed, a folder is read by header and slice.
        tokenizer: Saved beside an exported checkpoint of a live model (a folder brings its own).
        device: Device that will run the layers; None is where a live model is, and for all else "cuda" when this
            machine has it, or the CPU.
        settings: Other attributes of `Session`.

    Raises:
        ModelError: when the model cannot be read, or is no model at all.
        CheckpointError: when an int4 checkpoint is damaged, or holds what int4 codes cannot.
    """
    source: Any = ModelSource(model) if isinstance(model, nn.Module) else model
    if isinstance(source, str | Path):
        source = open_known(source) or _opened(source)
    if not isinstance(source, Source):
        raise ModelError(
            f"{type(model).__name__} is no model.", allowed="an nn.Module, a model folder, a hub name, or 'demo'"
        )
    reason = ""
    if device is None:
        device, reason = default_device(source)
    if "recipe" not in settings and (given := given_of(source, tokenizer)) is not None:
        settings |= {"given": given, "recipe": Recipe(None)}
    return Session(source, tokenizer, str(device), reason, **settings)


def default_device(source: Source) -> tuple[str, str]:
    """Return the device that a person expects, and why."""
    if isinstance(source, ModelSource):
        device = model_device(source.model)
        if device.type != "meta":
            return str(device), "where the model is"
    if torch.cuda.is_available():
        return "cuda", "which this machine has"
    return "cpu", "for this machine has no CUDA device"


def _opened(path_or_name: str | Path) -> Source:
    # Both take longer to import than a first view to show.
    from workbench.conversion import int4_source
    from workbench.hf.skeleton import open_source

    return int4_source(path_or_name) or open_source(path_or_name)
