"""Frozen results: what the workbench measured or decided, to and from JSON."""

from __future__ import annotations

import base64
import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from workbench.errors import WorkbenchError

Decision = Literal["int4", "dense"]
_FLOAT_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}
_OBJECTIVE_UNITS = {
    "mean |error|": "weight units",
    "mean squared error": "squared weight units",
    "mean squared output error": "squared output units",
}


class Record:
    """Base of the frozen results: plain fields only, so that JSON holds all of them."""

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON types; nested records become dictionaries."""
        return {key: _plain(value) for key, value in dataclasses.asdict(self).items()}  # type: ignore[call-overload]

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """Build from `to_json`'s dictionary.

        Raises:
            WorkbenchError: when a field is missing or unknown.
        """
        types = {f.name: str(f.type) for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
        if not isinstance(data, dict):
            raise WorkbenchError(f"{cls.__name__} from {data!r}.", allowed="a dictionary, as to_json returns it")
        if set(data) != set(types):
            raise WorkbenchError(
                f"{cls.__name__}: fields {sorted(set(data) ^ set(types))} are missing or unknown.",
                allowed=", ".join(sorted(types)),
            )
        return cls(**{key: _from_plain(value, types[key]) for key, value in data.items()})


def _plain(value: Any) -> Any:
    """Bytes become base64 behind a key of their own; infinities and NaN become text."""
    if isinstance(value, bytes):
        return {"base64": base64.b64encode(value).decode("ascii")}
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _from_plain(value: Any, declared: str) -> Any:
    """Undo `_plain` for a field of the declared type."""
    if isinstance(value, dict) and set(value) == {"base64"}:
        return base64.b64decode(value["base64"])
    if isinstance(value, str) and declared.startswith("float"):
        return float(value)
    return tuple(value) if isinstance(value, list) else value


def write_json(path: Path | str, data: Any) -> None:
    """Write `data` as JSON with stable order and a final newline."""
    Path(path).write_text(json.dumps(data, indent=2, sort_keys=True) + "\n", encoding="utf-8")


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
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    dtype: str
    size_bytes: int
    tied_to: str | None = None
    stored_format: str = ""

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
class ErrorTrace(Record):
    """How a solver came to its result, in its own objective, judged as it is stored.

    Attributes:
        objective: What is measured, for instance "mean |error|" or "mean squared error".
        values: Best so far over all weights: round-to-nearest first, then after each step of the solver (none for
            round-to-nearest itself).
        groups: Number of groups.
        improved_groups: Groups whose result is better than round-to-nearest.
    """

    objective: str
    values: tuple[float, ...]
    groups: int
    improved_groups: int

    @property
    def rtn_error(self) -> float:
        """The objective of round-to-nearest, rounded as it is stored."""
        return self.values[0]

    @property
    def error(self) -> float:
        """The objective of the result."""
        return self.values[-1]

    @property
    def relative(self) -> tuple[float, ...]:
        """The values over round-to-nearest's; all 1 where that is exact or beyond what a float holds."""
        first = self.rtn_error
        comparable = 0 < first < math.inf
        return tuple(value / first if comparable else 1.0 for value in self.values)

    @property
    def unit(self) -> str:
        """Unit of the values, or "" for an objective that needs none."""
        return _OBJECTIVE_UNITS.get(self.objective, "")


@dataclass(frozen=True)
class LayerResult(Record):
    """How one layer was quantized, and with what error.

    Attributes:
        name: Module path.
        solver: The solver that found the codes: the one asked for, or what it fell back to.
        domain: Where the zero point lives.
        group_size: Weights per group.
        objective: What `error` measures: the solver's own objective.
        error: Error of what is stored.
        rtn_error: Error of round-to-nearest, as it would be stored.
        trace: Best error so far: round-to-nearest first, then after each step of the solver.
        seconds: Time that solving took, in seconds.
        notes: What a person must know: a fall-back and its reason, rows that keep round-to-nearest, damping.
    """

    name: str
    solver: str
    domain: str
    group_size: int
    objective: str
    error: float
    rtn_error: float
    trace: tuple[float, ...]
    seconds: float
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class ErrorSummary(Record):
    """The error of a whole weight.

    Attributes:
        mse: Mean squared error, in squared weight units.
        rmse: Its root, in weight units.
        mean_abs: Mean |error|, in weight units.
        max_abs: Largest |error|, in weight units.
        max_at: (row, column) of the largest |error|.
        sqnr_db: Signal to quantization noise, 10 log10(sum w^2 / sum e^2), in dB; infinite for no error.
        relative_rmse: RMS error over RMS weight.
        bits_per_weight: Bits per weight, scales and zero points included.
        count: Number of weights.
    """

    mse: float
    rmse: float
    mean_abs: float
    max_abs: float
    max_at: tuple[int, int]
    sqnr_db: float
    relative_rmse: float
    bits_per_weight: float
    count: int


