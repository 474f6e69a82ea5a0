"""The solvers side by side: the same model, configuration and text, each solver's quality against the dense model."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from workbench.calibration import Calibration
from workbench.config import Int4WeightOnlyConfig
from workbench.errors import ConfigError
from workbench.measure.quality import DEFAULT_WINDOW, measure_qualities, token_windows
from workbench.options import SOLVERS, SolverName
from workbench.printed import Printed
from workbench.quantization_report import QuantizationReport, layer_notes
from workbench.quantize import quantize_
from workbench.records.progress import Progress
from workbench.records.quality import Quality


@dataclass(frozen=True)
class SolverComparison(Printed):
    """What each solver made of a model.

    Attributes:
        group_size: Weights per group.
        qualities: Solver → quality of its model against the dense one.
        reports: Solver → what was done, with every layer's error.
    """

    group_size: int
    qualities: dict[str, Quality]
    reports: dict[str, QuantizationReport]

    def notes(self) -> list[str]:
        """Say what a person must know of how each solver went: fall-backs, damping, the cut of the text."""
        return [
            f"{solver}: {note}"
            for solver, report in self.reports.items()
            for note in (*report.notes, *layer_notes(report.layers))
        ]

    def to_json(self) -> dict[str, Any]:
        """Return qualities, seconds and notes as JSON types."""
        return {
            "group_size": self.group_size,
            "qualities": {solver: quality.to_json() for solver, quality in self.qualities.items()},
            "seconds": {solver: report.seconds for solver, report in self.reports.items()},
            "notes": self.notes(),
        }

    def __str__(self) -> str:
        """The table as text."""
        base, first = next(iter(self.qualities.items()))
        lines = [
            f"group size {self.group_size}; {first.tokens:,} tokens in {first.windows} windows of {first.window}",
            f"{'solver':<11} {'perplexity':>10} {'mean KL, nats a token':>22} {f'of {base}':>14} "
            f"{'same choice':>12} {'seconds':>8}",
            f"{'dense':<11} {first.reference_perplexity:>10.3f}",
        ]
        lines += [
            f"{solver:<11} {quality.perplexity:>10.3f} {_kl(quality):>22} {_ratio(quality, first):>14} "
            f"{quality.top1_agreement:>12.1%} {self.reports[solver].seconds:>8.1f}"
            for solver, quality in self.qualities.items()
        ]
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes())])


def compare_solvers(
    model: nn.Module,
    cfg: Int4WeightOnlyConfig,
    ids: Tensor,
    *,
    solvers: Sequence[SolverName] = SOLVERS,
    calibration: Calibration | Tensor | None = None,
    window: int = DEFAULT_WINDOW,
    progress: Callable[[Progress], None] | None = None,
    cancel: threading.Event | None = None,
) -> SolverComparison:
    """Quantize a copy of a model with each solver, and measure all of them on one text in one pass.

    The model is copied for one solver after the other, so memory holds it twice, and beside it the int4 models.

    Args:
        model: A causal language model as `load_model` gives it; it is left as it is.
        cfg: The configuration, but for the solver.
        ids: Tokens of the text to measure on, int64 [T]; another text than that of the calibration.
        solvers: "rtn", "hqq", "refined", "calibrated"; the table gives divergences as shares of the first one's.
        calibration: Text for the solver "calibrated", as `Calibration` or ids int64 [S, T].
        window: Tokens of a window.
        progress: Called after each layer and each window; the label begins with what is done.
        cancel: Set it to stop.

    Raises:
        ConfigError: for a solver that is unknown or named twice, for "calibrated" without a calibration, or for tokens
            that cannot be used.
        Cancelled: when `cancel` was set.
    """
    if not solvers or len(set(solvers)) < len(solvers) or not set(solvers) <= set(SOLVERS):
        raise ConfigError(f"solvers={list(solvers)}.", allowed=f"each at most once: {', '.join(SOLVERS)}")
    if "calibrated" in solvers and calibration is None:
        raise ConfigError(
            "solver 'calibrated' without calibration text.",
            mend="pass calibration=Calibration.from_text(text, tokenizer), or name the other solvers",
        )
    token_windows(ids, window)  # bad ones are refused before any work
    models: dict[str, nn.Module] = {}
    reports: dict[str, QuantizationReport] = {}
    for solver in solvers:
        models[solver] = copy.deepcopy(model)
        reports[solver] = quantize_(
            models[solver],
            replace(cfg, use_hqq=False),
            solver=solver,
            calibration=calibration if solver == "calibrated" else None,
            progress=_labelled(progress, solver),
            cancel=cancel,
        )
    tell = _labelled(progress, "measuring")
    qualities = measure_qualities(models, ids, reference=model, window=window, progress=tell, cancel=cancel)
    return SolverComparison(cfg.group_size, qualities, reports)


def _labelled(progress: Callable[[Progress], None] | None, what: str) -> Callable[[Progress], None] | None:
    return None if progress is None else lambda one: progress(replace(one, label=f"{what}: {one.label}"))


def _kl(quality: Quality) -> str:
    """Give the divergence with half the width of its interval."""
    text = f"{quality.mean_kl:.5f}"
    if quality.kl_interval is None:
        return text
    low, high = quality.kl_interval
    return f"{text} ± {(high - low) / 2:.5f}"


def _ratio(quality: Quality, base: Quality) -> str:
    return f"{quality.mean_kl / base.mean_kl:.3f}" if base.mean_kl and quality.mean_kl is not None else "-"
