"""`Int4Linear` against the bare int4 op and dense layers, by batch size and dtype of the activations.

All work through the same copies of one weight. The bare op takes bfloat16; with float16 and float32 it runs a scalar
loop, hundreds of times slower, which the layer avoids by casting, and is not timed. `--without-compiler` measures what
a machine without a C compiler gets.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.report import Goal, Report, finish, llm_like_weight, options, ratio, time_row
from workbench.choice import chosen_path
from workbench.config import Int4WeightOnlyConfig
from workbench.linear import Int4Linear
from workbench.measure.timing import copies_beyond_cache, rotating, time_interleaved
from workbench.native import VARIABLE, native_note
from workbench.packed import pack_weight
from workbench.solvers import quantize_weight

DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32, "float16": torch.float16}
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048)
# At least this share of dense bfloat16's speed, up to each batch.
SHARES = ((64, 0.65), (256, 0.75), (float("inf"), 0.85))
Times = dict[tuple[str, int, str], list[float]]


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark."""
    parser = options("Time Int4Linear against the bare op and dense layers.")
    parser.add_argument("-n", type=int, default=4096, help="out_features, a multiple of 64 (default 4096)")
    parser.add_argument("-k", type=int, default=4096, help="in_features, a multiple of the group size (default 4096)")
    parser.add_argument("--group-size", type=int, default=64)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=list(BATCHES))
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--budget", type=float, default=1.0, help="seconds for each candidate (default 1)")
    parser.add_argument("--without-compiler", action="store_true", help="leave the compiled kernels out")
    args = parser.parse_args(argv)
    if args.n % 64 or args.k % args.group_size:
        parser.error("the bare op does not pad: N must be a multiple of 64, K of the group size")
    if args.without_compiler:
        os.environ[VARIABLE] = "0"
    weight = llm_like_weight(args.n, args.k)
    times: Times = {}
    for dtype in args.dtypes:
        paths = _paths(weight, args.group_size, dtype)
        for batch in args.batch_sizes:
            x = torch.randn(batch, args.k, generator=torch.Generator().manual_seed(batch)).to(DTYPES[dtype])
            calls = {path: rotating(functions, x) for path, functions in paths.items()}
            with torch.inference_mode():
                found = time_interleaved(calls, budget_s=args.budget, max_runs=2000)
            times |= {(dtype, batch, path): seconds for path, seconds in found.items()}
    packed = pack_weight(quantize_weight(weight, Int4WeightOnlyConfig(group_size=args.group_size)), "cpu")
    rows = [
        {
            "dtype": dtype,
            "batch": batch,
            "path": path,
            "takes": chosen_path(packed, batch, DTYPES[dtype]) if path == "int4" else "",
            **time_row(seconds),
            "over_int4": ratio(seconds, times[dtype, batch, "int4"]),
        }
        for (dtype, batch, path), seconds in times.items()
    ]
    settings = {key: getattr(args, key) for key in ("n", "k", "group_size", "batch_sizes")}
    name = "int4_linear_without_compiler" if args.without_compiler else "int4_linear"
    finish(Report(name, {**settings, "kernels": native_note()}, rows, _goals(times)), args.json)
    return 0


def _paths(weight: Tensor, group_size: int, dtype: str) -> dict[str, Sequence[Callable[[Tensor], Any]]]:
    quantized = quantize_weight(weight, Int4WeightOnlyConfig(group_size=group_size))
    layer = Int4Linear(quantized, dtype=DTYPES[dtype])
    layers = copies_beyond_cache(layer, layer.size_bytes)
    dense = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    dense.weight = nn.Parameter(weight.to(DTYPES[dtype]), requires_grad=False)
    found: dict[str, Sequence[Callable[[Tensor], Any]]] = {"int4": layers}
    if dtype == "bfloat16":
        found["bare op"] = [_bare(one) for one in layers]
    return {**found, "dense": copies_beyond_cache(dense, dense.weight.numel() * dense.weight.element_size())}


def _bare(layer: nn.Module) -> Callable[[Tensor], Any]:
    assert isinstance(layer, Int4Linear)
    op, packed, group_size = torch.ops.aten._weight_int4pack_mm_for_cpu, layer.packed, layer.group_size
    scales_and_zeros = layer.scales_and_zeros
    return lambda x: op(x, packed, group_size, scales_and_zeros)


def _goals(times: Times) -> list[Goal]:
    goals = []
    for dtype, batch, path in times:
        if path != "int4":
            continue
        ours, dense = times[dtype, batch, "int4"], times[dtype, batch, "dense"]
        speedup = ratio(dense, ours)
        if dtype != "bfloat16":
            goals.append(Goal(f"{dtype}, batch {batch}: speed over dense {dtype}", speedup, 1.0, "at least"))
        elif batch <= 8:
            over = 1 / min(ratio(times[dtype, batch, "bare op"], ours), speedup)
            goals.append(Goal(f"batch {batch}: time over the better of op and dense", over, 1.05, "at most"))
        else:
            share = next(share for up_to, share in SHARES if batch <= up_to)
            goals.append(Goal(f"batch {batch}: speed over dense bfloat16", speedup, share, "at least"))
    return goals


if __name__ == "__main__":
    raise SystemExit(main())
