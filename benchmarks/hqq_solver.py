"""The half-quadratic solver against the hqq package on one weight: time, and mean |error| of what each would store.

Both get the same float32 weight and give codes, scales and zero points; nothing is packed. The package runs its own
default for 4 bits along the rows (optimize_weights_proximal: lp 0.7, beta 10, kappa 1.01, at most 20 iterations, it
stops early by itself) and is judged by its own dequantization in float32.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.report import Goal, Report, Row, finish, llm_like_weight, options, ratio, time_row
from workbench.config import Int4WeightOnlyConfig
from workbench.measure.timing import time_interleaved
from workbench.options import HqqOptions
from workbench.solvers import solve

Solver = Callable[[], Tensor]
_SCALE_DTYPES = {"ours, bfloat16 scales": torch.bfloat16, "ours, float32 scales": torch.float32}
_PEER = "hqq package, float32 scales"


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark."""
    parser = options("Time the half-quadratic solver against the hqq package.")
    parser.add_argument("-n", type=int, default=4096, help="rows of the weight (default 4096)")
    parser.add_argument("-k", type=int, default=4096, help="columns of the weight (default 4096)")
    parser.add_argument("--group-size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=7, help="timed calls of each solver (default 7)")
    parser.add_argument("--without-peer", action="store_true", help="run ours only (hqq need not be installed)")
    args = parser.parse_args(argv)
    weight = llm_like_weight(args.n, args.k)
    results: dict[str, Any] = {}
    calls = {name: _ours(weight, args.group_size, dtype, results, name) for name, dtype in _SCALE_DTYPES.items()}
    if not args.without_peer:
        calls[_PEER] = _peer(weight, args.group_size, results)
    times = time_interleaved(calls, budget_s=0, min_runs=args.rounds, warm_up=1)
    errors = {name: float((restore() - weight).abs().mean(dtype=torch.float64)) for name, restore in results.items()}
    settings = {key: getattr(args, key) for key in ("n", "k", "group_size", "rounds")} | {"iterations": 20}
    if not args.without_peer:
        settings["hqq"] = importlib.metadata.version("hqq")
    rows = [_row(name, times, errors) for name in calls]
    finish(Report("hqq_solver", settings, rows, _goals(times, errors)), args.json)
    return 0


def _ours(weight: Tensor, group_size: int, dtype: torch.dtype, results: dict[str, Any], name: str) -> Solver:
    config = Int4WeightOnlyConfig(group_size=group_size, use_hqq=True).resolved(
        domain="float", scale_dtype=dtype, options=HqqOptions(lp_norm=0.7, beta=10, kappa=1.01, iters=20)
    )

    def call() -> Any:
        solved = solve(weight, config).weight
        results[name] = solved.dequantize
        return solved

    return call


def _peer(weight: Tensor, group_size: int, results: dict[str, Any]) -> Solver:
    quantizer = importlib.import_module("hqq.core.quantize").Quantizer

    def call() -> Any:
        codes, meta = quantizer.quantize(
            weight, nbits=4, group_size=group_size, axis=1, bitpack=False, compute_dtype=torch.float32, device="cpu"
        )
        results[_PEER] = lambda: quantizer.dequantize(codes, {**meta, "compute_dtype": torch.float32})
        return codes

    return call


def _row(name: str, times: dict[str, list[float]], errors: dict[str, float]) -> Row:
    faster = ratio(times[_PEER], times[name]) if _PEER in times else None
    relative = errors[name] / errors[_PEER] if _PEER in times else None
    return {
        "solver": name,
        **time_row(times[name]),
        "times_faster": faster,
        "mean_abs_error": float(f"{errors[name]:.6g}"),
        "error_over_hqq": None if relative is None else float(f"{relative:.5g}"),
    }


def _goals(times: dict[str, list[float]], errors: dict[str, float]) -> list[Goal]:
    if _PEER not in times:
        return []
    goals = []
    for name in _SCALE_DTYPES:
        goals.append(Goal(f"{name}: times faster than hqq", ratio(times[_PEER], times[name]), 8, "at least"))
        goals.append(Goal(f"{name}: mean |error| over hqq's", errors[name] / errors[_PEER], 1, "at most"))
    return goals


if __name__ == "__main__":
    raise SystemExit(main())
