"""What a checkpoint is written from: a quantized model, a source that is solved on the way, or a checkpoint on disk.

All three give the same parts in the same way, so that the native format and every export target have one writer each.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from workbench.affine import QuantizedWeight
from workbench.checkpoint.native import ModuleFormat
from workbench.errors import Cancelled
from workbench.recipe.recipe import Recipe
from workbench.solving import SolvedLayer

CONFIG_FILE = "config.json"
# Files that make a model folder whole besides config and weights; code and pickles are never copied.
COMPANIONS = (
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
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model")  # with one of them it can be loaded
Header = tuple[torch.dtype, tuple[int, ...]]


@dataclass(frozen=True)
class Part:
    """Tensors that belong together: those of one module, or some dense ones.

    Attributes:
        name: Module path, without ".weight".
        tensors: Full name → dense tensor; beside an int4 weight its bias.
        weight: The int4 weight [N, K], or [E * N, K] of a stack of E experts; None for a dense part.
        solved: How it was solved, where that was done on the way.
    """

    name: str
    tensors: dict[str, Tensor]
    weight: QuantizedWeight | None = None
    solved: SolvedLayer | None = None


@dataclass(frozen=True)
class Piece:
    """Some rows of a tensor, under the name that folders on the hub give them.

    Attributes:
        name: Full name.
        rows: Which rows; of a stack [E, N, K], rows of [E * N, K]. None for the tensor as it is.
    """

    name: str
    rows: slice | None = None


@dataclass(frozen=True)
class Outline:
    """What will be written, known before a value is read or solved.

    Attributes:
        model: What the model is called.
        config: The model's config.json, without quantization_config.
        int4: Module path → form of each int4 weight.
        kinds: Module path → kind of weight ("linear", "conv1d", "output_head", "experts", …) of each int4 weight.
        dense_layers: Paths of linear layers that stay dense.
        dense: Full name → (dtype, shape) of every other tensor.
        recipe: What the person asked for, or None.
        notes: What a person must know about what is read: what was dequantized, or is left out.
        stored_names: Full name in the model → its pieces in folders on the hub; what is not named here is called alike.
    """

    model: str
    config: Mapping[str, Any]
    int4: Mapping[str, ModuleFormat]
    kinds: Mapping[str, str]
    dense_layers: tuple[str, ...]
    dense: Mapping[str, Header]
    recipe: Recipe | None = None
    notes: tuple[str, ...] = ()
    stored_names: Mapping[str, tuple[Piece, ...]] = field(default_factory=dict)

    @property
    def dense_bytes(self) -> int:
        """Bytes of all tensors that stay dense."""
        return sum(dtype.itemsize * torch.Size(shape).numel() for dtype, shape in self.dense.values())

    @property
    def native_bytes(self) -> int:
        """Bytes of all tensors in the native format."""
        return self.dense_bytes + sum(form.size_bytes for form in self.int4.values())


class Contents(Protocol):
    """Something that a checkpoint is written from."""

    def outline(self) -> Outline:
        """Say what will be written; no value is read."""
        ...

    def parts(self, cancel: threading.Event | None = None) -> Iterator[Part]:
        """Yield everything once, in any order; one layer at a time is in memory.

        Raises:
            Cancelled: when `cancel` was set.
        """
        ...

    def write_files(self, folder: Path) -> None:
        """Write config.json (without quantization_config), generation configuration and tokenizer."""
        ...


def stop_when(cancel: threading.Event | None) -> None:
    """End writing when the person cancelled.

    Raises:
        Cancelled: when `cancel` is set.
    """
    if cancel is not None and cancel.is_set():
        raise Cancelled("Writing the checkpoint was cancelled.", mend="start it again; nothing was changed")


def write_config(folder: Path, data: Mapping[str, Any]) -> None:
    """Write config.json."""
    (folder / CONFIG_FILE).write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")


def has_tokenizer(folder: Path) -> bool:
    """Say whether a tokenizer can be loaded from a folder."""
    return any((folder / name).is_file() for name in TOKENIZER_FILES)


def tokenizer_notes(folder: Path) -> tuple[str, ...]:
    """Say what a person must know of a written folder without a tokenizer, () where it has one or GGUF carries it."""
    if has_tokenizer(folder) or any(folder.glob("*.gguf")):
        return ()
    return (
        "the folder has no tokenizer, which text needs: put the model's own there with tokenizer.save_pretrained, "
        "and take it up with workbench verify --accept",
    )


def copy_companions(origin: Path, folder: Path) -> None:
    """Copy generation configuration and tokenizer of a model folder."""
    for name in COMPANIONS:
        if (origin / name).is_file():
            (folder / name).write_bytes((origin / name).read_bytes())
