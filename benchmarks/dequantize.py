"""Dequantizing a packed weight in blocks, against the time that only moving its bytes takes.

The floor reads the packed bytes and writes each block's bytes into the same scratch, by torch's own sum and fill, which
run at the speed of the memory and the caches.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import torch

from benchmarks.report import Goal, Report, finish, llm_like_weight, options, ratio, time_row
from workbench.config import Int4WeightOnlyConfig
from workbench.dequantize import block_rows, dequantized, iter_blocks
from workbench.measure.timing import time_interleaved
from workbench.native import VARIABLE, native_note
from workbench.packed import PackedWeight, pack_weight
from workbench.solvers import quantize_weight

DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}
_COPIES = 8  # of 8 MB: more than the second-level caches


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark."""
    parser = options("Time dequantizing in blocks against moving the bytes.")
    parser.add_argument("-n", type=int, default=4096, help="out_features (default 4096)")
    parser.add_argument("-k", type=int, default=4096, help="in_features (default 4096)")
    parser.add_argument("--group-size", type=int, default=64)
    parser.add_argument("--budget", type=float, default=1.0, help="seconds for each candidate (default 1)")
    parser.add_argument("--without-compiler", action="store_true", help="leave the compiled kernels out")
    args = parser.parse_args(argv)
    if args.without_compiler:
        os.environ[VARIABLE] = "0"
    weight = quantize_weight(llm_like_weight(args.n, args.k), Int4WeightOnlyConfig(group_size=args.group_size))
    copies = [pack_weight(weight, "cpu") for _ in range(_COPIES)]
    rows, goals = [], []
    for name, dtype in DTYPES.items():
        calls = {what: _in_turn(work, copies, dtype) for what, work in _WORK.items()}
        with torch.inference_mode():
            times = time_interleaved(calls, budget_s=args.budget, max_runs=2000)
        for what, seconds in times.items():
            row = {"dtype": name, "what": what, **time_row(seconds), "over_floor": ratio(seconds, times["floor"])}
            row["weights_per_ns"] = float(f"{args.n * args.k / (row['time_ms'] * 1e6):.4g}")
            rows.append(row)
        goals.append(Goal(f"{name} blocks: time over the floor", ratio(times["blocks"], times["floor"]), 2, "at most"))
    settings = {key: getattr(args, key) for key in ("n", "k", "group_size")}
    name = "dequantize_without_compiler" if args.without_compiler else "dequantize"
    finish(Report(name, {**settings, "kernels": native_note()}, rows, goals), args.json)
    return 0


def _floor(weight: PackedWeight, dtype: torch.dtype) -> None:
    weight.packed.view(-1).view(torch.int64).sum()
    n, k = weight.padded
    scratch = torch.empty(k, min(n, block_rows(weight.packed.device, k, dtype)), dtype=dtype)
    for _ in range(0, n, scratch.shape[1]):
        scratch.fill_(1)


def _blocks(weight: PackedWeight, dtype: torch.dtype) -> None:
    for _ in iter_blocks(weight, dtype):
        pass


def _whole(weight: PackedWeight, dtype: torch.dtype) -> None:
    dequantized(weight, dtype)


def _portable(weight: PackedWeight, dtype: torch.dtype) -> None:
    weight.quantized().dequantize(dtype)


_WORK: dict[str, Callable[[PackedWeight, torch.dtype], None]] = {
    "floor": _floor,
    "blocks": _blocks,
    "whole weight": _whole,
    "through the portable form": _portable,
}


def _in_turn(
    work: Callable[[PackedWeight, torch.dtype], None], copies: list[PackedWeight], dtype: torch.dtype
) -> Callable[[], None]:
    turn = 0

    def call() -> None:
        nonlocal turn
        turn = (turn + 1) % len(copies)
        work(copies[turn], dtype)

    return call


if __name__ == "__main__":
    raise SystemExit(main())
