"""The tensors of a folder by the names that the model gives them, through transformers' own conversions.

Folders on the hub keep the names that their authors chose; transformers renames and merges tensors while it loads a
model (`core_model_loading.convert_and_load_state_dict_in_model`). Here the same rules are asked, on the meta device,
which names and shapes come out of a folder; values are read and converted one weight at a time.
"""

from __future__ import annotations

import copy
import functools
import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor

from workbench.errors import ModelError
from workbench.safetensors_folder import DTYPE_NAMES, DTYPES, StoredTensors

# Conversions that keep the experts apart along the first dimension, where it is not the one they work along.
_BY_EXPERT = ("Concatenate", "Transpose", "Interleave")


@dataclass
class _Merge:
    """One conversion: stored tensors in, weights of the model out.

    Attributes:
        converter: transformers' `WeightConverter`, empty.
        first: Name of the first weight that comes out, as transformers calls the conversion.
        sources: Pattern → the stored tensors that it matched, in order.
    """

    converter: Any
    first: str
    sources: dict[str, list[str]] = field(default_factory=dict)

    @property
    def by_expert(self) -> bool:
        """Whether each expert comes from tensors of its own, one of each pattern."""
        first, *rest = self.converter.operations
        return (
            type(first).__name__ == "MergeModulelist"
            and first.dim == 0
            and all(type(one).__name__ in _BY_EXPERT and 0 not in _dims(one) for one in rest)
            and not any(getattr(one, "check_dims", False) for one in rest)  # which looks at the number of experts
            and len({len(names) for names in self.sources.values()}) == 1
        )

    def convert(self, model: Any, read: Callable[[str], Tensor], experts: slice = slice(None)) -> dict[str, Tensor]:
        """Return the weights by name; `experts` takes only some of the tensors of each pattern."""
        converter = copy.deepcopy(self.converter)
        for pattern, names in self.sources.items():
            for name in names[experts]:
                converter.add_tensor(self.first, name, pattern, functools.partial(read, name))
        found = converter.convert(self.first, model=model, config=model.config)
        return {name: one[0] if isinstance(one, list) else one for name, one in found.items()}


def _dims(operation: Any) -> tuple[int, ...]:
    return tuple(getattr(operation, name) for name in ("dim", "dim0", "dim1") if hasattr(operation, name))


