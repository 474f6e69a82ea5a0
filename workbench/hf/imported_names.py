"""Another library's folder under the names of the model: experts that are stored apart become stacks again."""

from __future__ import annotations

import functools
import json
import math
import re
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from workbench.affine import QuantizedWeight
from workbench.checkpoint.contents import Contents, Outline, Part
from workbench.checkpoint.native import ModuleFormat
from workbench.checkpoint.stored_contents import StoredFolder
from workbench.errors import CheckpointError
from workbench.hf.reverse_names import pieces_of_model
from workbench.int4_source import NATIVE_FIRST

_EXPERT = re.compile(r"\.experts\.\d+\.")
_AGAIN = "quantize the original model in the workbench"


@dataclass(frozen=True)
class _Place:
    """Where a stored tensor stands in the model: some rows of a tensor, None for all."""

    name: str
    rows: slice | None


Piece = tuple[_Place, Tensor | QuantizedWeight]


class ImportedContents:
    """Contents whose parts are named, and experts stacked, as the model has them.

    Args:
        contents: What is read.

    Raises:
        CheckpointError: when experts are stored that transformers cannot place, or of a stack only in part or in
            several forms.
    """

    def __init__(self, contents: Contents) -> None:
        self._contents = contents
        found = contents.outline()
        self._places, self._shapes = _places(json.dumps(dict(found.config), sort_keys=True))
        self._counts = Counter(place.name for place in self._places.values())
        stored = [*found.dense, *(f"{name}.weight" for name in found.int4)]
        known = self._places.keys() | self._shapes.keys()
        if lost := [name for name in stored if _EXPERT.search(name) and name not in known]:
            raise CheckpointError(
                f"transformers has no place for {lost[0]!r}.",
                allowed="experts of architectures that it knows",
                mend=f"update transformers, or {_AGAIN}",
            )
        self._outline = self._in_model(found)

    def outline(self) -> Outline:
        """Say what is there; no value is read."""
        return self._outline

    def parts(self, cancel: threading.Event | None = None) -> Iterator[Part]:
        """Yield everything once; of a stack, its pieces are held until the last has come.

        Raises:
            CheckpointError: when a piece is missing.
        """
        waiting: dict[str, list[Piece]] = {}
        for part in self._contents.parts(cancel):
            beside, cut = self._sorted(part)
            own = self._place(f"{part.name}.weight")
            if part.weight is not None and own.rows is None:
                yield Part(own.name.removesuffix(".weight"), beside, part.weight)
            elif beside:
                yield Part(part.name, beside)
            for place, value in cut:
                waiting.setdefault(place.name, []).append((place, value))
                if len(waiting[place.name]) == self._counts[place.name]:
                    yield self._stacked(place.name, waiting.pop(place.name))
        for name, pieces in waiting.items():
            raise CheckpointError(
                f"Of {name} the folder has {len(pieces)} of {self._counts[name]} matrices.",
                mend="download or copy the folder again",
            )

    def write_files(self, folder: Path) -> None:
        """Write config.json (without quantization_config), generation configuration and tokenizer."""
        self._contents.write_files(folder)

    def read_weight(self, name: str, form: ModuleFormat) -> QuantizedWeight:
        """Read one int4 weight of the model, without the rest of the folder.

        Raises:
            CheckpointError: when it is put together from several pieces, or is damaged.
        """
        folder, whole = self._contents, _Place(f"{name}.weight", None)
        own = getattr(folder, "forms", {})
        stored = next((one for one in own if self._place(f"{one}.weight") == whole), None)
        if stored is None or not isinstance(folder, StoredFolder):
            raise CheckpointError(f"{name} is put together from several pieces.", mend=NATIVE_FIRST)
        return folder.read_weight(stored, own[stored])

    # --- inside -----------------------------------------------------------------------------------------------------

    def _place(self, stored: str) -> _Place:
        return self._places.get(stored, _Place(stored, None))

    def _sorted(self, part: Part) -> tuple[dict[str, Tensor], list[Piece]]:
        """Return the tensors that are whole in the model, by its names, and those that are rows of a stack."""
        placed = [(self._place(name), tensor) for name, tensor in part.tensors.items()]
        whole = {place.name: tensor for place, tensor in placed if place.rows is None}
        cut: list[Piece] = [(place, tensor) for place, tensor in placed if place.rows is not None]
        own = self._place(f"{part.name}.weight")
        if part.weight is not None and own.rows is not None:
            cut.append((own, part.weight))
        return whole, cut

    def _in_model(self, found: Outline) -> Outline:
        int4: dict[str, ModuleFormat] = {}
        pieces: dict[str, list[ModuleFormat]] = {}
        for name, form in found.int4.items():
            place = self._place(f"{name}.weight")
            pieces.setdefault(place.name, []).append(form)
            shape = self._shapes.get(place.name, ()) if place.rows is not None else ()
            own = replace(form, experts=shape[0], out_features=shape[1]) if len(shape) == 3 else form
            int4[place.name.removesuffix(".weight")] = own
        for name, forms in pieces.items():
            self._check_whole(name, forms)
        kinds = {name: "experts" if form.experts else "linear" for name, form in int4.items()}
        kinds |= {name: "output_head" for name in kinds if name.rpartition(".")[2] == "lm_head"}
        dense = {}
        for name, (dtype, own_shape) in found.dense.items():
            place = self._place(name)
            dense[place.name] = dtype, own_shape if place.rows is None else self._shapes[place.name]
        return replace(found, int4=int4, kinds=kinds, dense=dense)

    def _check_whole(self, name: str, forms: list[ModuleFormat]) -> None:
        """Refuse a stack that is int4 in part or in several forms, or that is no stack of experts."""
        total, kinds = max(1, self._counts[name]), {(form.group_size, form.domain, form.scale_dtype) for form in forms}
        if len(forms) != total or len(kinds) > 1 or (total > 1 and len(self._shapes[name]) != 3):
            raise CheckpointError(
                f"{name} has {len(forms)} of {total} matrices in int4, in {len(kinds)} forms.",
                allowed="all experts of a stack in one form",
                mend=_AGAIN,
            )

    def _stacked(self, name: str, pieces: list[Piece]) -> Part:
        shape = self._shapes[name]
        rows = shape[0] if len(shape) == 1 else math.prod(shape[:-1])
        tensors = [(place, value) for place, value in pieces if isinstance(value, Tensor)]
        if tensors:
            return Part(name, {name: _joined(tensors, rows).view(shape)})
        weights = [(place, value) for place, value in pieces if isinstance(value, QuantizedWeight)]
        codes = _joined([(place, weight.codes) for place, weight in weights], rows)
        scale = _joined([(place, weight.scale) for place, weight in weights], rows)
        zeros = [(place, weight.zero) for place, weight in weights if weight.zero is not None]
        first = weights[0][1]
        zero = _joined(zeros, rows) if zeros else None
        return Part(name, {}, QuantizedWeight(codes, scale, zero, first.group_size, first.domain))


def _joined(pieces: list[tuple[_Place, Tensor]], rows: int) -> Tensor:
    first = pieces[0][1]
    whole = torch.empty((rows, *first.shape[1:]), dtype=first.dtype)
    for place, values in pieces:
        assert place.rows is not None
        whole[place.rows] = values
    return whole


@functools.lru_cache(maxsize=4)
def _places(config: str) -> tuple[dict[str, _Place], dict[str, tuple[int, ...]]]:
    """Return stored name → place, of what is called otherwise in the model, and the shapes of the model's tensors."""
    shapes, pieces = pieces_of_model(json.loads(config))
    return {piece.name: _Place(name, piece.rows) for name, found in pieces.items() for piece in found}, shapes
