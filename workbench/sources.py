"""Where weights come from: a live model, or a folder of safetensors read by header and slice.

Both yield the same layer records and hand out one 2-D weight at a time, so that everything downstream works alike
on a model in memory and on a checkpoint far larger than memory.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from workbench.errors import ModelError
from workbench.kinds import QUANTIZABLE_KINDS
from workbench.layers import layer_records, weight_as_used
from workbench.records import LayerRecord

INDEX_FILE = "model.safetensors.index.json"
SINGLE_FILE = "model.safetensors"


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
        """Weights on the meta device have no values."""
        return "on the meta device: no values" if weight_as_used(self.model, name).is_meta else ""


class SafetensorsFolder:
    """The tensors of a folder of safetensors, sharded or not: headers first, values on demand.

    Raises:
        ModelError: when the folder, an index or a shard is missing or damaged, naming the file.
    """

    def __init__(self, path: Path | str) -> None:
        """Read the headers of every shard in `path`."""
        self.path = Path(path)
        self._file_of: dict[str, str] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._dtypes: dict[str, str] = {}
        for file in shard_files(self.path):
            with self._open(file) as shard:
                for name in shard.keys():
                    piece = shard.get_slice(name)
                    if name in self._file_of:
                        raise ModelError(f"{name!r} stands in both {self._file_of[name]!r} and {file!r}.")
                    self._file_of[name] = file
                    self._shapes[name] = tuple(piece.get_shape())
                    self._dtypes[name] = piece.get_dtype()
        self._check_index()

    def names(self) -> list[str]:
        """Names of all tensors."""
        return list(self._file_of)

    def __contains__(self, name: str) -> bool:
        """Say whether a tensor of that name is stored."""
        return name in self._file_of

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape in the header."""
        return self._shapes[name]

    def dtype(self, name: str) -> str:
        """Dtype in the header, for instance "BF16"."""
        return self._dtypes[name]

    def size_bytes(self, name: str) -> int:
        """Bytes of a tensor, from its header."""
        return math.prod(self._shapes[name]) * _ITEM_BYTES.get(self._dtypes[name], 1)

    def read(self, name: str) -> Tensor:
        """Read one tensor."""
        with self._open(self._file_of[name]) as shard:
            tensor: Tensor = shard.get_tensor(name)
            return tensor

    def rows(self, name: str, start: int, stop: int) -> Tensor:
        """Read rows start..stop of one tensor."""
        with self._open(self._file_of[name]) as shard:
            piece: Tensor = shard.get_slice(name)[start:stop]
            return piece

    def _open(self, file: str) -> safe_open:
        path = self.path / file
        try:
            return safe_open(str(path), framework="pt")
        except FileNotFoundError:
            raise ModelError(f"The shard {str(path)!r} is missing.", mend="download or copy the folder again") from None
        except (SafetensorError, OSError) as error:
            raise ModelError(
                f"{str(path)!r} is no readable safetensors file ({error}).",
                mend="the file is truncated, damaged or of another format: download or copy it again",
            ) from None

    def _check_index(self) -> None:
        index = self.path / INDEX_FILE
        if not index.is_file():
            return
        lost = sorted(set(_weight_map(index)) - set(self._file_of))
        if lost:
            raise ModelError(
                f"{str(index)!r} names {len(lost)} tensors that no shard holds, first {lost[0]!r}.",
                mend="download or copy the folder again",
            )


