"""The weights of a live model, by kind and never by model name, and how one layer is swapped for another."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

import torch
from torch import Tensor, nn

from workbench.errors import ModelError
from workbench.experts import Int4Experts
from workbench.kinds import INT4, QUANTIZABLE_KINDS, STACK, shape_as_used, stored_transposed, weight_kind
from workbench.linear import Int4Linear
from workbench.offload import execution_device, follow_hook, offloaded_values
from workbench.records.layers import LayerRecord

Int4Layer = Int4Linear | Int4Experts


def layer_records(model: nn.Module) -> list[LayerRecord]:
    """List every parameter of a model (on any device, "meta" included), and every layer that is int4 already.

    A parameter called "weight" is named by its module, unless it is a stack; any other by its full path. A tied weight
    appears once for each of its names, with its bytes counted at the first.
    """
    head = output_head(model)
    seen: dict[int, str] = {}
    records: list[LayerRecord] = []
    for path, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, Int4Linear | Int4Experts):
            shape: tuple[int, ...] = (module.out_features, module.in_features)
            if isinstance(module, Int4Experts):
                shape = (module.num_experts, *shape)
            tie, size = _tie(seen, module, path, module.size_bytes)
            form = f"g{module.group_size} {module.domain}"
            records.append(LayerRecord(path, INT4, shape, "int4", size, tie, int4_form=form))
        for name, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            kind, shape = weight_kind(module, name, parameter, head), shape_as_used(module, name, parameter)
            full = path if name == "weight" and kind != STACK else f"{path}.{name}".lstrip(".")
            tie, size = _tie(seen, parameter, full, parameter.numel() * parameter.element_size())
            dtype = str(parameter.dtype).removeprefix("torch.")
            records.append(LayerRecord(full, kind, shape, dtype, size, tie))
    return records


def _tie(seen: dict[int, str], owner: object, name: str, size_bytes: int) -> tuple[str | None, int]:
    """Return the name under which a weight was met before, or None, and the bytes that count for this name."""
    first = seen.setdefault(id(owner), name)
    return (None, size_bytes) if first == name else (first, 0)


def dense_tied_names(model: nn.Module) -> Iterator[tuple[str, str]]:
    """Yield (name, name of the weight whose storage it shares) of each tied weight."""
    for record in layer_records(model):
        if record.tied_to is not None:
            yield record.name, record.tied_to


def output_head(model: nn.Module) -> nn.Module | None:
    """Return the module that maps hidden states to the vocabulary, as transformers models declare it."""
    declared = getattr(model, "get_output_embeddings", None)
    try:
        head = declared() if callable(declared) else None
    except (AttributeError, NotImplementedError):
        return None
    return head if isinstance(head, nn.Module) else None


def unties_head(records: Iterable[LayerRecord], int4: Collection[str]) -> bool:
    """Say whether the output head shares the embedding's weight and becomes int4, which ends the sharing."""
    return any(r.tied_to is not None and r.kind == "output_head" and r.name in int4 for r in records)


def get_layer(model: nn.Module, name: str) -> nn.Module:
    """Return the module at a dotted path.

    Raises:
        ModelError: when there is none.
    """
    try:
        return model.get_submodule(name)
    except AttributeError:
        raise ModelError(f"The model has no layer {name!r}.", mend="list the layers with wb.preflight(model)") from None


def is_int4(model: nn.Module, name: str) -> bool:
    """Say whether a layer, or a stack of experts, is int4."""
    try:
        return isinstance(model.get_submodule(name), Int4Linear | Int4Experts)
    except AttributeError:
        return False


def weight_as_used(model: nn.Module, name: str, *, read: bool = True) -> Tensor:
    """Return a weight detached and not copied: [N, K] of a linear layer, [E, N, K] of a stack of experts.

    Args:
        model: A live model.
        name: The weight's name.
        read: Read one that accelerate offloaded from where it is kept; without, it is on the meta device.

    Raises:
        ModelError: when the model has no such weight.
    """
    weight, transposed = _stored(model, name, read)
    return weight.transpose(-1, -2) if transposed else weight


