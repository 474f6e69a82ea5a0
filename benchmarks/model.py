"""Tokens per second of a whole model: int4 against dense bfloat16 and against torchao's CPU tensor, in one run.

A Llama shape of 477 M parameters with random bfloat16 weights, four times: dense; ours with the output head left dense,
and with an int4 one; torchao 0.11's `Int4WeightOnlyConfig` with `Int4CPULayout`, output head dense. All take turns at
`generate`: greedy, one sequence, key-value cache, a prompt of fixed random tokens. All use the same group size and
round to nearest, so that all multiply with the same number of bits; which values they hold changes no time.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from typing import Any

from torch import nn

import workbench as wb
from benchmarks.llama import llama, millions_of_parameters
from benchmarks.report import Goal, Report, Row, finish, options
from workbench.measure.throughput import measure_throughput
from workbench.measure.throughput_report import ModelThroughput, ThroughputReport
from workbench.recipe.recipe import Choice

DENSE, INT4, INT4_HEAD, TORCHAO = "dense bf16", "int4", "int4, int4 head", "torchao int4"


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark."""
    parser = options("Measure the tokens per second of whole models.")
    parser.add_argument("--hidden", type=int, default=2048, help="hidden size (default 2048)")
    parser.add_argument("--layers", type=int, default=8, help="layers (default 8)")
    parser.add_argument("--group-size", type=int, default=64)
    parser.add_argument("--prompt-tokens", type=int, default=256, help="tokens of the prompt (default 256)")
    parser.add_argument("--new-tokens", type=int, default=32, help="timed tokens in each turn (default 32)")
    parser.add_argument("--rounds", type=int, default=8, help="timed turns of each model (default 8)")
    parser.add_argument("--compiled", action="store_true", help="measure all of them again, compiled")
    parser.add_argument("--without-peers", action="store_true", help="leave torchao out (it need not be there)")
    args = parser.parse_args(argv)
    models = make_models(args.hidden, args.layers, args.group_size, peers=not args.without_peers)
    sizes = {key: getattr(args, key) for key in ("prompt_tokens", "new_tokens", "rounds")}
    settings = {key: getattr(args, key) for key in ("hidden", "layers", "group_size")} | sizes
    settings["parameters_m"] = millions_of_parameters(models[DENSE])
    if not args.without_peers:
        settings["torchao"] = importlib.metadata.version("torchao")
    eager = measure_throughput(models, **sizes)
    rows, goals = _rows("eager", eager), _goals(eager)
    if args.compiled:
        for model in models.values():
            wb.compile_model(model)
        rows += _rows("compiled", measure_throughput(models, **sizes))
    finish(Report("model", settings, rows, goals), args.json)
    return 0


def make_models(hidden: int, layers: int, group_size: int, *, peers: bool) -> dict[str, nn.Module]:
    """Return the same model dense, in our int4 with either output head, and in torchao's if `peers`."""
    models: dict[str, Any] = {name: llama(hidden, layers) for name in (DENSE, INT4, INT4_HEAD)}
    config = wb.Int4WeightOnlyConfig(group_size=group_size)
    wb.quantize_(models[INT4], config)
    wb.quantize_(models[INT4_HEAD], wb.Recipe(Choice(config), output_head=True))
    if peers:
        models[TORCHAO] = llama(hidden, layers)
        _quantize_with_torchao(models[TORCHAO], group_size)
    return models


def _quantize_with_torchao(model: nn.Module, group_size: int) -> None:
    torchao, dtypes = importlib.import_module("torchao.quantization"), importlib.import_module("torchao.dtypes")
    config = torchao.Int4WeightOnlyConfig(
        group_size=group_size, layout=dtypes.Int4CPULayout(), set_inductor_config=False
    )
    torchao.quantize_(model, config, filter_fn=lambda module, name: isinstance(module, nn.Linear) and name != "lm_head")


def _rows(mode: str, report: ThroughputReport) -> list[Row]:
    return [_row(mode, phase, one, report) for phase in ("decode", "prefill") for one in report.models]


def _row(mode: str, phase: str, one: ModelThroughput, report: ThroughputReport) -> Row:
    values = one.to_json()
    row: Row = {"mode": mode, "phase": phase, "model": one.name}
    row |= {name: _rounded(values[f"{phase}_{key}"]) for name, key in _TIMES.items()}
    row |= {"runs": values[f"{phase}_runs"], "tokens_per_s": _rounded(values[f"{phase}_tokens_per_s"])}
    for name, other in (("over_dense", DENSE), ("over_torchao", TORCHAO)):
        row[name] = _times_faster(report, one.name, other, phase)
    return row | {"weights_mb": _rounded(one.weight_bytes / 1e6)}


_TIMES = {"time_ms": "ms", "p10_ms": "p10_ms", "p90_ms": "p90_ms"}


def _times_faster(report: ThroughputReport, name: str, other: str, phase: str) -> float | None:
    """Return how many times faster a model is than another, or None where the other was not measured."""
    if other not in (one.name for one in report.models):
        return None
    theirs, ours = (report[which].to_json()[f"{phase}_ms"] for which in (other, name))
    return _rounded(theirs / ours)


def _goals(report: ThroughputReport) -> list[Goal]:
    promised = [
        ("decode", INT4, TORCHAO, 1.05),
        ("decode", INT4_HEAD, TORCHAO, 1.3),
        ("prefill", INT4, TORCHAO, 2),
        ("prefill", INT4, DENSE, 0.85),
    ]
    goals = []
    for phase, name, other, limit in promised:
        faster = _times_faster(report, name, other, phase)
        if faster is not None:
            goals.append(Goal(f"{phase}, {name}: times as fast as {other}", faster, limit, "at least"))
    return goals


def _rounded(value: float) -> float:
    return float(f"{value:.5g}")


if __name__ == "__main__":
    raise SystemExit(main())
