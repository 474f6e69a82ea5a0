"""Where weights come from: a live model, or a folder of safetensors read by header and slice.

Both yield the same layer records and hand out one 2-D weight at a time, so that everything downstream works alike
on a model in memory and on a checkpoint far larger than memory.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from workbench.errors import ModelError
from workbench.kinds import QUANTIZABLE_KINDS, stored_transposed
from workbench.layers import layer_records, weight_as_used
from workbench.offload import layer_device
from workbench.records.layers import LayerRecord
from workbench.safetensors_folder import DTYPES, StoredTensors


@runtime_checkable
class Source(Protocol):
    """A stream of named weights."""

    @property
    def name(self) -> str:
        """What to call this model in reports."""
        ...

    def records(self) -> list[LayerRecord]:
        """List every weight without reading any."""
        ...

    def weight(self, name: str) -> Tensor:
        """Return one weight in its stored dtype: [N, K], or [E * N, K] of a stack of experts."""
        ...

    def missing(self, name: str) -> str:
        """Say why a listed weight cannot be read from here; "" when it can."""
        ...


@runtime_checkable
class RowSource(Source, Protocol):
    """A source that reads rows without the rest of their weight."""

    def rows(self, name: str, start: int, stop: int) -> Tensor:
        """Return rows start..stop of what `weight` returns, [stop - start, K]."""
        ...


class ModelSource:
    """The weights of a live model."""

    def __init__(self, model: nn.Module) -> None:
        """Read from `model`, which is not changed."""
        self.model = model
        self._records = layer_records(model)

    @property
    def name(self) -> str:
        """The model's own name or path, else its class."""
        config = getattr(self.model, "config", None)
        return getattr(config, "_name_or_path", "") or type(self.model).__name__

    def records(self) -> list[LayerRecord]:
        """List every weight of the model."""
        return self._records

    def weight(self, name: str) -> Tensor:
        """Return a layer's weight, detached; copied only for a stack of experts that lies transposed."""
        weight = weight_as_used(self.model, name)
        return weight.flatten(0, -2) if weight.ndim > 2 else weight

    def rows(self, name: str, start: int, stop: int) -> Tensor:
        """Return rows start..stop of a layer's weight, detached; nothing but these is copied."""
        weight = weight_as_used(self.model, name)
        return weight[start:stop] if weight.ndim <= 2 else rows_of_stack(weight, start, stop)

    def missing(self, name: str) -> str:
        """Weights on the meta device have no values, unless accelerate offloaded them."""
        empty = weight_as_used(self.model, name, read=False).is_meta and layer_device(self.model, name) is None
        return "on the meta device: no values" if empty else ""


@dataclass(frozen=True)
class ListedLayers:
    """The weights that a model has, as its configuration says.

    Attributes:
        records: Every weight, with the dtype and the bytes that the configuration gives it.
        transposed: Names of those that lie [..., K, N] instead of [..., N, K].
    """

    records: tuple[LayerRecord, ...]
    transposed: frozenset[str]

    @classmethod
    def of(cls, model: nn.Module) -> ListedLayers:
        """List the weights of a model, on any device."""
        return cls(tuple(layer_records(model)), transposed_weights(model))