def lies_transposed(model: nn.Module, name: str) -> bool:
    """Say whether a dense weight lies [..., K, N].

    Raises:
        ModelError: when the model has no such weight.
    """
    return _stored(model, name, read=False)[1]


def _stored(model: nn.Module, name: str, read: bool) -> tuple[Tensor, bool]:
    parent, _, child = name.rpartition(".")
    for path, parameter in ((name, "weight"), (parent, child)):
        try:
            module = model.get_submodule(path)
        except AttributeError:
            continue
        found = offloaded_values(module, parameter) if read else getattr(module, parameter, None)
        if isinstance(found, Tensor):
            return found.detach(), stored_transposed(module, parameter, found)
    raise ModelError(f"The model has no weight {name!r}.", mend="list the layers with wb.preflight(model)")


def model_device(model: nn.Module) -> torch.device:
    """Device of a model's first parameter, else of its first int4 layer; the CPU for a model with neither.

    A parameter that accelerate offloaded counts as where it runs.
    """
    for module in model.modules():
        if (first := next(module.parameters(recurse=False), None)) is not None:
            return (execution_device(module) if first.is_meta else None) or first.device
    return next((m.device for m in model.modules() if isinstance(m, Int4Linear | Int4Experts)), torch.device("cpu"))


def swap_layer(model: nn.Module, name: str, layer: nn.Module) -> object:
    """Put `layer` at a dotted path, of a module or of a stack of experts, and return what stood there."""
    parent, _, child = name.rpartition(".")
    owner = get_layer(model, parent) if parent else model
    old: object = getattr(owner, child, None)
    if not isinstance(old, nn.Module | nn.Parameter):
        raise ModelError(f"The model has no layer {name!r}.", mend="list the layers with wb.preflight(model)")
    layer.train(owner.training if isinstance(old, nn.Parameter) else old.training)
    if isinstance(old, nn.Parameter):
        delattr(owner, child)  # a module is not assigned over a parameter
    setattr(owner, child, layer)
    if isinstance(old, nn.Module):
        follow_hook(old, layer)
    return old


def refuse_no_module(model: object) -> None:
    """Refuse what holds no layers that could be replaced.

    Raises:
        ModelError: for a path or anything else that is no module, and for a layer that stands alone.
    """
    if not isinstance(model, nn.Module):
        raise ModelError(
            f"{model!r} is a {type(model).__name__}, no model.",
            allowed="a live model",
            mend="load it first, wb.load_model(path); workbench quantize MODEL --out DIR goes from folder to folder",
        )
    if isinstance(model, nn.Linear):
        raise ModelError(
            "The model is one linear layer, and there is nothing around it to put the int4 one into.",
            mend="wrap it, torch.nn.Sequential(layer), or take its weight alone, wb.quantize_weight(layer.weight, cfg)",
        )


def refuse_adapters(model: nn.Module, mend: str) -> None:
    """Refuse a model with PEFT's adapters in it, which stand where its layers should.

    Raises:
        ModelError: naming the first, with `mend`.
    """
    for name, module in model.named_modules():
        if hasattr(module, "base_layer") and any(kind.__module__.startswith("peft.") for kind in type(module).__mro__):
            raise ModelError(f"The model has adapters of PEFT, first over {name!r}.", mend=mend)


def untie_embeddings(model: nn.Module) -> None:
    """Record that the output head no longer shares the embedding's storage, so that nothing ties it again."""
    config = getattr(model, "config", None)
    if config is not None and getattr(config, "tie_word_embeddings", False):
        config.tie_word_embeddings = False


__all__ = [
    "QUANTIZABLE_KINDS",
    "Int4Layer",
    "dense_tied_names",
    "get_layer",
    "is_int4",
    "layer_records",
    "lies_transposed",
    "model_device",
    "output_head",
    "refuse_adapters",
    "swap_layer",
    "untie_embeddings",
    "unties_head",
    "weight_as_used",
]
