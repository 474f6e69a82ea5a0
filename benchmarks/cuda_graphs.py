"""What the GPU benchmarks share: the GPU they need, copies of a weight beyond its L2, and calls in a captured graph."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from workbench.measure.timing import cache_bytes, time_interleaved

LEAST_CAPABILITY = (8, 0)
_CACHES = 4  # the copies of a weight together are so many times the L2
_FEWEST, _MOST = 3, 32

Call = Callable[[Tensor], Tensor]


def require_gpu() -> None:
    """End the program, with the reason, where there is no NVIDIA GPU with bfloat16 products."""
    problem = ""
    if not torch.cuda.is_available():
        problem = "no GPU: torch sees none"
    elif torch.version.hip is not None:
        problem = "no NVIDIA GPU: this torch is built for ROCm"
    elif torch.cuda.get_device_capability() < LEAST_CAPABILITY:
        problem = f"{torch.cuda.get_device_name()} has no bfloat16 products: compute capability 8.0 or newer is needed"
    if problem:
        sys.exit(problem)


def copies_beyond_l2(held_bytes: int) -> int:
    """Return how many copies of `held_bytes` are together four times the L2, at least 3 and at most 32."""
    return max(_FEWEST, min(_MOST, -(-_CACHES * (cache_bytes("cuda") or 0) // max(1, held_bytes))))


def captured(calls: Sequence[Call], x: Tensor) -> Callable[[], object]:
    """Return the replay of one graph in which each of `calls` takes `x`, one after the other."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # compiles and sets up what may not be set up in a capture
        for call in calls[:2]:
            call(x)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call(x)
    return graph.replay


def time_captured(paths: dict[str, Sequence[Call]], x: Tensor, budget_s: float) -> dict[str, list[float]]:
    """Return the seconds of one call of each path, from graphs that take turns.

    Args:
        paths: Name → one call for each copy of the weight.
        x: Activations, bfloat16 [M, K].
        budget_s: Seconds of timed replays for each path.
    """
    graphs = {name: captured(calls, x) for name, calls in paths.items()}
    found = time_interleaved(graphs, device="cuda", budget_s=budget_s, min_runs=3, warm_up=1)
    return {name: [one / len(paths[name]) for one in seconds] for name, seconds in found.items()}
