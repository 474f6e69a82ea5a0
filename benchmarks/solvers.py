"""The solvers against the hqq and torchao packages on the same weights: time, peak memory, error in three norms.

All get the same float32 weight and give codes, scales and zero points; nothing is packed. The packages run their own
HQQ for 4 bits along the rows with their own defaults and float32 arithmetic, and are judged by their own dequantization
in float32. Two weights: heavy-tailed random, and all linear layers of the demo model laid end to end. Beside them, the
calibrated solver on the random weight with made-up correlated inputs: time and peak memory.

What the solvers do to models: `python -m benchmarks.solver_models`.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.memory import peak_bytes
from benchmarks.report import Goal, Report, Row, finish, llm_like_weight, options, ratio, time_row
from workbench.config import Int4WeightOnlyConfig
from workbench.demo import demo_path
from workbench.measure.timing import time_interleaved
from workbench.options import SolverName
from workbench.safetensors_folder import SafetensorsFolder
from workbench.solvers import InputMoments, solve

Call = Callable[[], Any]
NORMS = (2.0, 1.0, 0.7)
DATA_FREE: tuple[SolverName, ...] = ("rtn", "hqq", "refined")
PEERS = ("hqq package", "torchao package")
_MIB = 2**20


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark."""
    parser = options("Time the solvers against the hqq and torchao packages.")
    parser.add_argument("-n", type=int, default=4096, help="rows of the random weight (default 4096)")
    parser.add_argument("-k", type=int, default=4096, help="columns of the random weight (default 4096)")
    parser.add_argument("--group-size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5, help="timed calls of each solver (default 5)")
    parser.add_argument("--without-peers", action="store_true", help="run ours only (the packages need not be there)")
    parser.add_argument("--without-calibrated", action="store_true", help="leave out the slow calibrated solver")
    args = parser.parse_args(argv)
    random, demo = llm_like_weight(args.n, args.k), demo_weight()
    weights = {f"random {args.n}x{args.k}": random, f"demo model {demo.shape[0]}x{demo.shape[1]}": demo}
    rows: list[Row] = []
    goals: list[Goal] = []
    for name, weight in weights.items():
        _compare(name, weight, args.group_size, args.rounds, not args.without_peers, rows, goals)
    if not args.without_calibrated:
        _calibrated(next(iter(weights)), random, args.group_size, rows, goals)
    settings = {key: getattr(args, key) for key in ("group_size", "rounds")} | {"hqq_iterations": 20}
    if not args.without_peers:
        settings |= {package: importlib.metadata.version(package) for package in ("hqq", "torchao")}
    finish(Report("solvers", settings, rows, goals), args.json)
    return 0


def demo_weight() -> Tensor:
    """Return the weights of the demo model's linear layers, laid end to end in rows of 256: float32 [N, 256]."""
    stored = SafetensorsFolder(demo_path())
    names = [name for name in stored.names() if name.endswith("_proj.weight")]
    return torch.cat([stored.read(name).float().view(-1, 256) for name in names])


def _compare(
    name: str, weight: Tensor, group_size: int, rounds: int, peers: bool, rows: list[Row], goals: list[Goal]
) -> None:
    results: dict[str, Any] = {}
    calls: dict[str, Call] = {solver: _ours(weight, group_size, solver, results) for solver in DATA_FREE}
    if peers:
        calls |= {PEERS[0]: _hqq(weight, group_size, results), PEERS[1]: _torchao(weight, group_size, results)}
    times = time_interleaved(calls, budget_s=0, min_runs=rounds, warm_up=1)
    errors = {one: _errors(weight, restore()) for one, (restore, _) in results.items()}
    reference = PEERS[0] if peers else "rtn"
    for one, call in calls.items():
        peak = peak_bytes(call)
        extra = None if peak is None else (peak - results[one][1]) / _MIB
        relative = [errors[one][place] / errors[reference][place] for place in range(len(NORMS))]
        rows.append(_row(name, one, times[one], times.get(PEERS[0]), extra, relative, reference))
        if one in DATA_FREE and one != "rtn" and peers:
            least = {"hqq": 25, "refined": 40}[one]
            goals.append(
                Goal(f"{name}, {one}: times faster than hqq", ratio(times[PEERS[0]], times[one]), least, "at least")
            )
        if one == "hqq" and peers:
            goals += [
                Goal(f"{name}, hqq: mean |error|^{norm:g} over the package's", relative[place], 1, "at most")
                for place, norm in enumerate(NORMS)
            ]
        if one in DATA_FREE and extra is not None:
            goals.append(Goal(f"{name}, {one}: MiB beyond input and output", extra, 64, "at most"))
    squared = errors["refined"][0] / errors["rtn"][0]
    goals.append(Goal(f"{name}, refined: squared error over round-to-nearest's", squared, 0.825, "at most"))
    for place, norm in enumerate(NORMS[1:], start=1):
        against = errors["refined"][place] / errors["hqq"][place]
        goals.append(Goal(f"{name}, refined: mean |error|^{norm:g} over our HQQ's", against, 1, "at most"))


def _row(
    weight: str,
    solver: str,
    times: list[float],
    package: list[float] | None,
    extra_mib: float | None,
    relative: list[float] | None,
    reference: str,
) -> Row:
    errors = relative or [None] * len(NORMS)  # type: ignore[list-item]
    return {
        "weight": weight,
        "solver": solver,
        **time_row(times),
        "times_faster": None if package is None else ratio(package, times),
        "extra_mib": None if extra_mib is None else float(f"{extra_mib:.3g}"),
        **{
            f"error_{norm:g}": None if value is None else float(f"{value:.5g}")
            for norm, value in zip(NORMS, errors, strict=True)
        },
        "errors_over": reference,
    }


def _errors(weight: Tensor, restored: Tensor) -> list[float]:
    size = (restored - weight).abs_()
    return [float(size.pow(norm).mean(dtype=torch.float64)) for norm in NORMS]


def _ours(weight: Tensor, group_size: int, solver: SolverName, results: dict[str, Any]) -> Call:
    config = Int4WeightOnlyConfig(group_size=group_size).resolved(domain="float", solver=solver)

    def call() -> Any:
        solved = solve(weight, config).weight
        parts = (solved.codes, solved.scale, solved.zero)
        results[solver] = solved.dequantize, sum(part.nbytes for part in parts if part is not None)
        return solved

    return call


def _hqq(weight: Tensor, group_size: int, results: dict[str, Any]) -> Call:
    quantizer = importlib.import_module("hqq.core.quantize").Quantizer

    def call() -> Any:
        codes, meta = quantizer.quantize(
            weight, nbits=4, group_size=group_size, axis=1, bitpack=False, compute_dtype=torch.float32, device="cpu"
        )
        meta = {**meta, "compute_dtype": torch.float32}
        size = sum(part.nbytes for part in (codes, meta["scale"], meta["zero"]))
        results[PEERS[0]] = (lambda: quantizer.dequantize(codes, meta)), size
        return codes

    return call


def _torchao(weight: Tensor, group_size: int, results: dict[str, Any]) -> Call:
    solver = importlib.import_module("torchao.quantization.quant_primitives")

    def call() -> Any:
        codes, scale, zero, shape = solver.choose_qparams_and_quantize_affine_hqq(
            weight,
            nbits=4,
            group_size=group_size,
            axis=1,
            compute_dtype=torch.float32,
            device="cpu",
            raw_output=True,
        )

        def restore() -> Tensor:
            groups = codes.view(-1, group_size).float()
            restored: Tensor = ((groups - zero.view(-1, 1)) * scale.view(-1, 1)).view(shape)
            return restored

        results[PEERS[1]] = restore, sum(part.nbytes for part in (codes, scale, zero))
        return codes

    return call


def _calibrated(name: str, weight: Tensor, group_size: int, rows: list[Row], goals: list[Goal]) -> None:
    generator = torch.Generator().manual_seed(1)
    k = weight.shape[1]
    moments, mix = InputMoments.empty(k), torch.randn(k // 8, k, generator=generator)
    for _ in range(4):
        shared = torch.randn(2048, len(mix), generator=generator) @ mix
        moments.add(shared + 3 * torch.randn(2048, k, generator=generator))
    config = Int4WeightOnlyConfig(group_size=group_size).resolved(domain="float", solver="calibrated")
    size: list[int] = []

    def call() -> None:
        solved = solve(weight, config, statistics=moments).weight
        size[:] = [sum(part.nbytes for part in (solved.codes, solved.scale, solved.zero) if part is not None)]

    peak: list[int | None] = []
    times = time_interleaved({"calibrated": lambda: peak.append(peak_bytes(call))}, budget_s=0, min_runs=1, warm_up=0)
    extra = None if peak[-1] is None else (peak[-1] - size[0]) / _MIB
    rows.append(_row(name, "calibrated", times["calibrated"], None, extra, None, ""))
    goals.append(Goal(f"{name}, calibrated: seconds", max(times["calibrated"]), 60, "at most"))


if __name__ == "__main__":
    raise SystemExit(main())
