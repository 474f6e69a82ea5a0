"""Measure which path an int4 product should take on this machine, and keep the answer in the user's cache.

Paths take turns, as in the benchmark of speed. Once the op fell far behind it is not measured at larger batches: its
time grows with the batch, while that of the others hardly does. So a shape takes seconds. The lower quartile of the
times decides, which other work on the machine disturbs less than the median. On a GPU calls are timed in captured
graphs: handing some over takes the host longer than they run, and a path of several kernels would look slow.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn

from workbench.choice import available_paths, current_table, forget_tables, table_kind, table_machine
from workbench.config import Int4WeightOnlyConfig
from workbench.errors import ConfigError
from workbench.linear import Int4Linear
from workbench.measure.candidates import Candidate, calls_in_turn, generator, make_candidates
from workbench.measure.graphs import time_captured
from workbench.measure.roofline import DTYPES, check_dtypes
from workbench.measure.timing import check_batch_sizes, check_device, time_interleaved
from workbench.path_store import store_table
from workbench.paths import MeasuredPath, PathTable

TUNING_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048)
GPU_BATCHES = (*TUNING_BATCHES, 17, 48, 96, 192, 384, 768)  # their kernels' blocks make steps between powers of two
DEFAULT_SHAPES = ((4096, 4096),)
BUDGET_S = 0.03  # seconds of timed calls for each path and batch
_HOPELESS = 3.0  # so many times slower than the fastest, the op is not measured at larger batches

Shape = tuple[int, int]


def tune(
    shapes: nn.Module | Iterable[Shape] | None = None,
    *,
    device: str = "cpu",
    group_sizes: Sequence[int] = (64,),
    dtypes: Sequence[str] = ("bfloat16",),
    batch_sizes: Sequence[int] | None = None,
    budget_s: float = BUDGET_S,
    cancel: threading.Event | None = None,
) -> PathTable:
    """Measure the paths of int4 products on this machine and store the table; products use it from now on.

    Args:
        shapes: A quantized model, whose layers' shapes and group sizes are measured, or (out_features, in_features) of
            each shape; None measures 4096 x 4096, which speaks for shapes up to four times as large or as small.
        device: "cpu" or "cuda".
        group_sizes: Of the shapes that are given as numbers.
        dtypes: dtypes of the activations: "bfloat16", "float16", "float32".
        batch_sizes: Rows of activations; None for powers of two up to 2048, and some between them on a GPU.
        budget_s: Seconds of timed calls for each path and batch.
        cancel: Set it to stop before the next call that would be timed; nothing is stored then.

    Returns:
        The whole table of this machine: what was measured now, and before for other shapes.

    Raises:
        ConfigError: when a shape, dtype or device cannot be measured.
        Cancelled: when `cancel` was set.
    """
    wanted = wanted_shapes(shapes, device, group_sizes, dtypes)
    batch_sizes = tuning_batches(device) if batch_sizes is None else batch_sizes
    check_batch_sizes(batch_sizes)
    points = tuple(iter_tune(wanted, device=device, batch_sizes=batch_sizes, budget_s=budget_s, cancel=cancel))
    return keep(points, device)


def keep(points: Sequence[MeasuredPath], device: str = "cpu") -> PathTable:
    """Store measured points beside those of other shapes, and let products use them from now on."""
    shapes = {(point.dtype, point.n, point.k, point.group_size) for point in points}
    before = current_table(device).points
    others = tuple(p for p in before if (p.dtype, p.n, p.k, p.group_size) not in shapes)
    store_table(PathTable(table_kind(device), table_machine(device), (*others, *points)), device)
    forget_tables()
    return current_table(device)


def iter_tune(
    wanted: Iterable[tuple[str, int, int, int]],
    *,
    device: str = "cpu",
    batch_sizes: Sequence[int] | None = None,
    budget_s: float = BUDGET_S,
    cancel: threading.Event | None = None,
) -> Iterator[MeasuredPath]:
    """Yield the time of each path as it is measured; nothing is stored.

    Args:
        wanted: (dtype, out_features, in_features, group size) of each shape.
        device: "cpu" or "cuda".
        batch_sizes: Rows of activations; None for those of `tuning_batches`.
        budget_s: Seconds of timed calls for each path and batch.
        cancel: Set it to stop before the next call that would be timed.

    Raises:
        Cancelled: when `cancel` was set.
    """
    for dtype, n, k, group_size in wanted:
        config = Int4WeightOnlyConfig(group_size=group_size)
        paths = available_paths(device)
        candidates = make_candidates(
            n, k, config, device=device, dtype=dtype, paths=paths, compiled=False, cancel=cancel
        )
        hopeless: set[str] = set()
        for batch in sorted(tuning_batches(device) if batch_sizes is None else batch_sizes):
            x = torch.randn(batch, k, generator=generator(device), device=device).to(DTYPES[dtype])
            times = _times([one for one in candidates if one.path not in hopeless], x, budget_s, cancel)
            found = {path: sorted(seconds)[len(seconds) // 4] for path, seconds in times.items()}
            for path, seconds in found.items():
                yield MeasuredPath(dtype, n, k, group_size, batch, path, seconds * 1e3)  # type: ignore[arg-type]
            hopeless |= {"op"} if found.get("op", 0) > _HOPELESS * min(found.values()) else set()


def tuning_batches(device: str) -> tuple[int, ...]:
    """Return the rows of activations that are measured on a kind of device."""
    return TUNING_BATCHES if device == "cpu" else GPU_BATCHES


def _times(
    candidates: Sequence[Candidate], x: Tensor, budget_s: float, cancel: threading.Event | None
) -> dict[str, list[float]]:
    """Return name → the seconds of each timed call."""
    with torch.inference_mode():
        if x.is_cuda:
            return time_captured({one.name: one.calls for one in candidates}, x, budget_s, cancel=cancel)
        calls = calls_in_turn(candidates, x)
        return time_interleaved(calls, device=x.device.type, budget_s=budget_s, min_runs=5, cancel=cancel)


def wanted_shapes(
    shapes: nn.Module | Iterable[Shape] | None, device: str, group_sizes: Sequence[int], dtypes: Sequence[str]
) -> list[tuple[str, int, int, int]]:
    """Return (dtype, out_features, in_features, group size) of each shape to measure, as `tune` takes them.

    Raises:
        ConfigError: when a shape, dtype or device cannot be measured.
    """
    check_device(device)
    check_dtypes(dtypes)
    if isinstance(shapes, nn.Module):
        layers = [layer for layer in shapes.modules() if isinstance(layer, Int4Linear)]
        if not layers:
            raise ConfigError(
                f"The {type(shapes).__name__} has no int4 layer.", mend="quantize it first: wb.quantize_(model, cfg)"
            )
        found = sorted({(layer.out_features, layer.in_features, layer.group_size) for layer in layers})
    else:
        given = DEFAULT_SHAPES if shapes is None else tuple(shapes)
        if bad := [shape for shape in given if len(shape) != 2 or min(shape) < 1]:
            raise ConfigError(f"shape {bad[0]!r}.", allowed="(out_features, in_features), each 1 or more")
        found = [(n, k, Int4WeightOnlyConfig(group_size=g).group_size) for n, k in given for g in group_sizes]
    return [(dtype, *shape) for dtype in dtypes for shape in found]
