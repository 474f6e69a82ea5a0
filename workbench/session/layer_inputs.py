"""What a text gives the layers of the dense model as inputs: second moments, collected and held within a bound."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from workbench.calibration import Calibration, MomentRun
from workbench.errors import Cancelled, ModelError
from workbench.forward import look
from workbench.jobs import progress_since
from workbench.records.progress import Progress
from workbench.sizes import size
from workbench.solvers import InputMoments
from workbench.sources import FolderSource, ModelSource, Source

HELD_BYTES = 256 * 2**20
_POLL_S = 0.05


@dataclass(frozen=True, eq=False)
class _Begun:
    """Moments that are being collected, and all that decides them: layers, text, its tokens, version of the weights."""

    run: MomentRun
    names: tuple[str, ...]
    text: str
    calibration: Calibration
    weights: int

    def holds(self, names: Sequence[str], calibration: Calibration, text: str, weights: int) -> bool:
        """Say whether going on with these gives the moments of `names`, and of nothing else than what is asked for."""
        same = (self.text, self.weights) == (text, weights) and set(names) <= set(self.names)
        return same and torch.equal(self.calibration.ids, calibration.ids)


class LayerInputs:
    """Moments of the inputs of linear layers, as the dense model has them under one text.

    Either whole moments are held, or, after a cancel, those that were begun: never both.

    Args:
        source: Where the weights come from; a folder's model is loaded when it is first needed, and kept.
        max_bytes: Most bytes of moments that are held, but always those of the layer asked for.
    """

    def __init__(self, source: Source, max_bytes: int = HELD_BYTES) -> None:
        self.source, self.max_bytes = source, max_bytes
        self._held: dict[str, InputMoments] = {}
        self._held_for: object = None
        self._begun: _Begun | None = None
        self._number = 0
        self._model: Any = source.model if isinstance(source, ModelSource) else None
        self._lock, self._loading = threading.Lock(), threading.Lock()
        self._side = {record.name: record.shape[-1] for record in source.records()}

    @property
    def loads_bytes(self) -> int:
        """Bytes of the model that is loaded to run a text; 0 for one that is in memory from the start."""
        records = self.source.records() if isinstance(self.source, FolderSource) else []
        return sum(record.size_bytes for record in records)

    def get(self, name: str, text: str) -> tuple[InputMoments, int] | None:
        """Return the moments of a layer's inputs and the number of the run that they are from, or None.

        Args:
            name: Module path.
            text: What `collect` was told to call the text.
        """
        with self._lock:
            held = self._held if self._held_for == (text, self._weights()) else {}
            return (held[name], self._number) if name in held else None

    def together(self, name: str, wanted: Sequence[str]) -> list[str]:
        """Return the layer and those of `wanted` after it, around the end, whose moments fit the bound together."""
        place = wanted.index(name) if name in wanted else 0
        found, room = [name], self.max_bytes - InputMoments.size_bytes(self._side[name])
        for other in (*wanted[place:], *wanted[:place]):
            need = InputMoments.size_bytes(self._side[other])
            if other != name and need <= room:
                found.append(other)
                room -= need
        return found

    def collect(
        self, names: Sequence[str], calibration: Calibration, text: str, cancel: threading.Event
    ) -> Iterator[Progress]:
        """Run a text through the dense model and hold the moments of these layers; all others are let go of.

        What a cancel stopped goes on where it was: for these layers or some of them, the same text, the same weights.

        Args:
            names: Module paths.
            calibration: The text's tokens.
            text: What to call the text, for `get`.
            cancel: Set it to stop before the next layer, or panel of a layer's moments.

        Raises:
            Cancelled: when `cancel` was set; `get` finds nothing then.
            ModelError: when there is no model to run, or it cannot be loaded.
        """
        yield from self.load(cancel)
        begun = self._begin(names, calibration, text)
        try:
            yield from _progress(begun, cancel)
        except (Cancelled, GeneratorExit):
            raise
        except BaseException:
            self._begun = None  # the moments may be half of a sum
            raise
        self._begun = None
        self._hold(_on_cpu(begun.run.moments()), (text, begun.weights))

    def _begin(self, names: Sequence[str], calibration: Calibration, text: str) -> _Begun:
        """Return what was begun before where it is what is asked for, else begin anew."""
        begun, weights = self._begun, self._weights()
        if begun is None or not begun.holds(names, calibration, text, weights):
            self._begun = None  # before others take its place in memory
            self._hold({}, None)
            begun = _Begun(MomentRun(self.model, names, calibration), tuple(names), text, calibration, weights)
            self._begun = begun
        return begun

    def _hold(self, moments: dict[str, InputMoments], of: object) -> None:
        with self._lock:
            self._held, self._held_for, self._number = moments, of, self._number + 1

    def _weights(self) -> int:
        """Return a number that differs when a weight of a live model was changed, in place or by another."""
        if not isinstance(self.source, ModelSource):
            return 0
        parameters = [p for p in self.source.model.parameters() if not p.is_inference()]
        return hash(tuple((p.data_ptr(), p._version) for p in parameters))

    @property
    def model(self) -> Any:
        """The dense model; a folder's has to be loaded first."""
        assert self._model is not None, "load comes first"
        return self._model

    def load(self, cancel: threading.Event | None = None) -> Iterator[Progress]:
        """Load a folder's model, once and onto the CPU, where an export solves too; its size is said before.

        Args:
            cancel: Set it to stop before the next tensor is read.

        Raises:
            Cancelled: when `cancel` was set.
            ModelError: when there is no model to run, or it cannot be loaded.
        """
        if self._model is not None:
            return
        if not isinstance(self.source, FolderSource):
            what = f"{self.source.name!r} is no model that can run a text."
            raise ModelError(what, mend="open a model or its folder")
        yield Progress(0, 1, f"loading {self.source.name}, {size(self.loads_bytes)}, to run the text", 0.0)
        from workbench.hf.loading import load_model  # late: they bring transformers
        from workbench.hf.quiet import quiet

        while not self._loading.acquire(timeout=_POLL_S):
            look(cancel)
        try:
            if self._model is None:
                with quiet(), _looking_at_parameters(cancel):
                    self._model = load_model(self.source.path)[0]
        finally:
            self._loading.release()


@contextmanager
def _looking_at_parameters(cancel: threading.Event | None) -> Iterator[None]:
    """Within, look at `cancel` whenever a module is given a parameter on this thread, as a loader does one by one."""
    owner = threading.get_ident()

    def before(_module: nn.Module, _name: str, _parameter: nn.Parameter) -> None:
        if threading.get_ident() == owner:
            look(cancel)

    handle = register_module_parameter_registration_hook(before)
    try:
        yield
    finally:
        handle.remove()


def _progress(begun: _Begun, cancel: threading.Event) -> Iterator[Progress]:
    """Collect what is left, and say after each batch where it stands, in tokens."""
    count, total, start = len(begun.names), begun.calibration.tokens, time.monotonic()
    label = f"inputs of {count} layer{'s' if count > 1 else ''} of the dense model"
    before = round(begun.run.share * total)
    if before:
        yield Progress(before, total, label, 0.0)
    for share in begun.run.steps(cancel):
        done = round(share * total)
        yield replace(progress_since(start, done - before, total - before, label), done=done, total=total)


def _on_cpu(moments: dict[str, InputMoments]) -> dict[str, InputMoments]:
    """Moments wait in main memory; layers with the same input keep sharing theirs."""
    moved = {id(one): replace(one, total=one.total.cpu()) for one in moments.values()}
    return {name: moved[id(one)] for name, one in moments.items()}
