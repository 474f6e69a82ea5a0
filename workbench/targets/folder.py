"""Targets that are a folder of safetensors: what differs between them is how a weight is encoded."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from workbench.affine import MID_POINT, QuantizedWeight
from workbench.checkpoint.contents import Contents, Outline, write_config
from workbench.checkpoint.native import ModuleFormat
from workbench.checkpoint.writer import MAX_SHARD_BYTES, ShardWriter
from workbench.kinds import CONV1D
from workbench.targets.companions import Companions
from workbench.targets.target import Fit, LoadLines, Misfit, Written

# Model types of transformers with Conv1D layers, whose weights lie [in_features, out_features] in the model.
_CONV1D_TYPES = ("gpt2", "openai-gpt", "imagegpt", "decision_transformer", "clvp", "clvp_decoder", "convbert")


def kinds_of(outline: Outline) -> dict[str, str]:
    """Return the kind of each int4 layer; one that was int4 before it was read says no more whether it was Conv1D."""
    if outline.config.get("model_type") not in _CONV1D_TYPES:
        return dict(outline.kinds)
    return {name: CONV1D if kind == "linear" else kind for name, kind in outline.kinds.items()}


class FolderTarget(ABC):
    """A folder of safetensors; the dense tensors keep their names and values.

    Attributes:
        name: As `wb.export(format=…)` takes it.
        title: As a person reads it.
        engines: What loads it.
        asked_later: What `fit` does not ask where the files beside the weights are not at hand.
    """

    name: str
    title: str
    engines: str
    asked_later = ""
    max_shard_bytes = MAX_SHARD_BYTES

    # --- what a format says -----------------------------------------------------------------------------------------

    @abstractmethod
    def misfits(self, outline: Outline) -> list[Misfit]:
        """Say why a model does not fit; [] when it does."""

    @abstractmethod
    def rounds(self, outline: Outline) -> str:
        """Say what is rounded, "" for nothing."""

    @abstractmethod
    def layer_bytes(self, form: ModuleFormat) -> int:
        """Bytes of one layer's tensors, its bias apart."""

    @abstractmethod
    def encode(self, name: str, weight: QuantizedWeight, outline: Outline) -> dict[str, Tensor]:
        """Return full name → tensor of one layer, as the format stores it."""

    @abstractmethod
    def decode(self, name: str, tensors: Mapping[str, Tensor], form: ModuleFormat) -> QuantizedWeight:
        """Return the weight that the format's loader sees in what `encode` made: codes exact, scales as stored."""

    @abstractmethod
    def configured(self, outline: Outline) -> dict[str, Any]:
        """Return config.json."""

    @abstractmethod
    def load_lines(self, directory: Path, outline: Outline) -> LoadLines:
        """Return the lines that load a folder that was written."""

    def encode_dense(self, name: str, tensor: Tensor, outline: Outline) -> dict[str, Tensor]:
        """Return full name → tensor of a tensor that stays dense."""
        return {name: tensor}

    def size_bytes(self, outline: Outline) -> int:
        """Bytes of all tensors."""
        return outline.dense_bytes + sum(self.layer_bytes(form) for form in outline.int4.values())

    def notes(self, outline: Outline) -> list[str]:
        """Say what a person must know before exporting."""
        return []

    def metadata(self, names: list[str], outline: Outline) -> dict[str, str]:
        """Return the header metadata of a shard that holds these tensors."""
        return {"format": "pt"}

    # --- the same for all -------------------------------------------------------------------------------------------

    def fit(self, outline: Outline, companions: Companions | None = None) -> Fit:
        """Say whether the target can hold a model; no value is read, and the files beside it are copied as they are."""
        misfits = tuple(self.misfits(outline))
        if misfits:
            return Fit(self.name, misfits=misfits, notes=tuple(self.notes(outline)))
        return Fit(self.name, self.rounds(outline), (), self.size_bytes(outline), tuple(self.notes(outline)))

    def write(
        self, contents: Contents, outline: Outline, folder: Path, cancel: threading.Event | None = None
    ) -> Iterator[Written]:
        """Write shards, configuration and tokenizer into an empty folder; yields each int4 layer."""
        writer = ShardWriter(folder, self.max_shard_bytes, metadata=lambda names: self.metadata(names, outline))
        for part in contents.parts(cancel):
            dense: dict[str, Tensor] = {}
            for name, tensor in part.tensors.items():
                dense |= self.encode_dense(name, tensor, outline)
            if part.weight is None:
                writer.add(dense)
                continue
            encoded = self.encode(part.name, part.weight, outline)
            form = ModuleFormat.of(part.weight, outline.int4[part.name].experts)
            error = max_error(part.weight, self.decode(part.name, encoded, form))
            writer.add({**encoded, **dense})
            yield Written(part.name, error, part.solved)
        writer.finish()
        contents.write_files(folder)
        write_config(folder, self.configured(outline))


def max_error(weight: QuantizedWeight, stored: QuantizedWeight) -> float:
    """Return the largest absolute difference between two dequantized weights of the same shape, in weight units.

    Where both have the same codes in the same groups it is linear in the code: the least and the greatest code of each
    group have the largest.
    """
    if not weight.codes.numel():
        return 0.0
    if weight.group_size == stored.group_size and torch.equal(weight.codes, stored.codes):
        return max(float((_value(weight, q) - _value(stored, q)).abs().max()) for q in _code_range(weight))
    rows = max(1, 2**22 // max(1, weight.shape[1]))
    parts = (slice(start, start + rows) for start in range(0, weight.shape[0], rows))
    return max(float((weight.part(p).dequantize() - stored.part(p).dequantize()).abs().max()) for p in parts)


def _code_range(weight: QuantizedWeight) -> tuple[Tensor, Tensor]:
    """Return the least and the greatest code of each group, uint8 [N, ceil(K/g)]."""
    (n, k), groups = weight.shape, weight.scale.shape[1]
    codes = weight.codes
    if missing := groups * weight.group_size - k:
        codes = torch.cat((codes, codes[:, -1:].expand(n, missing)), 1)
    low, high = codes.view(n, groups, weight.group_size).aminmax(dim=2)
    return low, high


def _value(weight: QuantizedWeight, codes: Tensor) -> Tensor:
    """Return what one code of each group [N, ceil(K/g)] dequantizes to, float32, by the arithmetic of `dequantize`."""
    scale = weight.scale.float()
    if weight.domain == "float":
        return torch.addcmul(weight.zero_in_weight_units(), codes.float() - MID_POINT, scale)
    return (codes.float() - (MID_POINT if weight.zero is None else weight.zero.float())) * scale