@dataclass(frozen=True)
class ErrorMap(Record):
    """A picture of a weight at screen size.

    A code c stands for lo + (hi - lo) c/255, or, if log, for lo (hi/lo)^(c/255).

    Attributes:
        values: uint8 codes, rows x cols bytes, row by row.
        rows: Rows of the picture.
        cols: Columns of the picture.
        lo: Value of code 0, in `unit`.
        hi: Value of code 255, in `unit`.
        unit: What the values are.
        log: Whether the codes are logarithmic.
        row_span: Original rows a cell stands for.
        col_span: Original columns (groups, for all but the weights themselves) a cell stands for.
        total_rows: Original rows.
        total_cols: Original columns or groups.
        reduce: "max", "mean", "min", or "none" where nothing was reduced.
        metric: What is shown.
    """

    values: bytes
    rows: int
    cols: int
    lo: float
    hi: float
    unit: str
    log: bool
    row_span: int
    col_span: int
    total_rows: int
    total_cols: int
    reduce: str
    metric: str


@dataclass(frozen=True)
class Histogram(Record):
    """Counts of weights and of errors, each in even bins over [-limit, limit].

    Attributes:
        bins: Number of bins.
        limit: Largest |weight|.
        counts: Weights in each bin.
        error_limit: Largest |error|.
        error_counts: Errors in each bin.
    """

    bins: int
    limit: float
    counts: tuple[int, ...]
    error_limit: float
    error_counts: tuple[int, ...]


@dataclass(frozen=True)
class Quality(Record):
    """How well a model predicts a text, and how far it is from a reference on the same tokens.

    Attributes:
        perplexity: exp(nats_per_token); infinite where that is too large for a float.
        nats_per_token: Mean negative log-likelihood of a token given those before it in its window, in nats.
        tokens: Tokens that were predicted: all but the first of each window.
        windows: Windows that were measured.
        window: Tokens of a window; the last one may be shorter.
        left_out: Tokens at the end that no window holds, since it would hold but one: 0 or 1.
        reference_perplexity: Perplexity of the reference; this and the fields below are None without one.
        mean_kl: Mean KL(reference || model) over the predicted tokens, in nats per token.
        kl_interval: Its 95 % interval, in nats per token, from the spread of the windows' means: both models saw the
            same tokens, so this is the spread of the difference and not of the texts. None for a single window.
        top1_agreement: Share of the predicted tokens where both hold the same token for the most likely, 0 to 1.
    """

    perplexity: float
    nats_per_token: float
    tokens: int
    windows: int
    window: int
    left_out: int = 0
    reference_perplexity: float | None = None
    mean_kl: float | None = None
    kl_interval: tuple[float, float] | None = None
    top1_agreement: float | None = None

    def __str__(self) -> str:
        """Say it in a line."""
        parts = [f"perplexity {self.perplexity:.3f}"]
        if self.mean_kl is not None:
            parts[0] += f" (reference {self.reference_perplexity:.3f})"
            spread = "" if self.kl_interval is None else " (95 %: {:.5f} to {:.5f})".format(*self.kl_interval)
            parts.append(f"mean KL {self.mean_kl:.5f}{spread} nats a token")
            parts.append(f"the first choice agrees for {self.top1_agreement:.1%}")
        parts.append(f"{self.tokens:,} tokens in {self.windows} windows of {self.window}")
        if self.left_out:
            parts.append(f"{self.left_out} token at the end left out")
        return ", ".join(parts)


