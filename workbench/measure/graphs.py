"""Calls timed in captured CUDA graphs: on a GPU, what the host takes to hand a call over must not count."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from workbench.measure.timing import time_interleaved

Call = Callable[[Tensor], Tensor]


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


def time_captured(
    calls: Mapping[str, Sequence[Call]], x: Tensor, budget_s: float, *, cancel: threading.Event | None = None
) -> dict[str, list[float]]:
    """Return the seconds of one call of each name, from graphs that take turns.

    Args:
        calls: Name → one call for each copy of the weight.
        x: Activations, float [M, K], on the GPU.
        budget_s: Seconds of timed replays for each name.
        cancel: Set it to stop before the next replay.

    Raises:
        Cancelled: when `cancel` was set.
    """
    graphs = {name: captured(each, x) for name, each in calls.items()}
    found = time_interleaved(graphs, device="cuda", budget_s=budget_s, min_runs=3, warm_up=1, cancel=cancel)
    return {name: [one / len(calls[name]) for one in seconds] for name, seconds in found.items()}