class FolderSource:
    """The weights of a safetensors folder, for a model whose layers are known from its configuration."""

    def __init__(self, folder: StoredTensors, listed: ListedLayers, *, name: str | None = None) -> None:
        """Read from `folder`, whose tensors go by the names that the model gives them.

        Args:
            folder: The tensors.
            listed: The weights of the model.
            name: What the person called the folder; its path when not given.

        Raises:
            ModelError: when a stored weight has another shape than the model's.
        """
        self.folder, self.path = folder, folder.path
        self._name = name or str(folder.path)
        self._tensors = _stored_names(listed.records, folder)
        self._transposed = listed.transposed
        self._records = [self._as_stored(record) for record in listed.records]
        self._shapes = {record.name: record.shape for record in self._records}

    @property
    def name(self) -> str:
        """The folder, or what the person called it."""
        return self._name

    def records(self) -> list[LayerRecord]:
        """List every weight of the model, with the dtype and the bytes that its file has."""
        return self._records

    def notes(self) -> list[str]:
        """Say what the folder holds that is no weight of the model."""
        return self.folder.notes()

    def usual_dtype(self) -> str:
        """Name of the dtype that most numbers of the model have."""
        counts: Counter[str] = Counter()
        for record in self._records:
            counts[record.dtype] += record.parameters
        return counts.most_common(1)[0][0]

    def tensor(self, name: str) -> str:
        """Return the tensor that holds a weight; "" for one that is not stored."""
        return self._tensors.get(name, "")

    def weight(self, name: str) -> Tensor:
        """Read one weight, [N, K] or [E * N, K]; copied only where it lies transposed."""
        weight = self.folder.read(self._tensors[name])
        weight = weight.transpose(-1, -2) if name in self._transposed else weight
        return weight.flatten(0, -2) if weight.ndim > 2 else weight

    def rows(self, name: str, start: int, stop: int) -> Tensor:
        """Read rows start..stop of one weight; of a stack of experts, only the experts that they are of."""
        tensor, transposed = self._tensors[name], name in self._transposed
        if len(self._shapes[name]) <= 2:
            piece = self.folder.rows(tensor, start, stop, dim=1 if transposed else 0)
            return piece.t() if transposed else piece
        n = self._shapes[name][1]
        first = start // n
        stack = self.folder.rows(tensor, first, -(-stop // n))
        stack = stack.transpose(1, 2) if transposed else stack
        return rows_of_stack(stack, start - first * n, stop - first * n)

    def missing(self, name: str) -> str:
        """Say that a weight is not stored; "" for one that is."""
        return "" if name in self._tensors else "not stored in the folder"

    def _as_stored(self, record: LayerRecord) -> LayerRecord:
        tensor = self._tensors.get(record.name)
        if tensor is None or record.tied_to is not None:
            return record
        shape, dtype = self.folder.shape(tensor), self.folder.dtype(tensor)
        if record.name in self._transposed:
            shape = (*shape[:-2], *shape[:-3:-1])
        if shape != record.shape and record.kind in QUANTIZABLE_KINDS:
            raise ModelError(
                f"{tensor!r} is {list(shape)} in {str(self.path)!r}, but {list(record.shape)} by its config.json.",
                mend="the config.json does not belong to these weights: download or copy the folder again",
            )
        known = str(DTYPES.get(dtype, dtype)).removeprefix("torch.")
        size, stored = self.folder.size_bytes(tensor), self.folder.stored_format(tensor)
        return LayerRecord(record.name, record.kind, shape, known, size, stored_format=stored)


def _stored_names(records: Sequence[LayerRecord], folder: StoredTensors) -> dict[str, str]:
    """Return weight → tensor; of weights that share their values, any may be the one that is stored."""
    held: dict[str, str] = {}
    for record in records:  # the owner of shared values comes first
        tensor = next((name for name in (f"{record.name}.weight", record.name) if name in folder), None)
        if tensor is not None:
            held.setdefault(record.tied_to or record.name, tensor)
    owners = {record.name: record.tied_to or record.name for record in records}
    return {name: held[owner] for name, owner in owners.items() if owner in held}


def transposed_weights(model: nn.Module) -> frozenset[str]:
    """Return the names of a model's weights that lie [..., K, N] instead of [..., N, K]."""
    return frozenset(
        path if name == "weight" else f"{path}.{name}".lstrip(".")
        for path, module in model.named_modules(remove_duplicate=False)
        for name, parameter in module.named_parameters(recurse=False)
        if stored_transposed(module, name, parameter)
    )


def rows_of_stack(stack: Tensor, start: int, stop: int) -> Tensor:
    """Return rows start..stop of a stack [E, N, K] seen as [E * N, K]; nothing but these is copied."""
    n = stack.shape[1]
    parts = [stack[e, max(start - e * n, 0) : min(stop - e * n, n)] for e in range(start // n, -(-stop // n))]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def read_rows(source: Source, name: str, start: int, stop: int) -> Tensor:
    """Return rows start..stop of one weight; the whole weight is read only where the source has no other way."""
    return source.rows(name, start, stop) if isinstance(source, RowSource) else source.weight(name)[start:stop]
