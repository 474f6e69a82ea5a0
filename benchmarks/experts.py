"""Fused experts in int4 against the dense ones by each of transformers' implementations, by batch size.

One layer of experts of a Qwen3-MoE shape; every call routes to other experts, so that their weights come from memory.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
import transformers
from torch import Tensor

from benchmarks.report import Goal, Report, finish, options, ratio, time_row
from workbench.config import Int4WeightOnlyConfig
from workbench.experts import Int4Experts
from workbench.layers import weight_as_used
from workbench.measure.timing import time_interleaved
from workbench.quantize import quantize_

IMPLEMENTATIONS = ("grouped_mm", "batched_mm", "eager")
_MOST_BATCHED = 16  # rows: beyond, `batched_mm` copies more weights than memory holds
_ROUTES = 16


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark."""
    parser = options("Time int4 experts against dense ones.")
    parser.add_argument("--experts", type=int, default=32, help="experts of the layer (default 32)")
    parser.add_argument("--top-k", type=int, default=8, help="experts of a token (default 8)")
    parser.add_argument("--hidden", type=int, default=2048)
    parser.add_argument("--inner", type=int, default=768, help="intermediate size of an expert (default 768)")
    parser.add_argument("--group-size", type=int, default=64)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 4, 16, 64, 256])
    parser.add_argument("--budget", type=float, default=1.0, help="seconds for each candidate (default 1)")
    args = parser.parse_args(argv)
    dense = _layer(args)
    int4 = copy.deepcopy(dense)
    quantize_(int4, Int4WeightOnlyConfig(group_size=args.group_size))
    rows, goals = [], []
    for batch in args.batch_sizes:
        times = _times(dense.mlp.experts, int4.mlp.experts, batch, args)
        best = min((name for name in times if name != "int4"), key=lambda name: median(times[name]))
        for name, seconds in times.items():
            rows.append(
                {"batch": batch, "experts": name, **time_row(seconds), "over_int4": ratio(seconds, times["int4"])}
            )
        if batch == 1:
            goals.append(Goal(f"batch 1: speed over dense ({best})", ratio(times[best], times["int4"]), 1, "at least"))
    error = _error(dense, int4, args)
    goals.append(Goal("relative error against the dequantized weights in float64", error, 2e-3, "at most"))
    settings = {key: getattr(args, key) for key in ("experts", "top_k", "hidden", "inner", "group_size")}
    finish(Report("experts", {**settings, "transformers": transformers.__version__}, rows, goals), args.json)
    return 0


def _layer(args: Any) -> Any:
    """Return one decoder layer in bfloat16."""
    config = transformers.Qwen3MoeConfig(
        hidden_size=args.hidden,
        moe_intermediate_size=args.inner,
        num_experts=args.experts,
        num_experts_per_tok=args.top_k,
        num_hidden_layers=1,
        vocab_size=32,
        num_attention_heads=args.hidden // 32,
        num_key_value_heads=1,
    )
    torch.manual_seed(0)
    model: Any = transformers.Qwen3MoeModel(config)
    return model.to(torch.bfloat16).eval().layers[0]


def _times(dense: Any, int4: Any, batch: int, args: Any) -> dict[str, list[float]]:
    """Time all in turns; returns seconds by name."""
    calls: dict[str, Callable[[], None]] = {"int4": _calls(int4, None, batch, args)}
    for name in IMPLEMENTATIONS:
        if name != "batched_mm" or batch <= _MOST_BATCHED:
            calls[name] = _calls(dense, name, batch, args)
    with torch.inference_mode():
        return time_interleaved(calls, budget_s=args.budget, max_runs=500)


def _calls(module: Any, implementation: str | None, batch: int, args: Any) -> Callable[[], None]:
    routes = [_route(batch, seed, args) for seed in range(_ROUTES)]
    x = torch.randn(batch, args.hidden, generator=torch.Generator().manual_seed(1)).to(torch.bfloat16)
    turn = 0

    def call() -> None:
        nonlocal turn
        turn = (turn + 1) % _ROUTES
        if implementation is not None:
            module.config._experts_implementation_internal = implementation
        module(x, *routes[turn])

    return call


def _route(batch: int, seed: int, args: Any) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(batch, args.experts, generator=generator)
    weights, index = torch.softmax(logits, -1).topk(args.top_k)
    return index, (weights / weights.sum(-1, keepdim=True)).to(torch.bfloat16)


def _error(dense: Any, int4: Any, args: Any) -> float:
    """Return the error of the int4 experts for 16 tokens, before the result is rounded to bfloat16."""
    exact = copy.deepcopy(dense).double()
    with torch.no_grad():
        for name, module in int4.named_modules():
            if isinstance(module, Int4Experts):
                weight_as_used(exact, name).copy_(
                    module.quantized_weight()
                    .dequantize(torch.float32)
                    .view(module.num_experts, module.out_features, -1)
                )
        exact.mlp.experts.config._experts_implementation_internal = "eager"
        x = torch.randn(16, args.hidden, generator=torch.Generator().manual_seed(2)).to(torch.bfloat16)
        index, weights = _route(16, 3, args)
        wanted = exact.mlp.experts(x.double(), index, weights.double())
        found = int4.mlp.experts(x.float(), index, weights.float())
    return float(f"{float((found.double() - wanted).norm() / wanted.norm()):.3g}")


if __name__ == "__main__":
    raise SystemExit(main())
