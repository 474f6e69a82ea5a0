"""Load models, tokenizers and int4 checkpoints.

There is one loader: `load_checkpoint` calls the same `from_pretrained` as `load_model`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers

from workbench.checkpoint.contents import has_tokenizer
from workbench.checkpoint.files import check_files
from workbench.checkpoint.integrity import check_before_load, read_quantization, verify_checkpoint
from workbench.checkpoint.native import parse
from workbench.demo import demo_path
from workbench.errors import CheckpointError, ModelError, WorkbenchError
from workbench.foreign import how_to_import, other_library
from workbench.hf.dequantized import load_dequantized, stored_format
from workbench.hf.folders import is_native, local_folder, read_config
from workbench.hf.placement import DeviceMap, loading_dtype, placement
from workbench.hf.quiet import quiet
from workbench.hf.skeleton import model_class_of, model_config
from workbench.safetensors_folder import SafetensorsFolder


def load_model(
    path_or_name: str | Path,
    *,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device | None = None,
    device_map: DeviceMap | None = None,
    max_memory: Mapping[int | str, int | str] | None = None,
    offload_folder: str | Path | None = None,
    torch_dtype: str | torch.dtype | None = None,
) -> tuple[Any, Any]:
    """Load a transformers model and its tokenizer (None when it has none); safetensors only, no remote code.

    Args:
        path_or_name: A model folder, a hub name, or "demo".
        dtype: dtype of the weights, or its name; "auto" is what the checkpoint says.
        device: Where to put the model.
        device_map: As in transformers: "auto", a device, or a dictionary from module to device or "disk".
        max_memory: For device_map="auto": most bytes for each device, as numbers or as "10GiB".
        offload_folder: Where weights go that device_map puts on disk, if the checkpoint does not hold them as they are.
        torch_dtype: The older name of dtype.

    Raises:
        ModelError: when the model cannot be found, read or built.
        ConfigError: for arguments that contradict each other, or an unknown dtype or device.
    """
    wanted, places = loading_dtype(dtype, torch_dtype), placement(device, device_map, max_memory, offload_folder)
    folder = local_folder(path_or_name)
    model = _from_pretrained(folder, dtype=wanted, device=device, places=places)
    return model, _tokenizer(folder)


def load_checkpoint(
    directory: str | Path,
    *,
    verify: bool = False,
    device: str | torch.device | None = None,
    device_map: DeviceMap | None = None,
    max_memory: Mapping[int | str, int | str] | None = None,
    offload_folder: str | Path | None = None,
) -> tuple[Any, Any]:
    """Load a native checkpoint; returns (model, tokenizer or None).

    Args:
        directory: A folder that `save_checkpoint` or `workbench quantize` made.
        verify: Check every hash first.
        device: Where to put the model; its layout is made there.
        device_map: As in transformers: "auto", a device, or a dictionary from module to device or "disk"; int4 layers
            are never left on disk.
        max_memory: As in `load_model`.
        offload_folder: As in `load_model`.

    Raises:
        ConfigError: for an unknown device, or both ways to name one.
        CheckpointError: when the checkpoint is damaged, of another format, or of a newer version.
    """
    folder, places = Path(directory).expanduser(), placement(device, device_map, max_memory, offload_folder)
    if method := other_library(folder):
        raise CheckpointError(
            f"{str(folder)!r} is an int4 checkpoint in {method}'s format.",
            allowed="a checkpoint of the workbench",
            mend=f"{how_to_import(folder)}; then wb.load_checkpoint(out)",
        )
    if folder.is_dir():
        check_files(folder)
    parse(read_quantization(folder))
    if verify:
        verify_checkpoint(folder)
    try:
        model = _from_pretrained(folder, device=device, places=places)
        return model, _tokenizer(folder)
    except ModelError as error:
        raise CheckpointError(error.what, allowed=error.allowed, mend=error.mend) from error


def load_tokenizer(path_or_name: str | Path) -> Any:
    """Load a model's tokenizer alone; None when it has none.

    Args:
        path_or_name: A model folder, a hub name, or "demo".

    Raises:
        ModelError: when the model cannot be found, or its tokenizer is damaged.
    """
    return _tokenizer(local_folder(path_or_name))


def demo_model() -> tuple[Any, Any]:
    """Return the embedded demo model and its tokenizer; no download, no progress bar."""
    with quiet():
        return load_model(demo_path())


def _from_pretrained(
    folder: Path, *, dtype: str | torch.dtype = "auto", device: Any = None, places: dict[str, Any] | None = None
) -> Any:
    native = is_native(read_config(folder))
    if native:
        _check_native(folder)
    config = model_config(folder)
    model_class = model_class_of(config)
    SafetensorsFolder(folder)  # a missing, truncated or foreign shard is named here, before anything is built
    try:
        if stored_format(read_config(folder)) is not None:
            model, found = load_dequantized(folder, model_class, config, dtype, places)
        else:
            model, found = model_class.from_pretrained(
                folder,
                dtype=dtype,
                trust_remote_code=False,
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
                **(places or {}),
            )
    except WorkbenchError:
        raise
    except Exception as error:  # transformers raises many kinds; the person needs the model and the reason
        mend = "check device_map and offload_folder, and the model's files" if places else "check its files"
        raise ModelError(f"The model {str(folder)!r} cannot be loaded: {error}", mend=mend) from error
    _refuse_missing(folder, sorted(found["missing_keys"]))
    if native and found["unexpected_keys"]:
        raise CheckpointError(
            f"The model has no place for the tensor {min(found['unexpected_keys'])!r} of {str(folder)!r}.",
            mend="config.json does not belong to these weights",
        )
    return model if device is None else model.to(device)


def _check_native(folder: Path) -> None:
    """Check all that is known without reading values, before transformers opens any file."""
    check_before_load(folder)
    if (folder / "adapter_config.json").exists():
        raise CheckpointError(
            f"{str(folder)!r} holds an adapter too, and transformers would load the model that it names instead.",
            mend="put adapter_config.json and the adapter's weights into a folder of their own",
        )


def _refuse_missing(folder: Path, names: list[str]) -> None:
    if names:
        raise ModelError(
            f"{str(folder)!r} lacks {len(names)} weights of the model, first {names[0]!r}: they would be random.",
            mend="download or copy the folder again, or name the folder of the whole model",
        )


def _tokenizer(folder: Path) -> Any:
    if not has_tokenizer(folder):
        return None
    try:
        return transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except Exception as error:
        raise ModelError(f"The tokenizer in {str(folder)!r} cannot be loaded: {error}.") from error
