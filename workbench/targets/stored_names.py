"""The same contents under the names that folders on the hub have, with each expert a matrix of its own."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from workbench.affine import QuantizedWeight
from workbench.checkpoint.contents import Contents, Outline, Part, Piece
from workbench.checkpoint.native import ModuleFormat

EXPERT = "expert"  # kind of a matrix of one expert


class StoredContents:
    """Contents whose parts are named and cut as `outline.stored_names` says.

    Args:
        contents: What is written.
        outline: Its outline.
    """

    def __init__(self, contents: Contents, outline: Outline) -> None:
        self._contents, self._before, self._outline = contents, outline, stored_outline(outline)

    def outline(self) -> Outline:
        """Say what will be written; no value is read."""
        return self._outline

    def parts(self, cancel: threading.Event | None = None) -> Iterator[Part]:
        """Yield everything once; what belongs to a layer that is cut goes beside its first piece."""
        for part in self._contents.parts(cancel):
            tensors: dict[str, Tensor] = {}
            for name, tensor in part.tensors.items():
                tensors |= {piece.name: _rows(tensor, piece) for piece in _pieces(self._before, name)}
            if part.weight is None:
                yield Part(part.name, tensors)
                continue
            solved = part.solved
            for name, piece in layer_pieces(self._before, part.name):
                yield Part(name, tensors, _cut(part.weight, piece), solved)
                tensors, solved = {}, None

    def write_files(self, folder: Path) -> None:
        """Write config.json (without quantization_config), generation configuration and tokenizer."""
        self._contents.write_files(folder)


def stored_outline(outline: Outline) -> Outline:
    """Return an outline under the names of the hub."""
    int4: dict[str, ModuleFormat] = {}
    kinds: dict[str, str] = {}
    for name, form in outline.int4.items():
        for path, piece in layer_pieces(outline, name):
            int4[path] = piece_form(form, piece)
            kinds[path] = EXPERT if form.experts and not int4[path].experts else outline.kinds[name]
    dense = {}
    for name, (dtype, shape) in outline.dense.items():
        for piece in _pieces(outline, name):
            rows = () if piece.rows is None else (len(_range(piece.rows)),)
            dense[piece.name] = dtype, (*rows, *shape[max(1, len(shape) - 1) :]) if rows else shape
    dense_layers = tuple(path for name in outline.dense_layers for path, _ in layer_pieces(outline, name))
    return replace(outline, int4=int4, kinds=kinds, dense=dense, dense_layers=dense_layers, stored_names={})


def layer_pieces(outline: Outline, name: str) -> list[tuple[str, Piece]]:
    """Return (module path on the hub, piece) of a layer's weight; (`name`, whole) where it is called alike."""
    pieces = outline.stored_names.get(name) or outline.stored_names.get(f"{name}.weight") or (Piece(name),)
    return [(piece.name.removesuffix(".weight"), piece) for piece in pieces]


def piece_form(form: ModuleFormat, piece: Piece) -> ModuleFormat:
    """Return the form of a piece of a weight."""
    return form if piece.rows is None else replace(form, out_features=len(_range(piece.rows)), experts=0)


def _pieces(outline: Outline, name: str) -> tuple[Piece, ...]:
    return outline.stored_names.get(name) or (Piece(name),)


def _range(rows: slice) -> range:
    return range(rows.start, rows.stop, rows.step or 1)


def _rows(tensor: Tensor, piece: Piece) -> Tensor:
    if piece.rows is None:
        return tensor
    return (tensor if tensor.ndim == 1 else tensor.reshape(-1, tensor.shape[-1]))[piece.rows]


def _cut(weight: QuantizedWeight, piece: Piece) -> QuantizedWeight:
    return weight if piece.rows is None else weight.part(piece.rows)
