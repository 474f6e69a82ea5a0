"""The paths of an int4 linear layer on a GPU against dense bfloat16 by cuBLAS, by batch size, in captured CUDA graphs.

For each shape and group size: PyTorch's op, dequantizing in blocks with cuBLAS, the fused Triton kernel, our layer,
which chooses one of them, and the dense layer. A graph works through copies of the weight that are together four times
the L2. The share of the roofline is against the copy bandwidth and the matmul rate measured on the same card.
"""

from __future__ import annotations

import copy
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.cuda_graphs import copies_beyond_l2, require_gpu
from benchmarks.report import Goal, Report, Row, finish, options, ratio, time_row
from workbench.affine import QuantizedWeight
from workbench.choice import available_paths, chosen_path
from workbench.cuda_paths import tiles_note
from workbench.kernels import int4_linear
from workbench.linear import Int4Linear
from workbench.measure.graphs import Call, time_captured
from workbench.measure.roofline import Roofline, measure_roofline
from workbench.tuning import tune

SHAPES = ("4096x14336", "4096x4096")
GROUP_SIZES = (64, 128)
BATCHES = (1, 2, 4, 8, 16, 17, 32, 64, 128, 256, 512, 1024, 2048, 4096)
LINEAR, DENSE = "linear", "dense"
DECODING, SERVING = 16, 1024  # up to these batches the first and the second goal hold
DEVICE = "cuda"

Times = dict[str, list[float]]


