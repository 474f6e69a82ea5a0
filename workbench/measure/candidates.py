"""What takes turns in the benchmark of a linear layer: our layer, each of its paths alone, and the dense layer."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from workbench.choice import available_paths, chosen_path
from workbench.config import Int4WeightOnlyConfig
from workbench.errors import Cancelled, ConfigError
from workbench.kernels import int4_linear
from workbench.linear import Int4Linear
from workbench.measure.roofline import DTYPES
from workbench.measure.timing import cache_bytes, copies_beyond_cache, rotating, stop_if
from workbench.packed import PackedWeight
from workbench.paths import PATHS as ALONE
from workbench.solvers import solve

Form = Literal["eager", "compiled"]
LINEAR, DENSE = "int4", "dense"
PATHS = (LINEAR, *ALONE, DENSE)
_COMPILED = (LINEAR, DENSE)  # a path alone is a piece of our layer, and nothing that a person would compile


@dataclass(frozen=True)
class Candidate:
    """One that takes turns.

    Attributes:
        path: "int4" (our layer), one of its paths alone, or "dense".
        form: "eager", or "compiled" by torch.compile.
        calls: float [M, K] -> [M, N]: the same for each copy of the weight.
        held_bytes: Bytes of one copy.
        packed: Our layer's packed weight, or None for all others.
    """

    path: str
    form: Form
    calls: Sequence[Callable[[Tensor], Tensor]]
    held_bytes: int
    packed: PackedWeight | None = None

    @property
    def name(self) -> str:
        """Name in tables and charts."""
        return self.path if self.form == "eager" else f"{self.path} {self.form}"

    def chosen_path(self, batch: int, dtype: str) -> str:
        """Return the path that our layer takes for `batch` rows; "" for all others, which have no choice."""
        return "" if self.packed is None else chosen_path(self.packed, batch, DTYPES[dtype])


def present_paths(device: str, wanted: Sequence[str] | None = None) -> tuple[str, ...]:
    """Return what can take turns on `device`, in the order of `PATHS`; all of it when nothing is wanted.

    Raises:
        ConfigError: when a path is wanted that there is not, at all or on this machine.
    """
    present = tuple(path for path in PATHS if path in (LINEAR, DENSE, *available_paths(torch.device(device))))
    missing = [path for path in wanted or () if path not in present]
    if missing:
        where = f" on {device} here" if missing[0] in PATHS else ""
        raise ConfigError(f"There is no path {missing[0]!r}{where}.", allowed=", ".join(present))
    if wanted is not None and not wanted:
        raise ConfigError("No path to measure.", allowed=", ".join(present))
    return present if wanted is None else tuple(path for path in present if path in wanted)


def make_candidates(
    n: int,
    k: int,
    cfg: Int4WeightOnlyConfig,
    *,
    device: str,
    dtype: str,
    paths: Sequence[str],
    compiled: bool,
    cancel: threading.Event | None,
) -> list[Candidate]:
    """Make what takes turns, all of one random weight; the caller's random numbers are left as they are."""
    weight = torch.randn(n, k, generator=generator(device), device=device, dtype=torch.float32) * 0.02
    found: list[Candidate] = []
    if set(paths) - {DENSE}:
        found += _int4_candidates(weight, cfg, device, DTYPES[dtype], paths, cancel)
    if DENSE in paths:
        dense = nn.Linear(k, n, bias=False, device="meta")
        dense.weight = nn.Parameter(weight.to(DTYPES[dtype]), requires_grad=False)
        held = dense.weight.numel() * dense.weight.element_size()
        found.append(Candidate(DENSE, "eager", copies_beyond_cache(dense, held, device, cancel), held))
    if compiled:
        found += [_compiled(one) for one in found if one.path in _COMPILED]
    return found


def generator(device: str) -> torch.Generator:
    """Return random numbers of our own, the same every time."""
    return torch.Generator(device).manual_seed(0)


def _int4_candidates(
    weight: Tensor,
    cfg: Int4WeightOnlyConfig,
    device: str,
    dtype: torch.dtype,
    paths: Sequence[str],
    cancel: threading.Event | None,
) -> list[Candidate]:
    """Our layer and its paths alone; they share their copies of the weight."""
    resolved = replace(cfg, use_hqq=False).resolved(device)  # the solver changes values, never speed
    solved = solve(weight, resolved, cancel=cancel).weight
    layer = Int4Linear(solved, dtype=dtype, inner_k_tiles=resolved.inner_k_tiles)
    made = copies_beyond_cache(layer, layer.size_bytes, device, cancel)
    copies = [one for one in made if isinstance(one, Int4Linear)]
    packed = [one.packed_weight() for one in copies]
    found = [Candidate(LINEAR, "eager", copies, layer.size_bytes, packed[0])] if LINEAR in paths else []
    for path in ALONE:
        if path in paths:
            calls = [partial(int4_linear, weight=one, path=path) for one in packed]
            found.append(Candidate(path, "eager", calls, layer.size_bytes))
    return found


def _compiled(eager: Candidate) -> Candidate:
    calls = [torch.compile(layer) for layer in eager.calls]
    return replace(eager, form="compiled", calls=calls)


def calls_in_turn(
    candidates: Sequence[Candidate], inputs: Tensor | Sequence[Tensor]
) -> dict[str, Callable[[], Tensor]]:
    """Return name → a call of each candidate, which takes its next copy of the weight each time.

    Candidates that share their copies begin at different ones, which nobody has just read.
    """
    return {
        one.name: rotating(one.calls, inputs, first=place * len(one.calls) // len(candidates))
        for place, one in enumerate(candidates)
    }


def rotation_note(candidates: Sequence[Candidate], device: str) -> str:
    """Say when all copies together fit into the cache, so that no time is one of reading memory; "" otherwise."""
    held = sum({one.path == DENSE: one.held_bytes * len(one.calls) for one in candidates}.values())
    cache = cache_bytes(device)
    if cache is None or held > cache:
        return ""
    copies = max(len(one.calls) for one in candidates)
    return f"{copies} copies of the layer take turns; their {held / 1e6:.3g} MB fit the cache of {cache / 1e6:.3g} MB"


def compiler_problem(device: str) -> str:
    """Say in a phrase why torch.compile does not work on `device`, or "" when a small function compiled and ran."""
    try:
        with strict_compiling():
            torch.compile(lambda x: x * 2 + 1, dynamic=False)(torch.ones(8, device=device))
    except Exception as error:  # whatever the compiler's tools raise: they are many
        return _phrase(error)
    return ""


def compile_problem(candidate: Candidate, x: Tensor, cancel: threading.Event | None) -> str:
    """Call every copy once, so that all is compiled before it is timed; say what went wrong, or ""."""
    try:
        for call in candidate.calls:
            stop_if(cancel)
            call(x)
    except Cancelled:
        raise
    except Exception as error:  # as above
        return _phrase(error)
    return ""


def _phrase(error: Exception) -> str:
    return " ".join(str(error).split())[:160] or type(error).__name__


@contextmanager
def strict_compiling(enabled: bool = True) -> Iterator[None]:
    """Let torch.compile fail where it would go on without compiling, after too many recompilations."""
    if not enabled:
        yield
        return
    import torch._dynamo.config as dynamo  # slow to import, and only those who compile need it

    with dynamo.patch(fail_on_recompile_limit_hit=True, suppress_errors=False):
        yield
