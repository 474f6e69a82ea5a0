"""Measured times of linear layers."""

from __future__ import annotations

from dataclasses import dataclass

from workbench.records.record import Record


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