@dataclass(frozen=True)
class SpeedPoint(Record):
    """One measured time of a linear layer. Estimates are never stored in this record.

    Attributes:
        device: "cpu" or "cuda".
        device_name: Name of the processor or GPU.
        path: "int4" (our layer), one of its paths alone ("op", "dequantize", "fused"), or "dense".
        dtype: dtype of the activations.
        n: out_features.
        k: in_features.
        group_size: Weights per group.
        batch: Rows of the activation.
        time_ms: Median time of a call, in milliseconds.
        p10_ms: 10th percentile, in milliseconds.
        p90_ms: 90th percentile, in milliseconds.
        runs: Timed calls.
        gb_per_s: Bytes of weights and activations moved per second, in 1e9 bytes.
        gflop_per_s: Multiplications and additions per second, in 1e9.
        form: "eager", or "compiled" by torch.compile.
        chosen_path: The path that our layer took, "" for all others.
        roofline_share: The least time that this machine's bandwidth and matmul rate allow, over `time_ms`; None where
            they were not measured.
        copies: Copies of the weight that took turns.
    """

    device: str
    device_name: str
    path: str
    dtype: str
    n: int
    k: int
    group_size: int
    batch: int
    time_ms: float
    p10_ms: float
    p90_ms: float
    runs: int
    gb_per_s: float
    gflop_per_s: float
    form: str = "eager"
    chosen_path: str = ""
    roofline_share: float | None = None
    copies: int = 1

    @property
    def name(self) -> str:
        """Path and form, as tables and charts name them."""
        return self.path if self.form == "eager" else f"{self.path} {self.form}"

    @property
    def attainable_ms(self) -> float | None:
        """The least time that the machine allows, in milliseconds, or None where that was not measured."""
        return None if self.roofline_share is None else self.roofline_share * self.time_ms


@dataclass(frozen=True)
class MicroscopeVariant(Record):
    """The 16 levels that one way of quantizing gives a group; without levels and numbers where there is no such way.

    Attributes:
        domain: Where the zero point lives.
        preserve_zero: Whether the group's range is widened to contain 0.
        solver: What finds the codes.
        reason: Why there is no such variant, or "".
        levels: Values of the codes 0 to 15, in weight units.
        codes: Code of each weight.
        scale: Weight units per code, as stored.
        zero: As stored: float domain: the value of code 8; int domain: the code of 0; symmetric: None.
        rms: RMS error, in weight units.
        mean_abs: Mean |error|, in weight units.
        max_abs: Largest |error|, in weight units.
        rms_ratio: `rms` over that of round-to-nearest in the same domain with the same `preserve_zero`.
        mean_abs_ratio: The same of `mean_abs`.
        max_abs_ratio: The same of `max_abs`.
        bits_per_weight: Bits per weight, the group's scale and zero point included.
        zero_level: The level nearest to 0, in weight units: where 0 lands; 0.0 keeps it exact.
        notes: What the solver said, for instance that it fell back to another.
    """

    domain: str
    preserve_zero: bool
    solver: str
    reason: str = ""
    levels: tuple[float, ...] = ()
    codes: tuple[int, ...] = ()
    scale: float | None = None
    zero: float | None = None
    rms: float | None = None
    mean_abs: float | None = None
    max_abs: float | None = None
    rms_ratio: float | None = None
    mean_abs_ratio: float | None = None
    max_abs_ratio: float | None = None
    bits_per_weight: float | None = None
    zero_level: float | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Microscope(Record):
    """One group of one row, and the levels that each variant gives it.

    Attributes:
        name: Module path.
        row: Output feature.
        group: Group along in_features.
        first_column: Input feature of the group's first weight.
        group_size: Weights per group; the last group of a row can have fewer.
        weights: The group's weights, in weight units.
        variants: Every variant that was asked for, by domain, `preserve_zero` and solver.
        current: Place in `variants` of the settings that the layer has, or None when it is not among them.
    """

    name: str
    row: int
    group: int
    first_column: int
    group_size: int
    weights: tuple[float, ...]
    variants: tuple[MicroscopeVariant, ...]
    current: int | None = None

    @property
    def solved(self) -> tuple[MicroscopeVariant, ...]:
        """The variants that have levels."""
        return tuple(variant for variant in self.variants if variant.levels)

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON types."""
        return {**super().to_json(), "variants": [variant.to_json() for variant in self.variants]}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """Build from `to_json`'s dictionary.

        Raises:
            WorkbenchError: when a field is missing or unknown.
        """
        made = super().from_json(data)
        variants = tuple(MicroscopeVariant.from_json(variant) for variant in data["variants"])
        return dataclasses.replace(made, variants=variants)
