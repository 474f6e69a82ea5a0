"""The weights of a model, and what becomes of them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from workbench.records.record import Record

Decision = Literal["int4", "dense"]
_FLOAT_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}


@dataclass(frozen=True)
class LayerRecord(Record):
    """One weight of a model, read from headers or from the live model.

    Attributes:
        name: Module path, for instance "model.layers.0.self_attn.q_proj".
        kind: Kind of weight: "linear", or for all else the class of its module.
        shape: Shape of the weight as used: [out_features, in_features] for a linear layer, [experts, out_features,
            in_features] for a stack of experts.
        dtype: Name of the dtype, as stored or dequantized, for instance "bfloat16".
        size_bytes: Bytes of the stored weight; 0 for a weight tied to one that is counted already.
        tied_to: Name of the weight that shares this storage, or None.
        stored_format: What the weight is dequantized from on its way from disk, for instance "MXFP4"; else "".
        int4_form: Of a layer that is int4 already, its group size and domain, for instance "g64 float"; else "".
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    dtype: str
    size_bytes: int
    tied_to: str | None = None
    stored_format: str = ""
    int4_form: str = ""

    @property
    def parameters(self) -> int:
        """Number of elements of the weight."""
        return math.prod(self.shape)

    @property
    def dense_bytes(self) -> int:
        """Bytes of the weight where it stays dense: those stored, or more for what is dequantized on its way."""
        return self.parameters * _FLOAT_BYTES[self.dtype] if self.stored_format else self.size_bytes

    @property
    def matrix(self) -> tuple[int, int]:
        """Shape as a matrix: [N, K], or [E * N, K] with the rows of one expert after those of another."""
        return math.prod(self.shape[:-1]), self.shape[-1]


@dataclass(frozen=True)
class CoverageRow(Record):
    """What becomes of one weight, and why.

    Attributes:
        name: Module path.
        kind: Kind of weight.
        shape: Shape of the weight.
        parameters: Number of elements.
        decision: "int4" or "dense" (left as it is).
        reason: Why: the pattern or rule that decided.
        before_bytes: Bytes now.
        after_bytes: Bytes afterwards, scales and zero points included.
        bits_per_weight: Bits per weight afterwards.
        padding: What the kernel's layout pads ("" for nothing).
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    parameters: int
    decision: Decision
    reason: str
    before_bytes: int
    after_bytes: int
    bits_per_weight: float
    padding: str = ""

    @property
    def stack_rows(self) -> int | None:
        """Rows of one expert of a stack, or None: a plain weight has none."""
        return self.shape[-2] if len(self.shape) == 3 else None

    @property
    def matrix(self) -> tuple[int, int]:
        """Shape as a matrix: [N, K], or [E * N, K] with the rows of one expert after those of another."""
        return math.prod(self.shape[:-1]), self.shape[-1]
