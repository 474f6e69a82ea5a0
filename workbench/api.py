"""Public calls that take a live model as well as a path."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from torch import nn

from workbench.config import Domain
from workbench.coverage.coverage import Coverage
from workbench.coverage.preflight import preflight_source
from workbench.hf.skeleton import open_source
from workbench.layers import model_device
from workbench.options import SolverName, SolverOptions
from workbench.recipe.recipe import RecipeLike, as_recipe
from workbench.sources import ModelSource, Source


def preflight(
    model: nn.Module | str | Path,
    recipe: RecipeLike | None = None,
    *,
    include: str | Iterable[str] | None = None,
    exclude: str | Iterable[str] | None = None,
    solver: SolverName | None = None,
    domain: Domain | None = None,
    options: SolverOptions | None = None,
    output_head: bool = False,
    min_coverage: float = 0.0,
    device: torch.device | str | None = None,
) -> Coverage:
    """Say what would become int4, what would not, and why; no weight is read or changed.

    Args:
        model: A live model, a model folder, a hub name, or "demo".
        recipe: A configuration for all linear layers but the output head, a recipe, or torchao's dictionary of names to
            configurations (`FqnToConfig`).
        include: Patterns of the layers to quantize.
        exclude: Patterns of layers to leave dense.
        solver: "rtn", "hqq", "refined" or "calibrated"; None follows the configuration.
        domain: "float", "int" or "symmetric"; None follows the configuration.
        options: Settings of the solver (`HqqOptions`, ...); None takes its defaults.
        output_head: Whether the output head becomes int4 too. Decoding reads all of it for each token; where it shares
            the embedding's weight, the tie is ended, said, and the embedding stays dense.
        min_coverage: Least share of the linear layers' bytes that must become int4, 0 to 1.
        device: Device that will run the layers; None is the model's own, or the CPU for a path.

    Returns:
        The coverage; print it.

    Raises:
        ModelError: when a path cannot be read.
        PatternError: for a pattern that matches nothing.
        ConfigError: when less than `min_coverage` would become int4.
    """
    settled = as_recipe(
        recipe,
        include=include,
        exclude=exclude,
        solver=solver,
        domain=domain,
        options=options,
        output_head=output_head,
    )
    source: Source = ModelSource(model) if isinstance(model, nn.Module) else open_source(model)
    if device is None:
        device = model_device(model) if isinstance(model, nn.Module) else "cpu"
    return preflight_source(source, settled, device=device, min_coverage=min_coverage)
