"""Compile a quantized model with the compiler settings that its configuration asks for, and leave the process's alone.

`torch.compile` compiles late: at the first call, and again for what a later call brings that is new. Here the settings
hold whenever that happens, for just as long as it takes.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from workbench.errors import ConfigError, ModelError
from workbench.inductor import inductor_settings
from workbench.quantize import RECIPE_ATTRIBUTE
from workbench.recipe.recipe import Recipe

_INDUCTOR = "inductor"


def compile_model(
    model: nn.Module,
    *,
    set_inductor_config: bool | None = None,
    fullgraph: bool = False,
    dynamic: bool | None = None,
    mode: str | None = None,
    backend: str | Callable[..., Any] = _INDUCTOR,
) -> nn.Module:
    """Compile a model in place, as `model.compile` does, so that its `generate` runs compiled too.

    Nothing is compiled yet: that happens at the first call, and again when the shapes of a later call need it. While
    it does, and only then, the recommended inductor settings hold (see `workbench.inductor`).

    Args:
        model: A model, quantized or not.
        set_inductor_config: Whether the recommended settings are used; None follows the configurations that the model
            was quantized with: True when all of them ask for the settings, or there are none.
        fullgraph: Raise where the model cannot be compiled as one graph.
        dynamic: True: sizes may vary from the start; False: each is compiled for itself; None: from the second on.
        mode: "default", "reduce-overhead", "max-autotune" or "max-autotune-no-cudagraphs", as torch.compile takes it.
        backend: "inductor", or another backend of torch.compile, which has no use for the settings and gets none.

    Returns:
        The same model.

    Raises:
        ModelError: for what is no module.
        ConfigError: for an unknown mode, or one given to another backend.
    """
    if not isinstance(model, nn.Module):
        raise ModelError(
            f"A {type(model).__name__} cannot be compiled.", allowed="a live model, as load_model gives it"
        )
    if backend == _INDUCTOR:
        wanted = _recommended(model) if set_inductor_config is None else set_inductor_config
        backend = _Inductor(wanted, mode_options(mode))
    elif mode is not None:
        raise ConfigError(f"mode={mode!r} with backend={backend!r}.", allowed="a mode of inductor, with inductor")
    model.compile(fullgraph=fullgraph, dynamic=dynamic, backend=backend, **_limits())
    return model


def _limits() -> dict[str, Any]:
    """Give each model its own count of compiled forms, where torch can: those of one class share one limit (8) else."""
    return {"isolate_recompiles": True} if "isolate_recompiles" in inspect.signature(torch.compile).parameters else {}


def mode_options(mode: str | None) -> dict[str, Any]:
    """Return the settings of inductor that a mode of torch.compile stands for.

    Raises:
        ConfigError: for an unknown mode.
    """
    from torch._inductor import list_mode_options  # slow to import, and only those who compile need it

    known: dict[str, dict[str, Any]] = list_mode_options()
    if mode is not None and mode not in known:
        raise ConfigError(f"mode={mode!r}.", allowed=", ".join(known))
    return {} if mode is None else dict(known[mode])


class _Inductor:
    """Inductor as a backend of torch.compile, with the recommended settings while it works.

    A gradient's graph is compiled when it is first needed, long after the call that made its forward: so the settings
    are applied around each compilation of a graph, and not around the call alone.
    """

    def __init__(self, recommended: bool, options: dict[str, Any]) -> None:
        self._recommended, self._options = recommended, options

    def __call__(self, graph: Any, example_inputs: Any) -> Any:
        from torch._inductor.compile_fx import compile_fx, compile_fx_inner

        def compile_graph(*args: Any, **kwargs: Any) -> Any:
            with inductor_settings(self._recommended):
                return compile_fx_inner(*args, **kwargs)

        with inductor_settings(self._recommended):
            return compile_fx(graph, example_inputs, inner_compile=compile_graph, config_patches=self._options or None)


def _recommended(model: nn.Module) -> bool:
    """Say whether the configurations that a model was quantized with ask for the settings; True without any."""
    recipe = getattr(model, RECIPE_ATTRIBUTE, None)
    if not isinstance(recipe, Recipe):
        return True
    choices = (recipe.default, *(rule.choice for rule in recipe.rules))
    return all(choice.config.set_inductor_config for choice in choices if choice is not None)
