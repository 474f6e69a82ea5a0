"""Frozen results: what the workbench measured or decided, to and from JSON."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from workbench.errors import WorkbenchError

Decision = Literal["int4", "dense"]


class Record:
    """Base of the frozen results: plain fields only, so that JSON holds all of them."""

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON types; nested records become dictionaries."""
        return dataclasses.asdict(self)  # type: ignore[call-overload, no-any-return]

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """Build from `to_json`'s dictionary.

        Raises:
            WorkbenchError: when a field is missing or unknown.
        """
        names = {f.name for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
        if set(data) != names:
            raise WorkbenchError(
                f"{cls.__name__}: fields {sorted(set(data) ^ names)} are missing or unknown.",
                allowed=", ".join(sorted(names)),
            )
        return cls(**{key: tuple(value) if isinstance(value, list) else value for key, value in data.items()})


def write_json(path: Path | str, data: Any) -> None:
    """Write `data` as JSON with stable order and a final newline."""
    Path(path).write_text(json.dumps(data, indent=2, sort_keys=True) + "\n", encoding="utf-8")


@dataclass(frozen=True)
class LayerRecord(Record):
    """One weight of a model, read from headers or from the live model.

    Attributes:
        name: Module path, for instance "model.layers.0.self_attn.q_proj".
        kind: Kind of weight: "linear", or for all else the class of its module.
        shape: Shape of the weight as used: [out_features, in_features] for a linear layer.
        dtype: Name of the stored dtype, for instance "bfloat16".
        size_bytes: Bytes of the stored weight; 0 for a weight tied to one that is counted already.
        tied_to: Name of the weight that shares this storage, or None.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    dtype: str
    size_bytes: int
    tied_to: str | None = None

    @property
    def parameters(self) -> int:
        """Number of elements of the weight."""
        count = 1
        for size in self.shape:
            count *= size
        return count


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


@dataclass(frozen=True)
class Progress(Record):
    """Where long work stands.

    Attributes:
        done: Units finished.
        total: Units in all.
        label: What is being worked on.
        elapsed_s: Seconds since the start.
        remaining_s: Seconds expected until the end, or None when not known yet.
    """

    done: int
    total: int
    label: str
    elapsed_s: float
    remaining_s: float | None = None


@dataclass(frozen=True)
class LayerResult(Record):
    """Errors of one quantized layer, in weight units.

    Attributes:
        name: Module path.
        solver: The method that found the codes.
        domain: Where the zero point lives.
        group_size: Weights per group.
        mean_abs_error: Mean |error| of what is stored.
        rtn_mean_abs_error: Mean |error| of round-to-nearest, as it would be stored.
        seconds: Time that solving took, in seconds.
    """

    name: str
    solver: str
    domain: str
    group_size: int
    mean_abs_error: float
    rtn_mean_abs_error: float
    seconds: float
