"""`Int4Linear` against the bare int4 op and against dense linear layers, by batch size and dtype of the activations.

All work through the same copies of one weight, larger than the cache together. The bare op gets its scales in the dtype
of the activations, as it demands; with float16 and float32 it runs a scalar loop, which the layer avoids by casting.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.report import Goal, Report, finish, llm_like_weight, options, ratio, time_row
from workbench.config import Int4WeightOnlyConfig
from workbench.linear import Int4Linear
from workbench.measure.timing import copies_beyond_cache, rotating, time_interleaved
from workbench.solvers import quantize_weight

DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32, "float16": torch.float16}


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark."""
    parser = options("Time Int4Linear against the bare op and dense layers.")
    parser.add_argument("-n", type=int, default=4096, help="out_features, a multiple of 64 (default 4096)")
    parser.add_argument("-k", type=int, default=4096, help="in_features, a multiple of the group size (default 4096)")
    parser.add_argument("--group-size", type=int, default=64)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--budget", type=float, default=2.0, help="seconds for each candidate (default 2)")
    args = parser.parse_args(argv)
    if args.n % 64 or args.k % args.group_size:
        parser.error("the bare op does not pad: N must be a multiple of 64, K of the group size")
    weight = llm_like_weight(args.n, args.k)
    times: dict[tuple[str, int, str], list[float]] = {}
    for dtype in DTYPES:
        paths = _paths(weight, args.group_size, DTYPES[dtype])
        for batch in args.batch_sizes:
            x = torch.randn(batch, args.k, generator=torch.Generator().manual_seed(batch)).to(DTYPES[dtype])
            calls = {path: rotating(functions, x) for path, functions in paths.items()}
            with torch.inference_mode():
                found = time_interleaved(calls, budget_s=args.budget, max_runs=2000)
            times |= {(dtype, batch, path): seconds for path, seconds in found.items()}
    rows = [
        {
            "dtype": dtype,
            "batch": batch,
            "path": path,
            **time_row(seconds),
            "over_int4": ratio(seconds, times[dtype, batch, "int4"]),
        }
        for (dtype, batch, path), seconds in times.items()
    ]
    settings = {key: getattr(args, key) for key in ("n", "k", "group_size", "batch_sizes")}
    finish(Report("int4_linear", settings, rows, _goals(times, args.batch_sizes)), args.json)
    return 0


def _paths(weight: Tensor, group_size: int, dtype: torch.dtype) -> dict[str, Sequence[Callable[[Tensor], Any]]]:
    quantized = quantize_weight(weight, Int4WeightOnlyConfig(group_size=group_size))
    layer = Int4Linear(quantized, dtype=dtype)
    layers = copies_beyond_cache(layer, layer.size_bytes)
    dense = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    dense.weight = nn.Parameter(weight.to(dtype), requires_grad=False)
    return {
        "int4": layers,
        "bare op": [_bare(one, dtype) for one in layers],
        "dense": copies_beyond_cache(dense, dense.weight.numel() * dense.weight.element_size()),
    }


def _bare(layer: nn.Module, dtype: torch.dtype) -> Callable[[Tensor], Any]:
    assert isinstance(layer, Int4Linear)
    op, packed, group_size = torch.ops.aten._weight_int4pack_mm_for_cpu, layer.packed, layer.group_size
    scales_and_zeros = layer.scales_and_zeros.to(dtype)
    return lambda x: op(x, packed, group_size, scales_and_zeros)


def _goals(times: dict[tuple[str, int, str], list[float]], batch_sizes: Sequence[int]) -> list[Goal]:
    goals = []
    if 1 in batch_sizes:
        over = ratio(times["bfloat16", 1, "int4"], times["bfloat16", 1, "bare op"])
        goals.append(Goal("bfloat16, batch 1: Int4Linear over the bare op", over, 1.1, "at most"))
    for batch in batch_sizes:
        faster = ratio(times["float32", batch, "bare op"], times["float32", batch, "int4"])
        goals.append(Goal(f"float32, batch {batch}: times faster than the bare op", faster, 20, "at least"))
    return goals


if __name__ == "__main__":
    raise SystemExit(main())
