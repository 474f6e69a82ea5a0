"""What int4 does to one layer, at once and then exactly: sampled rows first, the whole weight after."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from workbench.affine import QuantizedWeight
from workbench.config import HqqOptions, ResolvedConfig
from workbench.errors import Cancelled
from workbench.measure.errors import Metric, error_map, error_summary, sampled_rows
from workbench.records import ErrorMap, ErrorSummary
from workbench.solvers import solve
from workbench.sources import Source

SAMPLED_ROWS = 256
_AT_ONCE_ELEMENTS = 1 << 20  # weights up to this many are solved whole at once
_CACHE_BYTES = 256 * 2**20


@dataclass(frozen=True)
class LayerView:
    """The errors of one layer under one configuration.

    Attributes:
        name: Module path.
        config: Everything resolved.
        map: The picture.
        summary: Errors of what would be stored.
        rtn: Errors of round-to-nearest under the same settings, as it would be stored.
        rows: Rows that were solved.
        total_rows: Rows of the weight.
        group_size: Weights per group.
        in_features: K.
    """

    name: str
    config: ResolvedConfig
    map: ErrorMap
    summary: ErrorSummary
    rtn: ErrorSummary
    rows: int
    total_rows: int
    group_size: int
    in_features: int

    @property
    def exact(self) -> bool:
        """Whether the whole weight was solved."""
        return self.rows == self.total_rows

    @property
    def badge(self) -> str:
        """Say how exact the view is: "exact", or the share of rows."""
        return "exact" if self.exact else f"sampled 1/{max(2, round(self.total_rows / self.rows))}"


@dataclass(frozen=True)
class _Solved:
    weight: Tensor
    quantized: QuantizedWeight
    summary: ErrorSummary
    rtn: ErrorSummary

    @property
    def size_bytes(self) -> int:
        return self.weight.numel() * self.weight.element_size() + self.quantized.codes.numel()


class ViewCache:
    """The latest solved layers, so that another metric, or a setting tried before, is shown at once."""

    def __init__(self, max_bytes: int = _CACHE_BYTES) -> None:
        """Hold at most `max_bytes` of weights and codes."""
        self.max_bytes = max_bytes
        self._held: OrderedDict[tuple[str, ResolvedConfig], _Solved] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, name: str, config: ResolvedConfig) -> _Solved | None:
        """Return a solved layer, or None."""
        with self._lock:
            found = self._held.get((name, _key(config)))
            if found is not None:
                self._held.move_to_end((name, _key(config)))
            return found

    def put(self, name: str, config: ResolvedConfig, solved: _Solved) -> None:
        """Hold a solved layer, and let go of the oldest ones."""
        with self._lock:
            self._held[name, _key(config)] = solved
            while len(self._held) > 1 and sum(one.size_bytes for one in self._held.values()) > self.max_bytes:
                self._held.popitem(last=False)

    def __len__(self) -> int:
        """Number of layers held."""
        return len(self._held)


def iter_layer_views(
    source: Source,
    name: str,
    config: ResolvedConfig,
    *,
    metric: Metric = "rmse",
    reduce: Literal["max", "mean"] = "max",
    cache: ViewCache | None = None,
    cancel: threading.Event | None = None,
    sampled: bool = True,
) -> Iterator[LayerView]:
    """Yield a view from sampled rows (for a large weight), then the exact one.

    Args:
        source: Where the weight comes from.
        name: Module path.
        config: Everything resolved.
        metric: What the picture shows.
        reduce: How it is reduced to screen size.
        cache: Solved layers of before.
        cancel: Set it to stop between blocks.
        sampled: Whether a first answer from sampled rows is wanted.

    Raises:
        Cancelled: when `cancel` was set.
        WeightError: when the weight holds NaN or infinity.
    """
    cache = cache if cache is not None else ViewCache(0)
    solved = cache.get(name, config)
    if solved is None:
        weight = source.weight(name)
        if sampled and weight.numel() > _AT_ONCE_ELEMENTS and weight.shape[0] > SAMPLED_ROWS:
            rows = sampled_rows(weight.shape[0], SAMPLED_ROWS).to(weight.device)
            part = _solve(weight[rows], name, config, cancel)
            yield _view(part, name, config, metric, reduce, weight.shape[0])
        solved = _solve(weight, name, config, cancel)
        cache.put(name, config, solved)
    yield _view(solved, name, config, metric, reduce, solved.weight.shape[0])


def _solve(weight: Tensor, name: str, config: ResolvedConfig, cancel: threading.Event | None) -> _Solved:
    quantized = solve(weight, config, name=name, cancel=cancel).weight
    summary = rtn = error_summary(weight, quantized)
    if config.solver != "rtn":
        nearest = solve(weight, replace(config, solver="rtn"), name=name, cancel=cancel).weight
        rtn = error_summary(weight, nearest)
    if cancel is not None and cancel.is_set():
        raise Cancelled(f"The view of {name} was superseded.")
    return _Solved(weight, quantized, summary, rtn)


def _view(
    solved: _Solved, name: str, config: ResolvedConfig, metric: Metric, reduce: Literal["max", "mean"], total_rows: int
) -> LayerView:
    with torch.inference_mode():
        picture = error_map(solved.weight, solved.quantized, metric=metric, reduce=reduce)
    rows, in_features = solved.weight.shape
    return LayerView(
        name, config, picture, solved.summary, solved.rtn, rows, total_rows, config.group_size, in_features
    )


def _key(config: ResolvedConfig) -> ResolvedConfig:
    """Notes and tiles do not change values."""
    hqq = config.hqq if config.solver == "hqq" else HqqOptions()
    return replace(config, notes=(), inner_k_tiles=8, hqq=hqq)