class FolderSource:
    """The weights of a safetensors folder, for a model whose layers are known from its configuration."""

    def __init__(
        self,
        path: Path | str,
        records: Sequence[LayerRecord],
        folder: SafetensorsFolder | None = None,
        *,
        name: str | None = None,
    ) -> None:
        """Read from `path`; `records` list the layers (made from a model without memory)."""
        self.path = Path(path)
        self.folder = folder or SafetensorsFolder(path)
        self._name = name or str(path)
        self._records = [self._as_stored(record) for record in records]
        self._ties = {record.name: record.tied_to for record in records if record.tied_to is not None}

    @property
    def name(self) -> str:
        """The folder, or what the person called it."""
        return self._name

    def records(self) -> list[LayerRecord]:
        """List every weight of the model, with the dtype that its file has."""
        return self._records

    def weight(self, name: str) -> Tensor:
        """Read one weight."""
        return self.folder.read(self._tensor(self._ties.get(name, name)))

    def rows(self, name: str, start: int, stop: int) -> Tensor:
        """Read rows start..stop of one weight, and nothing else of it."""
        return self.folder.rows(self._tensor(self._ties.get(name, name)), start, stop)

    def missing(self, name: str) -> str:
        """A weight that transformers converts while loading stands under another name on disk."""
        if self._tensor(self._ties.get(name, name)) in self.folder:
            return ""
        return "stored under another name: load the model with wb.load_model and quantize it in memory"

    def _tensor(self, name: str) -> str:
        return f"{name}.weight" if f"{name}.weight" in self.folder else name

    def _as_stored(self, record: LayerRecord) -> LayerRecord:
        tensor = self._tensor(record.name)
        if tensor not in self.folder or record.tied_to is not None:
            return record
        shape, dtype = self.folder.shape(tensor), self.folder.dtype(tensor)
        if shape != record.shape and record.kind in QUANTIZABLE_KINDS:
            raise ModelError(
                f"{tensor!r} is {list(shape)} in {str(self.path)!r}, but {list(record.shape)} by its config.json.",
                mend="the config.json does not belong to these weights: download or copy the folder again",
            )
        known = str(_DTYPES.get(dtype, dtype)).removeprefix("torch.")
        return LayerRecord(record.name, record.kind, shape, known, self.folder.size_bytes(tensor))


def rows_of_stack(stack: Tensor, start: int, stop: int) -> Tensor:
    """Return rows start..stop of a stack [E, N, K] seen as [E * N, K]; nothing but these is copied."""
    n = stack.shape[1]
    parts = [stack[e, max(start - e * n, 0) : min(stop - e * n, n)] for e in range(start // n, -(-stop // n))]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def read_rows(source: Source, name: str, start: int, stop: int) -> Tensor:
    """Return rows start..stop of one weight; the whole weight is read only where the source has no other way."""
    return source.rows(name, start, stop) if isinstance(source, RowSource) else source.weight(name)[start:stop]


_DTYPES: dict[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}

_ITEM_BYTES = {name: dtype.itemsize for name, dtype in _DTYPES.items()}


def shard_files(folder: Path) -> list[str]:
    """Names of the safetensors files that make up the model in `folder`.

    Raises:
        ModelError: when there are none, or the index is damaged or points outside the folder.
    """
    if not folder.is_dir():
        raise ModelError(f"The model folder {str(folder)!r} does not exist.", mend="check the path")
    index = folder / INDEX_FILE
    if index.is_file():
        files = sorted(set(_weight_map(index).values()))
        for file in files:
            if Path(file).name != file:
                raise ModelError(f"{str(index)!r} points outside its folder: {file!r}.", allowed="plain file names")
        return files
    if (folder / SINGLE_FILE).is_file():
        return [SINGLE_FILE]
    raise ModelError(
        f"No safetensors weights in {str(folder)!r}.",
        allowed=f"{SINGLE_FILE}, or shards with {INDEX_FILE}",
        mend="save the model with save_pretrained (pickled .bin weights are never read)",
    )


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build a JSON object whose keys are all different: of two, a reader would silently take the second.

    Raises:
        ValueError: naming the key that stands twice.
    """
    data = dict(pairs)
    if len(data) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"an object names the key {twice!r} twice")
    return data


def _weight_map(index: Path) -> dict[str, str]:
    try:
        found = json.loads(index.read_text(encoding="utf-8"), object_pairs_hook=unique_keys)["weight_map"]
        if not found or not all(isinstance(k, str) and isinstance(v, str) for k, v in found.items()):
            raise TypeError("weight_map is empty, or holds something other than names")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(
            f"The index {str(index)!r} is damaged ({error!r}).", mend="download or copy it again"
        ) from None
    return dict(found)
