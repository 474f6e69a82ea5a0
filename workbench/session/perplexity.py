"""How well a model that came int4 predicts a text, alone: there is no original beside it to compare with."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import nn

from workbench.errors import ConfigError, WorkbenchError
from workbench.forward import evaluating
from workbench.int4_source import NATIVE_FIRST, Int4Source
from workbench.jobs import Job, Lane
from workbench.machine import present_devices
from workbench.measure.causal import check_causal
from workbench.measure.quality import iter_quality
from workbench.records.progress import Progress
from workbench.records.quality import Quality
from workbench.session.events import EventKind
from workbench.session.given import Given
from workbench.session.quality import SessionQuality
from workbench.session.quality_text import QualityText, windows_of
from workbench.sources import ModelSource, Source
from workbench.targets import NATIVE

PERPLEXITY_LABEL = "Perplexity"
_MODEL = "the int4 model"


class Alone(Protocol):
    """What is seen of the session."""

    source: Source
    tokenizer: Any
    device: str
    given: Given | None
    quality: SessionQuality


@dataclass(frozen=True)
class Perplexity:
    """What was measured.

    Attributes:
        quality: Perplexity over the windows so far.
        wanted: Windows that were asked for.
        available: Windows that the whole text has.
        notes: What a person must know.
    """

    quality: Quality
    wanted: int
    available: int
    notes: tuple[str, ...] = ()


class SessionPerplexity:
    """Measures on a lane of its own, on the text and in the windows of the session's quality.

    Args:
        owner: The session.
        behind: Takes each step of work while nothing is timed.
        emit: Tells an event.
        on_job: Called after each change of a job.

    Attributes:
        lane: Where it is measured.
    """

    def __init__(
        self,
        owner: Alone,
        behind: Callable[[Iterator[Any], threading.Event], Iterator[Any]],
        emit: Callable[[EventKind, Any, Job | None], None],
        on_job: Callable[[Job], None],
    ) -> None:
        self._owner, self._behind, self._emit, self._on_job = owner, behind, emit, on_job
        self.lane = Lane("perplexity", latest_wins=True)
        self._found: tuple[Hashable, Perplexity] | None = None
        self._loaded: tuple[nn.Module, Any] | None = None

    @property
    def latest(self) -> Perplexity | None:
        """What was measured last, on the text and in the windows that hold now; None where that was not."""
        return self._found[1] if self._found is not None and self._found[0] == self._key() else None

    def refused(self) -> WorkbenchError | None:
        """Return why it cannot be measured, whatever the text is, or None."""
        owner = self._owner
        if owner.given is None:
            return ConfigError("The model has an original to compare with.", mend="measure session.quality")
        if isinstance(owner.source, Int4Source) and owner.source.method != NATIVE:
            what = f"A checkpoint of {owner.source.method} does not run here."
            return ConfigError(what, mend=NATIVE_FIRST)
        return None

    def measure(self) -> Job:
        """Measure the perplexity of the model on the session's text; a native checkpoint is loaded first.

        Raises:
            ConfigError: when there is no text, or the model does not run here.
        """
        if (refused := self.refused()) is not None:
            raise refused
        text, state = self._owner.quality.text, self._owner.quality.state
        text.check()
        window, windows, key = state.window, state.windows, self._key()

        def steps(cancel: threading.Event) -> Iterator[Any]:
            return self._behind(self._steps(text, window, windows, cancel), cancel)

        return self.lane.submit(
            Job(PERPLEXITY_LABEL, steps, partial(self._take, key), self._on_job, again=self.measure)
        )

    def _key(self) -> Hashable:
        quality = self._owner.quality
        return quality.text.stamp, quality.state.window, quality.state.windows

    def _steps(
        self, text: QualityText, window: int, count: int | None, cancel: threading.Event
    ) -> Iterator[tuple[Progress, Perplexity | None]]:
        yield Progress(0, 1, "the model is loaded", 0.0), None
        model, tokenizer = self._model()
        with evaluating(model):
            check_causal(model, self._owner.source.name)
        cut = windows_of(text.ids(lambda: tokenizer), model, window, count)
        notes = (*self._device_notes(), *cut.notes)
        steps = iter_quality({_MODEL: model}, torch.cat(cut.parts), window=cut.size, cancel=cancel)
        for step in steps:
            yield step.progress, Perplexity(step.qualities[_MODEL], len(cut.parts), cut.available, notes)

    def _device_notes(self) -> tuple[str, ...]:
        """Say that a folder that is to run on a device that is not here is measured on the CPU."""
        owner = self._owner
        if isinstance(owner.source, ModelSource) or _is_here(owner.device):
            return ()
        what = f"measured on the CPU, and not on {owner.device}, which this machine does not have"
        return (f"{what}: products are rounded otherwise there, and the last digits differ",)

    def _model(self) -> tuple[nn.Module, Any]:
        owner = self._owner
        if isinstance(owner.source, ModelSource):
            return owner.source.model, owner.tokenizer
        if self._loaded is None:
            from workbench.hf.loading import load_checkpoint  # late: it brings transformers

            assert isinstance(owner.source, Int4Source)
            device = owner.device if _is_here(owner.device) else "cpu"
            self._loaded = load_checkpoint(owner.source.path, device=device)
        model, tokenizer = self._loaded
        return model, owner.tokenizer or tokenizer

    def _take(self, key: Hashable, job: Job, item: tuple[Progress, Perplexity | None]) -> None:
        job.progress, found = item
        if found is not None:
            self._found = key, found
            self._emit("perplexity", found, job)
        self._emit("job", job, job)


def _is_here(device: str) -> bool:
    return torch.device(device).type in present_devices()
