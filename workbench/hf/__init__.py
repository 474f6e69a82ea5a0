"""The only room that imports transformers: load models, read their skeletons, and load int4 checkpoints.

Importing this module registers the quantizer, so that `AutoModelForCausalLM.from_pretrained` loads a native
checkpoint. There is one loader: `load_checkpoint` calls the same `from_pretrained`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn

from workbench.checkpoint.files import check_files
from workbench.checkpoint.integrity import check_before_load, read_json, read_quantization, verify_checkpoint
from workbench.checkpoint.native import QUANT_METHOD, parse
from workbench.demo import demo_path
from workbench.errors import CheckpointError, ModelError, WorkbenchError
from workbench.foreign import how_to_import, other_library
from workbench.hf import quantizer as quantizer  # which registers it
from workbench.hf.dequantized import dense_tensors, load_dequantized, stored_format
from workbench.hf.hub import snapshot as _snapshot
from workbench.hf.late import after_import
from workbench.hf.meta import collector_paused, no_values
from workbench.hf.placement import DeviceMap, loading_dtype, placement
from workbench.hf.stored_names import StoredNames
from workbench.known_layers import remember_layers
from workbench.safetensors_folder import SafetensorsFolder
from workbench.sources import FolderSource, ListedLayers

DEMO = "demo"


def _teach_peft() -> None:
    from workbench.hf.lora import register

    register()


after_import("peft.tuners.lora.model", _teach_peft)


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


def open_source(path_or_name: str | Path) -> FolderSource:
    """Open a model folder by configuration and headers; no weight is read.

    Raises:
        ModelError: when the folder is missing, damaged, of an unknown architecture, or holds int4 weights already.
    """
    folder = dense_folder(path_or_name)
    with collector_paused():
        model: Any = skeleton(folder)
        tensors = dense_tensors(folder, stored_format(read_config(folder)), model.config.dtype)
        named, listed = StoredNames(tensors, model), ListedLayers.of(model)
        source = FolderSource(named, listed, name=str(path_or_name))
    if isinstance(tensors, SafetensorsFolder) and named.as_stored:
        remember_layers(tensors, listed)
    return source


def dense_folder(path_or_name: str | Path) -> Path:
    """Return the folder of a model that is not quantized yet, or is stored in a format that is dequantized on the way.

    Raises:
        ModelError: when there is no such model, or it is quantized otherwise.
    """
    path = Path(path_or_name).expanduser()
    folder = path if other_library(path) else local_folder(path_or_name)
    method = other_library(folder)
    config = {} if method else read_config(folder)
    if method or (config.get("quantization_config") and stored_format(config) is None):
        own = "open the model that it was made from (workbench inspect shows what this one holds"
        runs = how_to_import(folder) if method else "wb.load_checkpoint runs it, wb.export converts it"
        raise ModelError(
            f"The model {str(path_or_name)!r} is quantized already{f', by {method}' if method else ''}.",
            allowed="dense weights, or weights stored in FP8 (by blocks) or MXFP4",
            mend=f"{own}); {runs}" if method or _is_native(config) else f"{own})",
        )
    return folder


def skeleton(folder: Path) -> nn.Module:
    """Build a model on the meta device from its configuration: every module, no memory.

    Raises:
        ModelError: when transformers cannot build it.
    """
    config = _config(folder)
    model_class = _model_class(config)
    try:
        with no_values():
            return model_class._from_config(config)  # type: ignore[no-any-return]
    except WorkbenchError:
        raise
    except Exception as error:  # whatever an architecture raises, the person needs the model and the reason
        raise ModelError(
            f"The model {str(folder)!r} cannot be built: {error}.", mend="check its config.json"
        ) from error


def local_folder(path_or_name: str | Path) -> Path:
    """Return the folder of a model: a path as it is, "demo", or a hub name's snapshot (downloaded when needed).

    Raises:
        ModelError: when there is no such model.
    """
    if str(path_or_name) == DEMO:
        return demo_path()
    path = Path(path_or_name).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise ModelError(
            f"{str(path)!r} is a file.",
            allowed="a folder with config.json and safetensors",
            mend=f"name its folder, {str(path.parent)!r}",
        )
    name = str(path_or_name)
    if isinstance(path_or_name, Path) or name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise ModelError(
            f"The model {name!r} does not exist.",
            allowed="a model folder, a hub name such as 'org/name', or 'demo'",
            mend="check the path",
        )
    return _snapshot(name)


def read_config(folder: Path) -> dict[str, Any]:
    """Read a model's config.json.

    Raises:
        ModelError: when there is none, or it is damaged.
    """
    if not (folder / "config.json").exists():
        raise ModelError(
            f"The folder {str(folder)!r} has no config.json.",
            allowed="a folder as save_pretrained writes it",
            mend="name the folder that holds config.json",
        )
    try:
        config = read_json(folder / "config.json")
    except CheckpointError as error:
        raise ModelError(error.what, mend=error.mend) from None
    names = config.get("architectures")
    if names is not None and not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        raise ModelError(f"architectures is {names!r} in {str(folder / 'config.json')!r}.", allowed="a list of names")
    return config


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers' progress bars and warnings off the terminal; what goes wrong still raises."""
    log = transformers.utils.logging
    verbosity, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(verbosity)
        if bars:
            log.enable_progress_bar()


def _from_pretrained(
    folder: Path, *, dtype: str | torch.dtype = "auto", device: Any = None, places: dict[str, Any] | None = None
) -> Any:
    native = _is_native(read_config(folder))
    if native:
        _check_native(folder)
    config = _config(folder)
    model_class = _model_class(config)
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


def _is_native(config: Mapping[str, Any]) -> bool:
    settings = config.get("quantization_config")
    return isinstance(settings, dict) and settings.get("quant_method") == QUANT_METHOD


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


def _config(folder: Path) -> Any:
    read_config(folder)
    try:
        return transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except Exception as error:
        raise ModelError(
            f"transformers {transformers.__version__} does not know the model in {str(folder)!r}: {error}",
            allowed="architectures that transformers has itself (code of a checkpoint is never run)",
            mend="update transformers",
        ) from error


def _model_class(config: Any) -> Any:
    for name in config.architectures or ():
        found = getattr(transformers, name, None)
        if isinstance(found, type) and issubclass(found, transformers.PreTrainedModel):
            return found
    for auto in (transformers.AutoModelForCausalLM, transformers.AutoModel):
        if type(config) in auto._model_mapping:
            return auto._model_mapping[type(config)]
    raise ModelError(f"No model class for {config.architectures or type(config).__name__}.", mend="update transformers")


def _tokenizer(folder: Path) -> Any:
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json", "tokenizer.model")):
        return None
    try:
        return transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except Exception as error:
        raise ModelError(f"The tokenizer in {str(folder)!r} cannot be loaded: {error}.") from error


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
