"""Save a quantized model, or quantize a source straight into a checkpoint, one layer at a time."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from workbench.calibration import Calibration
from workbench.checkpoint.atomic import new_directory
from workbench.checkpoint.native import ModuleFormat, describe, describe_model, int4_layers
from workbench.checkpoint.writer import MAX_SHARD_BYTES, ShardWriter, write_manifest
from workbench.coverage import Coverage
from workbench.errors import Cancelled, CheckpointError
from workbench.experts import Int4Experts
from workbench.kinds import QUANTIZABLE_KINDS
from workbench.layers import refuse_adapters, unties_head
from workbench.linear import Int4Linear
from workbench.offload import execution_device, offloaded_values
from workbench.portable import portable_tensors
from workbench.quantize import RECIPE_ATTRIBUTE, SolvedLayer, experts_of, iter_quantize
from workbench.recipe import Recipe
from workbench.sources import FolderSource, ModelSource, Source

CONFIG_FILE = "config.json"
# Files that make a model folder whole besides config and weights; code and pickles are never copied.
_COMPANIONS = (
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tokenizer.model",
    "sentencepiece.bpe.model",
    "tekken.json",
    "spiece.model",
    "chat_template.jinja",
    "chat_template.json",
    "preprocessor_config.json",
    "processor_config.json",
)


def save_checkpoint(
    model: nn.Module,
    directory: Path | str,
    *,
    tokenizer: Any = None,
    overwrite: bool = False,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> Path:
    """Save a quantized model as a native checkpoint, atomically.

    Args:
        model: A model with `Int4Linear` layers.
        directory: The folder to make.
        tokenizer: Saved beside the model when given.
        overwrite: Replace a folder that exists; old or new is there at any moment, never a mixture.
        max_shard_bytes: Most bytes of a shard.

    Returns:
        The folder.

    Raises:
        CheckpointError: when the model has no int4 layer, or the folder exists or cannot be written.
        ModelError: when the model has adapters of PEFT.
    """
    int4 = int4_layers(model)
    if not int4:
        raise CheckpointError("The model has no int4 layer.", mend="quantize it first: wb.quantize_(model, cfg)")
    refuse_adapters(model, "save the adapters with model.save_pretrained, then take them off: model.unload()")
    _refuse_empty(model)
    need_bytes = sum(tensor.nbytes for _, tensors in _model_tensors(model, read=False) for tensor in tensors.values())
    need_bytes += sum(ModuleFormat.of(layer).size_bytes for layer in int4.values())
    with new_directory(directory, overwrite=overwrite, need_bytes=need_bytes) as folder:
        writer = ShardWriter(folder, max_shard_bytes)
        for name, tensors in _model_tensors(model):
            if name in int4:
                tensors = {**portable_tensors(int4[name].quantized_weight(), f"{name}."), **tensors}
            writer.add(tensors)
        hashes = writer.finish()
        quantization = describe_model(model, getattr(model, RECIPE_ATTRIBUTE, None))
        _write_model_files(model, tokenizer, folder)
        _patch_config(folder, quantization, untied=getattr(model.config, "tie_word_embeddings", None) is False)
        write_manifest(folder, hashes)
    return Path(directory)


def iter_write_quantized(
    source: Source,
    coverage: Coverage,
    recipe: Recipe,
    directory: Path | str,
    *,
    tokenizer: Any = None,
    overwrite: bool = False,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    calibration: Calibration | None = None,
    model: nn.Module | None = None,
    cancel: threading.Event | None = None,
) -> Iterator[SolvedLayer]:
    """Quantize a source straight into a checkpoint; yields each layer, and the folder appears after the last.

    `calibration` and `model` are those of `iter_quantize`.

    Raises:
        CheckpointError: when the folder exists or cannot be written.
        Cancelled: when `cancel` was set; nothing is left behind.
        WeightError: when a weight holds NaN or infinity; nothing is left behind.
    """
    _refuse_lost(source)
    formats: dict[str, ModuleFormat] = {}
    with new_directory(directory, overwrite=overwrite, need_bytes=coverage.after_bytes) as folder:
        writer = ShardWriter(folder, max_shard_bytes)
        int4 = set(coverage.configs)
        rest: dict[str, dict[str, Tensor]] = {}
        for name, tensors in _dense_tensors(source, int4):
            if cancel is not None and cancel.is_set():
                raise Cancelled("Writing the checkpoint was cancelled.", mend="start it again; nothing was changed")
            if name in int4:
                rest[name] = tensors  # a bias, which goes beside its codes
            else:
                writer.add(tensors)
        for step in iter_quantize(source, coverage, calibration=calibration, model=model, cancel=cancel):
            name = step.result.name
            formats[name] = ModuleFormat.of(step.weight, experts_of(coverage, name))
            writer.add({**portable_tensors(step.weight, f"{name}."), **rest.pop(name, {})})
            yield step
        hashes = writer.finish()
        dense = [row.name for row in coverage.rows if row.kind in QUANTIZABLE_KINDS and row.decision == "dense"]
        if isinstance(source, FolderSource):
            _copy_model_files(source, folder)
            if tokenizer is not None:
                tokenizer.save_pretrained(folder)
        elif isinstance(source, ModelSource):
            _write_model_files(source.model, tokenizer, folder)
        _patch_config(folder, describe(formats, dense, recipe), untied=unties_head(source.records(), int4))
        write_manifest(folder, hashes)


def _refuse_empty(model: nn.Module) -> None:
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


def _model_tensors(model: nn.Module, *, read: bool = True) -> Iterator[tuple[str, dict[str, Tensor]]]:
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


def _dense_tensors(source: Source, int4: set[str]) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Yield everything of a source but the weights that become int4, grouped by module where it is one of those."""
    if isinstance(source, FolderSource):
        yield from _folder_tensors(source, int4)
        return
    if not isinstance(source, ModelSource):
        raise CheckpointError(f"{type(source).__name__} cannot be written.", allowed="a live model or a model folder")
    for module, tensors in _model_tensors(source.model):
        solved = {f"{module}.weight"} if module in int4 else int4  # a linear layer's own weight, or stacks of experts
        kept = {name: tensor for name, tensor in tensors.items() if name not in solved}
        if kept:
            yield module, kept


