"""A measurement in steps: a few windows at a time, each time with what is known by then; and tries that fail alike."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor, nn

from workbench.errors import Cancelled
from workbench.jobs import progress_since
from workbench.measure.causal import run_side_by_side
from workbench.measure.paired import Comparison, WindowPair
from workbench.measure.quality import iter_quality
from workbench.records.progress import Progress
from workbench.session.quality_plan import Plan
from workbench.session.quality_state import Measured
from workbench.session.quality_text import Windows

_INT4 = "the int4 model"
T = TypeVar("T")


class Failures:
    """Remembers why the newest try failed, so that one which follows a change and fails alike is not told again."""

    def __init__(self) -> None:
        self._last = ""

    def watched(self, steps: Iterator[T], *, quiet: bool, known: Callable[[Exception], None]) -> Iterator[T]:
        """Yield what `steps` yields.

        Args:
            steps: The work.
            quiet: Whether it follows a change of the person's, who did not ask for it.
            known: Called with a failure that is not told again.

        Raises:
            Cancelled: where quiet work fails as the try before it did.
        """
        try:
            yield from steps
        except Cancelled:
            raise
        except Exception as error:
            before, self._last = self._last, str(error)
            if not quiet or before != self._last:
                raise
            known(error)
            raise Cancelled("It failed as before.") from error
        self._last = ""


def iter_measured(
    plan: Plan,
    windows: Windows,
    models: tuple[nn.Module, nn.Module],
    known: Comparison | None,
    cancel: threading.Event,
) -> Iterator[tuple[Progress, Measured]]:
    """Yield the result after every few windows; those that are known are not measured again.

    Args:
        plan: What it is the quality of.
        windows: What is measured.
        models: The original and the int4 model, in evaluation mode.
        known: The first windows, from before.
        cancel: Set it to stop before the next forward pass.

    Raises:
        Cancelled: when `cancel` was set.
        ConfigError: for a token that the model does not know.
        ModelError: for a model with NaN or infinity in its logits.
    """
    start, done = time.monotonic(), () if known is None else known.windows
    total, before = len(windows.parts), len(done)
    result = Measured(plan, Comparison(done), windows.size, total, windows.available, windows.notes)
    for pairs in _pairs(models, windows, before, cancel):
        done = (*done, *pairs)
        result = replace(result, comparison=Comparison(done))
        progress = progress_since(start, len(done) - before, total - before, f"window {len(done)} of {total}")
        yield replace(progress, done=len(done), total=total), result


def _pairs(
    models: tuple[nn.Module, nn.Module], windows: Windows, first: int, cancel: threading.Event
) -> Iterator[Sequence[WindowPair]]:
    """Yield the sums of the windows from `first` on; as many at a time as run side by side, so that none runs on."""
    original, int4 = models
    chunk = torch.get_num_threads() if run_side_by_side(models, windows.size) else 1
    for start in range(first, len(windows.parts), chunk):
        ids: Tensor = torch.cat(windows.parts[start : start + chunk])
        place = start * windows.size
        steps = iter_quality({_INT4: int4}, ids, reference=original, window=windows.size, cancel=cancel, first=place)
        yield [WindowPair.of(step.reference, step.sums[_INT4]) for step in steps if step.reference is not None]
