"""The tensors of a live model and its configuration, as a checkpoint holds them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from workbench.errors import CheckpointError
from workbench.experts import Int4Experts
from workbench.linear import Int4Linear
from workbench.offload import execution_device, offloaded_values


def model_tensors(model: nn.Module, *, read: bool = True) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Yield (module path, its own parameters and persistent buffers), declared ties once.

    Offloaded ones are read from where accelerate keeps them; without `read` they stay on the meta device.
    """
    declared = _declared_ties(model)
    for path, module in model.named_modules(remove_duplicate=False):
        own = dict(module.named_parameters(recurse=False, remove_duplicate=False))
        transient = module._non_persistent_buffers_set
        own |= {name: buffer for name, buffer in module.named_buffers(recurse=False) if name not in transient}
        prefix = f"{path}." if path else ""
        own = {name: tensor for name, tensor in own.items() if prefix + name not in declared}
        if read:
            own |= {name: found for name in own if (found := offloaded_values(module, name)) is not None}
        tensors = {prefix + name: tensor.detach() for name, tensor in own.items()}
        if tensors or isinstance(module, Int4Linear | Int4Experts):
            yield path, tensors


def _declared_ties(model: nn.Module) -> set[str]:
    """Names that transformers ties again after loading, where they share storage now."""
    ties: dict[str, str] = getattr(model, "all_tied_weights_keys", None) or {}
    parameters = dict(model.named_parameters(remove_duplicate=False))
    return {name for name, other in ties.items() if parameters.get(name) is parameters.get(other, object())}


def config_of(model: nn.Module, *, tied: bool | None) -> dict[str, Any]:
    """Return the config.json of a transformers model as it is now."""
    config = getattr(model, "config", None)
    if config is None or not hasattr(config, "to_json_string"):
        raise CheckpointError(
            f"{type(model).__name__} has no transformers configuration.",
            mend="save a transformers model, or keep model.state_dict() yourself",
        )
    data: dict[str, Any] = json.loads(config.to_json_string())
    data.pop("quantization_config", None)
    data["architectures"] = [type(model).__name__]
    dtype = getattr(model, "dtype", None)
    if dtype is not None:
        data["dtype"] = str(dtype).removeprefix("torch.")
    if tied is not None:
        data["tie_word_embeddings"] = tied
    return data


def write_model_files(model: nn.Module, tokenizer: Any, folder: Path) -> None:
    """Write generation configuration and tokenizer of a live model."""
    generation = getattr(model, "generation_config", None)
    if generation is not None:
        generation.to_json_file(folder / "generation_config.json")  # save_pretrained refuses some that models come with
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)


def refuse_empty(model: nn.Module) -> None:
    """Refuse a model with weights that have no values.

    Raises:
        CheckpointError: naming the first.
    """
    empty = [
        f"{path}.{name}"
        for path, module in model.named_modules()
        if execution_device(module) is None  # else accelerate has the values
        for name, parameter in module.named_parameters(recurse=False)
        if parameter.is_meta
    ]
    if empty:
        raise CheckpointError(
            f"{len(empty)} weights are on the meta device and have no values, first {empty[0]!r}.",
            mend="load the model with its weights",
        )