def _folder_tensors(source: FolderSource, int4: set[str]) -> Iterator[tuple[str, dict[str, Tensor]]]:
    for name in source.folder.names():
        module, _, parameter = name.rpartition(".")
        if name not in int4 and not (module in int4 and parameter == "weight"):
            yield module, {name: source.folder.read(name)}
    for record in source.records():
        stored_as = source.tensor(record.name).removesuffix(".weight")
        if stored_as in int4 and record.name not in int4:  # shares its values with a layer that becomes int4
            yield record.name, {f"{record.name}.weight": source.weight(record.name)}


def _refuse_lost(source: Source) -> None:
    lost = [record.name for record in source.records() if source.missing(record.tied_to or record.name)]
    if isinstance(source, FolderSource) and lost:
        raise CheckpointError(
            f"{str(source.path)!r} lacks {len(lost)} weights of the model, first {lost[0]!r}.",
            mend="download or copy the folder again, or name the folder of the whole model",
        )


def _write_model_files(model: nn.Module, tokenizer: Any, folder: Path) -> None:
    config = getattr(model, "config", None)
    if config is None or not hasattr(config, "save_pretrained"):
        raise CheckpointError(
            f"{type(model).__name__} has no transformers configuration.",
            mend="save a transformers model, or keep model.state_dict() yourself",
        )
    config.save_pretrained(folder)
    generation = getattr(model, "generation_config", None)
    if generation is not None:
        generation.to_json_file(folder / "generation_config.json")  # save_pretrained refuses some that models come with
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    data = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    data["architectures"] = [type(model).__name__]
    dtype = getattr(model, "dtype", None)
    if dtype is not None:
        data["dtype"] = str(dtype).removeprefix("torch.")
    (folder / CONFIG_FILE).write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")


def _copy_model_files(source: FolderSource, folder: Path) -> None:
    for name in (CONFIG_FILE, *_COMPANIONS):
        if (source.path / name).is_file():
            (folder / name).write_bytes((source.path / name).read_bytes())
    data = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    if data.get("dtype") is None and data.get("torch_dtype") is None:  # else guessed from a tensor, a scale perhaps
        data["dtype"] = source.usual_dtype()
        (folder / CONFIG_FILE).write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")


def _patch_config(folder: Path, quantization: dict[str, Any], *, untied: bool) -> None:
    path = folder / CONFIG_FILE
    data = json.loads(path.read_text(encoding="utf-8"))
    data["quantization_config"] = quantization
    if untied:
        data["tie_word_embeddings"] = False
    path.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
