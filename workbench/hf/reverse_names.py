"""What folders on the hub call a model's tensors: transformers' own conversions, asked backwards.

Each tensor is stood in for by the numbers of its rows; what comes out of `revert_weight_conversion`, which
`save_pretrained` calls, says which rows stand under which name. No weight is read.
"""

from __future__ import annotations

import bisect
import functools
import json
import math
import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers.core_model_loading import revert_weight_conversion

from workbench.checkpoint.contents import Contents, Outline, Part, Piece
from workbench.hf.meta import no_values
from workbench.layers import layer_records
from workbench.records.layers import LayerRecord


class NamedContents:
    """Contents whose outline knows the names of the hub.

    Args:
        contents: What is written.

    Attributes:
        origin: The same contents without those names.
    """

    def __init__(self, contents: Contents) -> None:
        self.origin = contents

    def outline(self) -> Outline:
        """Say what will be written; no value is read."""
        outline = self.origin.outline()
        return replace(outline, stored_names=reverse_names(outline))

    def parts(self, cancel: threading.Event | None = None) -> Iterator[Part]:
        """Yield everything once."""
        return self.origin.parts(cancel)

    def write_files(self, folder: Path) -> None:
        """Write config.json (without quantization_config), generation configuration and tokenizer."""
        self.origin.write_files(folder)


def reverse_names(outline: Outline) -> dict[str, tuple[Piece, ...]]:
    """Return full name in the model → its pieces on the hub, of those that are called otherwise there.

    {} where transformers cannot say, or a stored tensor is not made of the rows of one of the model's: then all is
    called as in the model.
    """
    return dict(_names(json.dumps(dict(outline.config), sort_keys=True), tuple(sorted(_shapes(outline).items()))))


def pieces_of_model(config: Mapping[str, Any]) -> tuple[dict[str, tuple[int, ...]], dict[str, tuple[Piece, ...]]]:
    """Return full name → shape of every tensor of a model, and its pieces as `reverse_names` says; ({}, {}) if unknown.

    Args:
        config: The model's config.json.
    """
    try:
        shapes = {name: tuple(tensor.shape) for name, tensor in _skeleton(dict(config)).state_dict().items()}
    except Exception:  # as below
        return {}, {}
    stand_ins = tuple(sorted((name, _stand_in(shape)) for name, shape in shapes.items()))
    return shapes, _names(json.dumps(dict(config), sort_keys=True), stand_ins)


def layers_of_model(config: Mapping[str, Any]) -> list[LayerRecord]:
    """List every weight of a model as its config.json says; [] where transformers cannot build it."""
    try:
        return layer_records(_skeleton(dict(config)))
    except Exception:  # as below
        return []


@functools.lru_cache(maxsize=4)  # asked again for each change of a recipe, which changes none of it
def _names(config: str, sized: tuple[tuple[str, tuple[int, ...]], ...]) -> dict[str, tuple[Piece, ...]]:
    shapes = dict(sized)
    try:
        model = _skeleton(json.loads(config))
        found = _reverted(model, {name: shape for name, shape in shapes.items() if len(shape) != 3})
        for name, shape in shapes.items():
            if len(shape) == 3:  # a stack of experts has many rows: one at a time
                found |= _reverted(model, {name: shape})
    except Exception:  # an architecture, and a conversion, may raise anything; every target says what it cannot name
        return {}
    return {name: pieces for name, pieces in found.items() if pieces != (Piece(name),)}


def _skeleton(config: dict[str, Any]) -> Any:
    kind = config.pop("model_type")
    model_class = getattr(transformers, config["architectures"][0])
    assert issubclass(model_class, transformers.PreTrainedModel)
    with no_values():
        return model_class._from_config(transformers.AutoConfig.for_model(kind, **config))


def _shapes(outline: Outline) -> dict[str, tuple[int, ...]]:
    """Full name → shape of the tensor of row numbers that stands in for it."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name, form in outline.int4.items():
        experts = (form.experts,) if form.experts else ()
        shapes[name if form.experts else f"{name}.weight"] = (*experts, form.out_features, 1)
    for name, (_, shape) in outline.dense.items():
        shapes[name] = _stand_in(shape)
    return shapes


def _stand_in(shape: tuple[int, ...]) -> tuple[int, ...]:
    rows = 2 if len(shape) == 3 else 1
    return (*shape[:rows], *(1 for _ in shape[rows:]))


def _reverted(model: Any, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[Piece, ...]]:
    """Return full name → its pieces, from row numbers that count through all of these tensors."""
    names, starts, state, total = list(shapes), [], {}, 0
    for name, shape in shapes.items():
        count = math.prod(shape)
        starts.append(total)
        state[name] = torch.arange(total, total + count).view(shape)
        total += count
    pieces: dict[str, list[Piece]] = {name: [] for name in names}
    covered = 0
    for stored, numbers in revert_weight_conversion(model, state).items():
        owner = bisect.bisect_right(starts, int(numbers.flatten()[0])) - 1
        pieces[names[owner]].append(_piece(stored, numbers, starts[owner], shapes[names[owner]]))
        covered += numbers.numel()
    assert covered == total, "some rows are stored twice, or nowhere"
    return {name: tuple(found) for name, found in pieces.items()}


def _piece(stored: str, numbers: Tensor, start: int, shape: tuple[int, ...]) -> Piece:
    rows = numbers.flatten() - start
    if tuple(numbers.shape) == shape:
        assert torch.equal(rows, torch.arange(math.prod(shape)))
        return Piece(stored)
    step = int(rows[1] - rows[0]) if rows.numel() > 1 else 1
    found = slice(int(rows[0]), int(rows[-1]) + 1, step)
    assert step > 0 and int(rows[-1]) < math.prod(shape)
    assert numbers.shape[1:] in (shape[1:][-1:], ()), "transformers 5.17 drops the dimension of size 1"
    assert torch.equal(rows, torch.arange(found.start, found.stop, found.step)), "rows that do not follow each other"
    return Piece(stored, found)