@dataclass
class Run:
    """What is measured, and what was found so far.

    Attributes:
        batches: Rows of activations.
        budget_s: Seconds of timed replays for each path.
        roof: What this card can do at best.
        rows: The table.
        goals: One for each shape, group size and batch.
    """

    batches: Sequence[int]
    budget_s: float
    roof: Roofline
    rows: list[Row] = field(default_factory=list)
    goals: list[Goal] = field(default_factory=list)

    def measure(self, n: int, k: int, group_size: int) -> None:
        """Add the rows and goals of one shape and group size."""
        layers, dense = make_weights(n, k, group_size)
        paths = make_paths(layers, dense)
        for m in self.batches:
            x = torch.randn(m, k, generator=torch.Generator(DEVICE).manual_seed(m), device=DEVICE).to(torch.bfloat16)
            with torch.inference_mode():
                check_agreement(paths, x)
                times = time_captured(paths, x, self.budget_s)
            chosen = chosen_path(layers[0].packed_weight(), m, torch.bfloat16)
            for name, seconds in times.items():
                held = 2 * n * k if name == DENSE else layers[0].size_bytes
                about = {"shape": f"{n}x{k}", "group_size": group_size, "batch": m, "path": name, **time_row(seconds)}
                facts = facts_of(seconds, held + 2 * m * (n + k), 2 * m * n * k, self.roof)
                speed = {"over_dense": ratio(times[DENSE], seconds), "chosen": chosen if name == LINEAR else ""}
                self.rows.append({**about, **facts, **speed})
            self.goals.append(goal_of(f"{n}x{k} g{group_size}, batch {m}", m, times))


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark."""
    parser = options("Time the paths of an int4 layer on a GPU against dense bfloat16.")
    parser.add_argument("--shapes", nargs="+", default=list(SHAPES), metavar="NxK", help=f"default {' '.join(SHAPES)}")
    parser.add_argument("--group-sizes", type=int, nargs="+", default=list(GROUP_SIZES))
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=list(BATCHES))
    parser.add_argument("--budget", type=float, default=0.06, help="seconds for each candidate (default 0.06)")
    parser.add_argument("--untuned", action="store_true", help="choose by the built-in table; default: tune() first")
    args = parser.parse_args(argv)
    require_gpu()
    shapes = [_sides(shape) for shape in args.shapes]
    if any(k % group_size for _, k in shapes for group_size in args.group_sizes):
        parser.error("K must be a multiple of each group size")
    if not args.untuned:
        tune(shapes, device=DEVICE, group_sizes=args.group_sizes)
    run = Run(args.batch_sizes, args.budget, measure_roofline(DEVICE))
    for n, k in shapes:
        for group_size in args.group_sizes:
            run.measure(n, k, group_size)
    settings = {key: getattr(args, key) for key in ("shapes", "group_sizes", "batch_sizes", "untuned")}
    settings |= {"roof": str(run.roof), "kernels": tiles_note(DEVICE)}
    finish(Report("cuda_paths", settings, run.rows, run.goals, DEVICE), args.json)
    return 0


def make_paths(layers: Sequence[Int4Linear], dense: Sequence[Tensor]) -> dict[str, Sequence[Call]]:
    """Return name → one call for each copy: every path there is, our layer and the dense layer."""
    alone: dict[str, Sequence[Call]] = {
        path: [partial(int4_linear, weight=layer.packed_weight(), path=path) for layer in layers]
        for path in available_paths(DEVICE)
    }
    return {**alone, LINEAR: layers, DENSE: [partial(functional.linear, weight=weight) for weight in dense]}


def facts_of(seconds: Sequence[float], moved_bytes: int, flop: int, roof: Roofline) -> Row:
    """Return the rates of a call and its share of the roofline."""
    median = statistics.median(seconds)
    return {
        "gb_per_s": float(f"{moved_bytes / median / 1e9:.5g}"),
        "gflop_per_s": float(f"{flop / median / 1e9:.5g}"),
        "of_roofline": float(f"{roof.attainable_s(moved_bytes, flop, 'bfloat16') / median:.3g}"),
    }


def goal_of(what: str, m: int, times: Times) -> Goal:
    """Return the promise for one batch: decoding, serving or prefill."""
    if m <= DECODING or m > SERVING:
        limit = 2.2 if m <= DECODING else 0.9
        return Goal(f"{what}: times dense bfloat16", ratio(times[DENSE], times[LINEAR]), limit, "at least")
    medians = {name: statistics.median(seconds) for name, seconds in times.items() if name not in (LINEAR, DENSE)}
    fastest = min(medians, key=lambda name: medians[name])
    return Goal(f"{what}: over the fastest path, {fastest}", ratio(times[LINEAR], times[fastest]), 1.05, "at most")


def _sides(shape: str) -> tuple[int, int]:
    n, _, k = shape.partition("x")
    return int(n), int(k)


def check_agreement(paths: dict[str, Sequence[Call]], x: Tensor) -> None:
    """End the program when a path's product is not that of the dense layer: nothing wrong is timed."""
    found = {name: calls[0](x[:64]).float() for name, calls in paths.items()}
    for name, product in found.items():
        difference = float((product - found[DENSE]).norm() / found[DENSE].norm())
        if not difference < 0.01:
            raise SystemExit(f"{name} differs from dense by {difference:.2g} at batch {len(product)}: nothing is timed")


def make_weights(n: int, k: int, group_size: int) -> tuple[list[Int4Linear], list[Tensor]]:
    """Return copies of one weight, as int4 layers and dense, each kind together beyond the L2."""
    generator = torch.Generator(DEVICE).manual_seed(0)
    codes = torch.randint(0, 16, (n, k), dtype=torch.uint8, generator=generator, device=DEVICE)
    scale = torch.rand(n, k // group_size, generator=generator, device=DEVICE) * 0.005 + 0.002
    zero = torch.randn(n, k // group_size, generator=generator, device=DEVICE) * 0.002
    weight = QuantizedWeight(codes, scale.to(torch.bfloat16), zero.to(torch.bfloat16), group_size, "float")
    layer = Int4Linear(weight)
    layers = [layer, *(copy.deepcopy(layer) for _ in range(copies_beyond_l2(layer.size_bytes) - 1))]
    dense = weight.dequantize(torch.bfloat16)
    return layers, [dense, *(dense.clone() for _ in range(copies_beyond_l2(2 * n * k) - 1))]


if __name__ == "__main__":
    raise SystemExit(main())
