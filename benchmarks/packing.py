"""Packing codes for the CPU kernel against the op that does it in PyTorch.

The op takes int32 codes, ours takes uint8: each is timed from what it takes, and both also from the other's input, the
conversion included. Ours checks that every code is 0 to 15 in that time; the op does not.
"""

from __future__ import annotations

import torch

from benchmarks.report import Goal, Report, finish, options, ratio, time_row
from workbench.device_layout import required_layout
from workbench.measure.timing import time_interleaved
from workbench.packing import pack, unpack


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark."""
    parser = options("Time packing for the CPU kernel against PyTorch's op.")
    parser.add_argument("-n", type=int, default=4096, help="rows, a multiple of 16 (default 4096)")
    parser.add_argument("-k", type=int, default=4096, help="columns, an even number (default 4096)")
    parser.add_argument("--budget", type=float, default=2.0, help="seconds for each candidate (default 2)")
    args = parser.parse_args(argv)
    layout = required_layout("cpu")
    codes = torch.randint(0, 16, (args.n, args.k), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    wide = codes.int()
    op = torch.ops.aten._convert_weight_to_int4pack_for_cpu
    packed = pack(codes, layout)
    if not torch.equal(packed, op(wide, 1)):
        raise SystemExit("pack and the op disagree: nothing is timed")
    calls = {
        "pack, from uint8": lambda: pack(codes, layout),
        "op, from int32": lambda: op(wide, 1),
        "pack, from int32": lambda: pack(wide.to(torch.uint8), layout),
        "op, from uint8": lambda: op(codes.int(), 1),
        "unpack, to uint8": lambda: unpack(packed, layout, args.n, args.k),
    }
    times = time_interleaved(calls, budget_s=args.budget)
    rows = [{"what": name, **time_row(seconds)} for name, seconds in times.items()]
    settings = {"n": args.n, "k": args.k, "layout": str(layout)}
    goals = [
        Goal(f"op over pack, {what}", ratio(times[theirs], times[ours]), 1, "at least")
        for what, ours, theirs in (
            ("each from what it takes", "pack, from uint8", "op, from int32"),
            ("both from int32", "pack, from int32", "op, from int32"),
            ("both from uint8", "pack, from uint8", "op, from uint8"),
        )
    ]
    finish(Report("packing", settings, rows, goals), args.json)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
