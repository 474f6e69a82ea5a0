"""The numbers of a layer's error, against round-to-nearest."""

from __future__ import annotations

from workbench.records.errors import ErrorSummary
from workbench.session.details import LayerDetails
from workbench.views.views import LayerView
from workbench.widgets.facts import Fact, Tone


def facts_of(view: LayerView) -> list[Fact]:
    """Return the numbers of a view, against round-to-nearest."""
    now, rtn = view.summary, view.rtn
    return [
        *_output_error(view),
        Fact("MSE", f"{now.mse:.3g}", _against(now.mse, rtn.mse, view), _tone(now.mse, rtn.mse)),
        Fact(
            "Mean |error|",
            f"{now.mean_abs:.3g}",
            _against(now.mean_abs, rtn.mean_abs, view),
            _tone(now.mean_abs, rtn.mean_abs),
        ),
        Fact("SQNR", f"{now.sqnr_db:.2f} dB", _gain(now, rtn, view)),
        Fact(
            "Largest |error|",
            f"{now.max_abs:.3g}",
            f"at {now.max_at[0]}, {now.max_at[1]}" if view.exact else "of the sampled rows",
        ),
        Fact("Relative error", f"{now.relative_rmse:.2%}", "RMS error / RMS weight"),
        Fact("Bits per weight", f"{now.bits_per_weight:.2f}", "scales and zeros included"),
    ]


def output_of(details: LayerDetails) -> list[Fact]:
    """The relative error of the layer's output, where inputs are held."""
    output = details.output
    if output is None:
        return []
    hint = f"‖XW − XŴ‖ / ‖XW‖ on {output.tokens:,} tokens"
    return [Fact("Output error", f"{output.relative:.2%}", hint)]


def _output_error(view: LayerView) -> list[Fact]:
    """The error of the layer's output, where the solver looked at that and not at the weights."""
    if view.solver != "calibrated":
        return []
    error, rtn = view.trace.error, view.trace.rtn_error
    hint = f"{error / rtn:.3f}× round-to-nearest" if rtn > 0 else "round-to-nearest is exact"
    return [Fact("Squared output error", f"{error:.3g}", hint, _tone(error, rtn))]


def _against(value: float, rtn: float, view: LayerView) -> str:
    if view.config.solver == "rtn":
        return "round-to-nearest"
    return f"{value / rtn:.3f}× round-to-nearest" if rtn > 0 else "round-to-nearest is exact"


def _gain(now: ErrorSummary, rtn: ErrorSummary, view: LayerView) -> str:
    if view.config.solver == "rtn" or now.mse == 0 or rtn.mse == 0:
        return "signal to error"
    gain = now.sqnr_db - rtn.sqnr_db
    return f"{abs(gain):.2f} dB {'above' if gain >= 0 else 'below'} round-to-nearest"


def _tone(value: float, rtn: float) -> Tone:
    return "good" if value < rtn else ""


def described(view: LayerView) -> str:
    """Say under which settings a view came about."""
    config = view.config
    zero = "0 is kept exact" if config.domain != "float" else "0 need not be exact"
    if config.domain == "float" and config.preserve_zero:
        zero = "each range reaches to 0"
    return f"group size {config.group_size}, {config.domain} zero point, {view.solver}, {zero}"
