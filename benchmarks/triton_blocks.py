"""Block sizes of the fused Triton kernel on this card, against those of the table in `workbench.triton.blocks`.

For each batch the sizes around the table's are timed in captured graphs, then the numbers of splits of K for the best.
What wins here by more than noise belongs into the table.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from benchmarks.cuda_graphs import copies_beyond_l2, require_gpu
from benchmarks.report import Goal, Report, Row, finish, options, time_row
from workbench.layout import Layout
from workbench.measure.graphs import Call, time_captured
from workbench.packed import PackedWeight
from workbench.triton.blocks import Blocks, choose_blocks
from workbench.triton.kernels import fused_linear, gpu_facts, triton_available, triton_note

BATCHES = (1, 16, 32, 64, 128, 512)
INNER_K_TILES = 8
DEVICE = "cuda"
_SPLITS = (1, 2, 4, 7, 8, 14, 16)


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark."""
    parser = options("Time block sizes of the fused Triton kernel.")
    parser.add_argument("-n", type=int, default=4096, help="out_features, a multiple of 8 (default 4096)")
    parser.add_argument("-k", type=int, default=14336, help="in_features, a multiple of 128 (default 14336)")
    parser.add_argument("--group-size", type=int, default=64)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=list(BATCHES))
    parser.add_argument("--budget", type=float, default=0.02, help="seconds for each candidate (default 0.02)")
    args = parser.parse_args(argv)
    if args.n % 8 or args.k % 128 or args.k % args.group_size:
        parser.error("N must be a multiple of 8, K of 128 and of the group size")
    require_gpu()
    if not triton_available(DEVICE):
        raise SystemExit(triton_note(DEVICE))
    weights = make_weights(args.n, args.k, args.group_size)
    rows: list[Row] = []
    goals: list[Goal] = []
    for m in args.batch_sizes:
        x = torch.randn(m, args.k, device=DEVICE).to(torch.bfloat16)
        sweep(x, weights, args.budget, rows, goals)
    settings = {key: getattr(args, key) for key in ("n", "k", "group_size", "batch_sizes")}
    finish(Report("triton_blocks", {**settings, "kernels": triton_note(DEVICE)}, rows, goals, DEVICE), args.json)
    return 0


def sweep(x: Tensor, weights: Sequence[PackedWeight], budget_s: float, rows: list[Row], goals: list[Goal]) -> None:
    """Add the rows of one batch, and how far the table's sizes are from the best."""
    (m, k), n = x.shape, weights[0].out_features
    table = choose_blocks(m, n, k, INNER_K_TILES, **gpu_facts(x.device))
    times = time_sizes([table, *sizes_around(table)], x, weights, budget_s)
    best = min(times, key=lambda size: statistics.median(times[size]))
    steps = k // best.k
    others = [count for count in _SPLITS if steps % count == 0 and count != best.splits]
    splits = [] if best.parts > 1 else [replace(best, splits=count) for count in others]
    times |= time_sizes(splits, x, weights, budget_s)
    best = min(times, key=lambda size: statistics.median(times[size]))
    for size, seconds in times.items():
        row = {name: getattr(size, name) for name in ("m", "n", "k", "warps", "stages", "splits", "parts")}
        notes = ["table"] * (size == table) + ["fastest"] * (size == best)
        rows.append({"batch": m, **row, **time_row(seconds), "note": ", ".join(notes)})
    over = statistics.median(times[table]) / statistics.median(times[best])
    goals.append(Goal(f"batch {m}: the table's sizes over the fastest", float(f"{over:.4g}"), 1.1, "at most"))


def sizes_around(table: Blocks) -> Iterator[Blocks]:
    """Yield sizes near those of the table."""
    if table.parts > 1:
        for n, parts, stages in itertools.product((16, 32), (4, 8), (2, 3, 4)):
            if (size := replace(table, n=n, parts=parts, stages=stages)) != table:
                yield size
        return
    for m in sorted({min(128, table.m), min(256, 2 * table.m)}):
        for n, warps in ((64, 4), (128, 8), (256, 8)):
            for stages in (2, 3, 4):
                size = replace(table, m=m, n=n, warps=warps, stages=stages)
                if size != table and m * n <= 256 * 128:
                    yield size


def time_sizes(
    sizes: Sequence[Blocks], x: Tensor, weights: Sequence[PackedWeight], budget_s: float
) -> dict[Blocks, list[float]]:
    """Return sizes → seconds of one product; sizes that this card has no room for are left out."""
    calls: dict[str, Sequence[Call]] = {}
    for size in sizes:
        candidates: Sequence[Call] = [partial(multiply, weight=weight, size=size) for weight in weights]
        if fits(candidates[0], x):
            calls[str(size)] = candidates
    named = {str(size): size for size in sizes}
    return {named[name]: seconds for name, seconds in time_captured(calls, x, budget_s).items()}


def fits(call: Call, x: Tensor) -> bool:
    """Say whether the kernel has the shared memory and registers that its sizes need."""
    try:
        call(x)
    except Exception as error:
        if "OutOfResources" in type(error).__name__:
            return False
        raise
    return True


def multiply(x: Tensor, *, weight: PackedWeight, size: Blocks) -> Tensor:
    """Multiply with the fused kernel at given sizes."""
    tensors = (weight.packed, weight.scales_and_zeros)
    return fused_linear(x, *tensors, weight.group_size, INNER_K_TILES, blocks=size)


def make_weights(n: int, k: int, group_size: int) -> list[PackedWeight]:
    """Return random packed weights, together beyond the L2."""
    layout = Layout("cuda", INNER_K_TILES)
    generator = torch.Generator(DEVICE).manual_seed(0)

    def one() -> PackedWeight:
        shape = layout.packed_shape(n, k)
        words = torch.randint(-(2**31), 2**31, shape, generator=generator, device=DEVICE).to(torch.int32)
        pairs = torch.rand(k // group_size, n, 2, generator=generator, device=DEVICE).to(torch.bfloat16)
        return PackedWeight(words, pairs, layout, n, k, group_size)

    return [one() for _ in range(copies_beyond_l2(n * k // 2))]


if __name__ == "__main__":
    raise SystemExit(main())