class StoredNames:
    """A folder's tensors as `model.state_dict()` calls them; what the model has no place for is left aside and said.

    Raises:
        ModelError: when tensors cannot be converted, or this transformers converts otherwise than those known here.
    """

    def __init__(self, folder: StoredTensors, model: Any) -> None:
        """Map the names of `folder` for `model`, a transformers model on the meta device."""
        self.folder, self._model = folder, model
        self._plain: dict[str, str] = {}
        self._merges: dict[str, _Merge] = {}
        self._meta: dict[str, Tensor] = {}
        self._left: list[str] = []
        self._siblings: Counter[int] = Counter()  # id of a conversion → weights that it gives
        self._elements: Counter[int] = Counter()
        self._last: tuple[_Merge, dict[str, Tensor]] | None = None
        try:
            self._map(model.state_dict())
        except ModelError:
            raise
        except Exception as error:  # a conversion may raise anything, and so may a transformers that changed
            raise ModelError(
                f"The names in {str(folder.path)!r} cannot be mapped by transformers {transformers.__version__}: "
                f"{type(error).__name__}: {error}",
                mend="load the model with wb.load_model and quantize it in memory",
            ) from error
        if not self._merges:
            self._model = None  # nothing left to ask it

    @property
    def path(self) -> Path:
        """The folder."""
        return self.folder.path

    @property
    def as_stored(self) -> bool:
        """Whether the model calls every tensor as the folder does, and has a place for all."""
        return not self._merges and not self._left and all(name == stored for name, stored in self._plain.items())

    def names(self) -> list[str]:
        """Names of all tensors that the model has a place for."""
        return [*self._plain, *self._merges]

    def __contains__(self, name: str) -> bool:
        """Say whether the folder gives this tensor."""
        return name in self._plain or name in self._merges

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape after conversion."""
        return self.folder.shape(self._plain[name]) if name in self._plain else tuple(self._meta[name].shape)

    def dtype(self, name: str) -> str:
        """Dtype after conversion."""
        return self.folder.dtype(self._plain[name]) if name in self._plain else DTYPE_NAMES[self._meta[name].dtype]

    def size_bytes(self, name: str) -> int:
        """Bytes on disk; of tensors that are stored as one, the share of each."""
        if name in self._plain:
            return self.folder.size_bytes(self._plain[name])
        merge = self._merges[name]
        stored = sum(self.folder.size_bytes(one) for one in self._sources(name))
        return stored * self._meta[name].numel() // max(1, self._elements[id(merge)])

    def read(self, name: str) -> Tensor:
        """Read one tensor; of a conversion, its own stored tensors alone."""
        if name in self._plain:
            self._last = None
            return self.folder.read(self._plain[name])
        return self._converted(name, keep=self._siblings[id(self._merges[name])] > 1)

    def rows(self, name: str, start: int, stop: int, dim: int = 0) -> Tensor:
        """Read places start..stop along a dimension; of merged experts, only the tensors of those experts."""
        if name in self._plain:
            self._last = None
            return self.folder.rows(self._plain[name], start, stop, dim)
        merge = self._merges[name]
        if dim == 0 and merge.by_expert:
            self._last = None
            return merge.convert(self._model, self.folder.read, slice(start, stop))[name]
        return self._converted(name, keep=True).narrow(dim, start, stop - start)

    def _converted(self, name: str, *, keep: bool) -> Tensor:
        """Convert, and keep what came out, of one conversion, where the next call is likely to want more of it."""
        merge, last = self._merges[name], self._last
        if last is None or last[0] is not merge:
            self._last = None
            last = merge, merge.convert(self._model, self.folder.read)
        self._last = last if keep else None
        return last[1][name]

    def stored_format(self, name: str) -> str:
        """Format that the tensor, or the first of those it is made of, is dequantized from."""
        return self.folder.stored_format(next(iter(self._sources(name))))

    def notes(self) -> list[str]:
        """Say which stored tensors the model has no place for."""
        notes = self.folder.notes()
        if self._left:
            some = f"{len(self._left)} stored tensors have no place in the model and are left out"
            notes.append(f"{some}, first {self._left[0]!r}")
        return notes

    def _sources(self, name: str) -> Iterator[str]:
        if name in self._plain:
            return iter((self._plain[name],))
        return itertools.chain.from_iterable(self._merges[name].sources.values())

    def _map(self, places: dict[str, Tensor]) -> None:
        """Sort every stored tensor to the weight that it becomes, as transformers does while it loads."""
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import WeightConverter, WeightRenaming, dot_natural_key, rename_source_key

        rules = get_model_conversion_mapping(self._model)
        renamings = [rule for rule in rules if isinstance(rule, WeightRenaming)]
        converters = [rule for rule in rules if isinstance(rule, WeightConverter)]
        converter_of = {pattern: rule for rule in converters for pattern in rule.source_patterns}
        prefix = self._model.base_model_prefix
        merges: dict[str, _Merge] = {}
        part = functools.cache(dot_natural_key)  # a key is a list with one entry for each part
        for stored in sorted(self.folder.names(), key=lambda name: [part(one) for one in name.split(".")]):
            name, pattern = rename_source_key(stored, renamings, converters, prefix, places)
            if name not in places and stored in places:
                name, pattern = rename_source_key(stored, [], [], base_model_prefix=prefix, meta_state_dict=places)
            if name not in places:
                self._left.append(stored)
            elif pattern is None:
                self._plain.setdefault(name, stored)
            else:
                merge = merges.setdefault(name, _Merge(converter_of[pattern], name))
                merge.sources.setdefault(pattern, []).append(stored)
        known: dict[object, Tensor] = {}
        for merge in merges.values():
            self._add(merge, places, known)

    def _add(self, merge: _Merge, places: dict[str, Tensor], known: dict[object, Tensor]) -> None:
        """Learn the names and shapes that a conversion gives, without reading; experts of the same shapes give one."""
        shapes = tuple((name, tuple(map(self._header, names))) for name, names in merge.sources.items())
        key = id(merge.converter), shapes
        if key in known:
            found = {merge.first: known[key]}
        else:
            found = merge.convert(self._model, self._on_meta)
            if merge.by_expert and list(found) == [merge.first]:
                known[key] = found[merge.first]
        for name, tensor in found.items():
            if name in places:
                self._merges[name], self._meta[name] = merge, tensor
                self._siblings[id(merge)] += 1
                self._elements[id(merge)] += tensor.numel()
            else:
                self._left.append(name)

    def _header(self, stored: str) -> tuple[tuple[int, ...], str]:
        return self.folder.shape(stored), self.folder.dtype(stored)

    def _on_meta(self, stored: str) -> Tensor:
        return torch.empty(self.folder.shape(stored), dtype=DTYPES[self.folder.dtype(stored)], device="meta")
