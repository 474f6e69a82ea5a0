"""Model folders stored in FP8 or MXFP4, opened and loaded as dense ones.

transformers dequantizes them too, but refuses FP8 weights that the blocks do not divide (DeepSeek-V3 has some), and
wants accelerate; so it is handed the tensors of `DequantizedFolder`, which the source of a folder reads as well.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

from workbench.errors import ModelError
from workbench.safetensors_folder import DTYPES, SafetensorsFolder, StoredTensors
from workbench.stored_formats import DequantizedFolder, StoredFormat

_PLAIN = ("F32", "BF16", "F16")


def stored_format(config: Mapping[str, Any]) -> StoredFormat | None:
    """Return how the weights of a config.json are stored, where that can be read as dense weights; else None.

    Raises:
        ModelError: when the format is known, and one of its settings is not.
    """
    found = config.get("quantization_config")
    return StoredFormat.of(found) if isinstance(found, Mapping) else None


def dense_tensors(folder: Path, stored: StoredFormat | None, dtype: torch.dtype | None) -> StoredTensors:
    """Return a folder's tensors, dequantized on the way where they are stored in a format.

    Args:
        folder: The model folder.
        stored: Its format; None for plain weights.
        dtype: Dtype of what is dequantized; None takes the one that most other weights have.

    Raises:
        ModelError: when a tensor does not fit its format.
    """
    tensors = SafetensorsFolder(folder)
    if stored is None:
        return tensors
    return DequantizedFolder(tensors, stored, dtype or usual_dtype(tensors))


def usual_dtype(tensors: SafetensorsFolder) -> torch.dtype:
    """Return the dtype of most numbers that are plain floats, scales apart; bfloat16 where there are none."""
    counts: Counter[str] = Counter()
    for name in tensors.names():
        if tensors.dtype(name) in _PLAIN and not name.endswith("_scale_inv"):
            counts[tensors.dtype(name)] += tensors.size_bytes(name)
    return DTYPES[counts.most_common(1)[0][0]] if counts else torch.bfloat16


class _Later:
    """A tensor that is read when transformers takes it, as it takes those of safetensors."""

    def __init__(self, tensors: StoredTensors, name: str) -> None:
        self._tensors, self._name = tensors, name

    def __getitem__(self, place: Any) -> Tensor:
        return self._tensors.read(self._name)[place].contiguous()


def load_dequantized(
    folder: Path, model_class: Any, config: Any, dtype: torch.dtype | str, places: Mapping[str, Any] | None = None
) -> tuple[Any, Any]:
    """Load a model stored in FP8 or MXFP4 as a dense one; returns it and transformers' loading info.

    Args:
        folder: The model folder.
        model_class: Its class.
        config: Its configuration, which is not changed.
        dtype: Dtype of the weights; "auto" is what the configuration says.
        places: What `from_pretrained` takes about devices, `device_map` for instance.

    Raises:
        ModelError: when weights would go to disk.
    """
    wanted = config.dtype if dtype == "auto" else dtype
    wanted = getattr(torch, wanted) if isinstance(wanted, str) else wanted
    tensors = dense_tensors(folder, stored_format({"quantization_config": config.quantization_config}), wanted)
    wanted = wanted or usual_dtype(SafetensorsFolder(folder))
    plain = copy.deepcopy(config)
    del plain.quantization_config
    state = {name: _Later(tensors, name) for name in tensors.names()}
    model, found = model_class.from_pretrained(
        None,
        config=plain,
        state_dict=state,
        dtype=wanted,
        trust_remote_code=False,
        local_files_only=True,
        output_loading_info=True,
        **(places or {}),
    )
    if "disk" in getattr(model, "hf_device_map", {}).values():
        raise ModelError(
            f"{str(folder)!r} is stored in FP8 or MXFP4 and dequantized on the way: device_map puts weights on disk.",
            allowed="devices",
            mend="name devices with room for all of it, or quantize it by path: workbench quantize MODEL --out DIR",
        )
    model.config._name_or_path = model.name_or_path = str(folder)
    if model.can_generate() and (folder / "generation_config.json").is_file():
        model.generation_config = transformers.GenerationConfig.from_pretrained(folder, local_files_only=True)
    return model, found
