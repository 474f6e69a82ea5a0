"""What the solvers do to models: the demo model's quality, and the time that a model of 480 M parameters takes.

The demo model, for each solver and group size: perplexity and mean KL divergence from the unquantized model on its
held-out text, and the squared output error of each layer on held-out inputs (of the unquantized model), as a share of
HQQ's, averaged over the layers. Calibrated with the demo model's calibration text. Then a Llama-shaped model of random
weights (hidden 2048, intermediate 5632, 8 layers), quantized in place with HQQ after one such layer as a warm-up.
"""

from __future__ import annotations

import time
from typing import Any

from torch import Tensor, nn

import workbench as wb
from benchmarks.llama import llama
from benchmarks.report import Goal, Report, Row, finish, options, time_row
from workbench.calibration import Calibration, layer_moments
from workbench.demo import demo_calibration_text, demo_eval_text
from workbench.measure.quality import measure_qualities, text_ids
from workbench.options import SOLVERS
from workbench.quantization_report import QuantizationReport

WINDOW = 512
_COMMON = ("perplexity", "mean_kl", "kl_over_hqq", "held_out_error_over_hqq")


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark."""
    parser = options("Measure what the solvers do to models.")
    parser.add_argument("--group-sizes", type=int, nargs="+", default=[32, 64, 128])
    parser.add_argument("--windows", type=int, default=0, help="windows of 512 held-out tokens (default 0: all)")
    parser.add_argument("--sequences", type=int, default=128, help="most calibration sequences (default 128)")
    parser.add_argument(
        "--calibrate-on-held-out", action="store_true", help="calibrate with the held-out text itself: a bound"
    )
    parser.add_argument("--layers", type=int, default=8, help="layers of the large model (default 8; 0 leaves it out)")
    parser.add_argument("--hidden", type=int, default=2048, help="hidden size of the large model (default 2048)")
    args = parser.parse_args(argv)
    rows: list[Row] = []
    goals: list[Goal] = []
    demo = _Demo(
        args.windows, args.sequences, demo_eval_text() if args.calibrate_on_held_out else demo_calibration_text()
    )
    for group_size in args.group_sizes:
        demo.measure(group_size, rows, goals)
    if args.layers:
        _large_model(args.hidden, args.layers, rows, goals)
    names = ("group_sizes", "windows", "sequences", "calibrate_on_held_out", "layers", "hidden")
    settings = {key: getattr(args, key) for key in names}
    finish(Report("solver_models", settings, rows, goals), args.json)
    return 0


class _Demo:
    def __init__(self, windows: int, sequences: int, text: str) -> None:
        self.dense, self.tokenizer = wb.demo_model()
        ids = text_ids(demo_eval_text(), self.tokenizer)
        self.ids = ids[: windows * WINDOW] if windows else ids
        self.calibration = Calibration.from_text(text, self.tokenizer, max_sequences=sequences)
        self.weights = {
            name: module.weight.detach().double()
            for name, module in self.dense.named_modules()
            if isinstance(module, nn.Linear) and name != "lm_head"
        }
        held_out = Calibration(self.ids[: len(self.ids) // WINDOW * WINDOW].view(-1, WINDOW))
        moments = layer_moments(self.dense, list(self.weights), held_out)
        self.moments = {name: one.total.double() / one.tokens for name, one in moments.items()}

    def measure(self, group_size: int, rows: list[Row], goals: list[Goal]) -> None:
        """Quantize the demo model with each solver and measure all of them in one pass over the text."""
        models: dict[str, Any] = {}
        reports: dict[str, QuantizationReport] = {}
        for solver in SOLVERS:
            model, _ = wb.demo_model()
            text = self.calibration if solver == "calibrated" else None
            config = wb.Int4WeightOnlyConfig(group_size=group_size)
            reports[solver] = wb.quantize_(model, config, solver=solver, calibration=text)
            models[solver] = model
        found = measure_qualities(models, self.ids, reference=self.dense, window=WINDOW)
        errors = {solver: self._errors(model) for solver, model in models.items()}
        kl = {solver: _known(one.mean_kl) for solver, one in found.items()}
        shares = {solver: _mean_ratio(errors[solver], errors["hqq"]) for solver in SOLVERS}
        for solver in SOLVERS:
            values = (found[solver].perplexity, kl[solver], kl[solver] / kl["hqq"], shares[solver])
            rows.append(_row(f"demo g{group_size}", solver, reports[solver].seconds, values))
        if group_size == 64:
            goals.append(
                Goal("demo g64, calibrated: held-out output error over HQQ's", shares["calibrated"], 0.3, "at most")
            )
        if group_size == 128:
            share = kl["calibrated"] / kl["hqq"]
            goals.append(Goal("demo g128, calibrated: mean KL over HQQ's", share, 0.4, "at most"))

    def _errors(self, model: Any) -> list[float]:
        """Squared output error of each layer on held-out inputs, for each token and row."""
        return [
            float(_output_error(model.get_submodule(name).weight.double() - weight, self.moments[name]))
            for name, weight in self.weights.items()
        ]


def _output_error(difference: Tensor, moments: Tensor) -> Tensor:
    return ((difference @ moments) * difference).sum() / len(difference)


def _mean_ratio(values: list[float], bases: list[float]) -> float:
    return sum(value / base for value, base in zip(values, bases, strict=True)) / len(bases)


def _known(value: float | None) -> float:
    assert value is not None, "measured against a reference"
    return value


def _row(model: str, solver: str, seconds: float, values: tuple[float | None, ...]) -> Row:
    rounded = (None if value is None else float(f"{value:.5g}") for value in values)
    return {"model": model, "solver": solver, **time_row([seconds]), **dict(zip(_COMMON, rounded, strict=True))}


def _large_model(hidden: int, layers: int, rows: list[Row], goals: list[Goal]) -> None:
    model = llama(hidden, layers)
    cfg = wb.Int4WeightOnlyConfig(group_size=64, use_hqq=True)
    wb.Int4Linear.from_linear(model.model.layers[0].self_attn.q_proj, cfg)
    start = time.perf_counter()
    wb.quantize_(model, cfg)
    seconds = time.perf_counter() - start
    int4 = [module for module in model.modules() if isinstance(module, wb.Int4Linear)]
    parameters = sum(layer.out_features * layer.in_features for layer in int4)
    name = f"Llama {hidden}, {layers} layers, {parameters / 1e6:.0f} M int4 weights"
    rows.append(_row(name, "hqq", seconds, (None,) * len(_COMMON)))
    if (hidden, layers) == (2048, 8):
        goals.append(Goal(f"{name}, HQQ: seconds", seconds, 12, "at most"))


if __name__ == "__main__":
    raise SystemExit(main())
