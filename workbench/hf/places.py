"""Before transformers fills a model: whether what the folder holds and what the model has are the same tensors."""

from __future__ import annotations

import math
import os
import re
from pathlib import Path
from typing import Any

from workbench.checkpoint.integrity import check_before_load
from workbench.checkpoint.native import ModuleFormat
from workbench.errors import CheckpointError
from workbench.safetensors_folder import SafetensorsFolder

_SMALL = 2**24  # elements that transformers may make up before it says that they are missing
_LEAST_BUFFER_BYTES = 2**28


def check_checkpoint(model: Any, files: list[Any], modules: dict[str, ModuleFormat]) -> None:
    """Check the folder of the shards that transformers is about to open, and the model against it.

    Raises:
        CheckpointError: naming what is damaged, or a file that is none of the checkpoint's shards.
    """
    paths = [Path(os.fspath(file)) for file in files]
    if not paths:
        return
    folder = check_before_load(paths[0].parent)
    for path in paths:
        if path.parent != folder.path or path.name not in folder.header_sha256:
            raise CheckpointError(
                f"transformers reads {str(path)!r}, which is none of the checkpoint's shards.",
                mend="name the checkpoint's folder",
            )
    check_places(model, folder, modules)


def check_places(model: Any, folder: SafetensorsFolder, modules: dict[str, ModuleFormat]) -> None:
    """Refuse a checkpoint whose model has more than its files warrant, lacks weights, or has no place for some.

    What is renamed on loading is compared by its number of elements only.

    Args:
        model: As transformers built it, on the meta device.
        folder: The checkpoint.
        modules: Module path → form of each int4 weight.

    Raises:
        CheckpointError: naming the first such tensor.
    """
    own = {f"{name}.{suffix}" for name, form in modules.items() for suffix in form.tensors()}
    state = {name: tensor.numel() for name, tensor in model.state_dict().items() if not _is_int4(name, modules)}
    stored = {name: math.prod(folder.shape(name)) for name in folder.names() if name not in own}
    wrong = [name for name in state.keys() & stored if state[name] != stored[name]]
    if wrong:
        name = min(wrong)
        raise CheckpointError(
            f"{name!r} has {stored[name]} elements in the checkpoint, {state[name]} in the model.",
            mend="config.json does not belong to these weights",
        )
    tied = set(getattr(model, "all_tied_weights_keys", None) or {})
    lost = {name: size for name, size in state.items() if name not in stored and name not in tied}
    spare = {name: size for name, size in stored.items() if name not in state}
    _check_lost(model, folder, lost, spare)
    _check_buffers(model, folder)


def _check_lost(model: Any, folder: SafetensorsFolder, lost: dict[str, int], spare: dict[str, int]) -> None:
    """Of two sets of names, one alone cannot be due to renaming."""
    lost = {name: n for name, n in lost.items() if not _ignored(name, model, "_keys_to_ignore_on_load_missing")}
    spare = {name: n for name, n in spare.items() if not _ignored(name, model, "_keys_to_ignore_on_load_unexpected")}
    if lost and (not spare or sum(lost.values()) > sum(spare.values()) + _SMALL):
        raise CheckpointError(
            f"{str(folder.path)!r} lacks {len(lost)} weights of the model, first {min(lost)!r}: they would be random.",
            mend="download or copy the folder again",
        )
    if spare and not lost:
        raise CheckpointError(
            f"The model has no place for {len(spare)} tensors of {str(folder.path)!r}, first {min(spare)!r}.",
            mend="config.json does not belong to these weights",
        )


def _check_buffers(model: Any, folder: SafetensorsFolder) -> None:
    """Buffers that are not stored are made up on loading: masks and angles, never larger than the weights."""
    persistent = set(model.state_dict())
    made = sum(buffer.nbytes for name, buffer in model.named_buffers() if name not in persistent)
    allowed = max(_LEAST_BUFFER_BYTES, sum(folder.size_bytes(name) for name in folder.names()))
    if made > allowed:
        raise CheckpointError(
            f"The model of config.json has buffers of {made} bytes.",
            allowed=f"up to {allowed} for a checkpoint of this size",
            mend="config.json is damaged",
        )


def _is_int4(name: str, modules: dict[str, ModuleFormat]) -> bool:
    return name in modules or (name.endswith(".weight") and name.removesuffix(".weight") in modules)


def _ignored(name: str, model: Any, attribute: str) -> bool:
    return any(re.search(pattern, name) for pattern in getattr(model, attribute, None) or ())
