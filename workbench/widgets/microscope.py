"""The zero-point microscope: a group's weights, and the 16 levels of every variant, on one axis."""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Callable
from typing import Any

import traitlets

from workbench.errors import ConfigError
from workbench.measure.microscope import absent
from workbench.records.microscope import Microscope, MicroscopeVariant
from workbench.widgets.component import Component, ErrorHandler, bundle


class MicroscopeView(Component):
    """A group's weights and the levels of its variants, with a table of errors and bits, and fields to move about.

    Callbacks may run on another thread than cells do (see `Commands`): hand over to a worker.

    Traits:
        busy: Whether another group is being solved (a moving line at the top).
        message: Text in place of the picture, for instance an error; "" for none.

    Args:
        on_error: Called as (exception, where) for each error of a handler; by default it is logged.
        traits: Initial values of traits.
    """

    _esm = bundle("shared.js", "microscope_lens.js", "microscope_table.js", "microscope.js")
    _css = bundle("theme.css", "microscope.css")
    _payload = traitlets.Dict().tag(sync=True)
    busy = traitlets.Bool(False).tag(sync=True)
    message = traitlets.Unicode("").tag(sync=True)

    def __init__(self, *, on_error: ErrorHandler | None = None, **traits: Any) -> None:
        self._lock = threading.RLock()
        self._shown: Microscope | None = None
        self._seq = -1
        self._on_look: list[Callable[[int, int], None]] = []
        self._on_worst: list[Callable[[], None]] = []
        super().__init__(on_error=on_error, **traits)

    @property
    def microscope(self) -> Microscope | None:
        """What is shown, or None."""
        return self._shown

    def show(
        self,
        microscope: Microscope,
        *,
        total_rows: int,
        total_groups: int,
        chosen: str = "",
        seq: int = 0,
        stack_rows: int | None = None,
    ) -> bool:
        """Show a group (any thread); return False when a newer one has been shown already.

        Args:
            microscope: The group and its variants.
            total_rows: Rows of the layer, for the field that picks one.
            total_groups: Groups in a row, likewise.
            chosen: How the group was chosen, as a badge; "" for none.
            seq: Sequence number; one that is lower than what is shown is dropped.
            stack_rows: Rows of one expert of a stack; None for a plain weight.
        """
        with self._lock:
            if self._shown is not None and seq < self._seq:
                return False
            self._shown, self._seq = microscope, seq
            payload = {"chosen": chosen, "total_rows": total_rows, "total_groups": total_groups}
            payload |= {"stack_rows": stack_rows}
            with self.hold_sync():
                self._payload = payload | payload_of(microscope)
                self.message = ""
            return True

    def clear(self, message: str = "") -> None:
        """Take the picture away and show a text in its place; sequence numbers start anew."""
        with self._lock, self.hold_sync():
            self._shown, self._payload, self.message = None, {}, message

    def on_look(self, callback: Callable[[int, int], None]) -> None:
        """Call `callback` with the (row, group) that a person asks for."""
        self._on_look.append(callback)

    def on_worst(self, callback: Callable[[], None]) -> None:
        """Call `callback` when a person asks for the worst group."""
        self._on_worst.append(callback)

    def _receive(self, content: Any, buffers: Any) -> None:
        kind = content.get("type") if isinstance(content, dict) else None
        if kind == "worst":
            self._call_each(self._on_worst)
        elif kind == "look":
            answer = {"type": "ack", "turn": content.get("turn"), "refused": True}
            try:
                self._look(_whole(content, "row"), _whole(content, "group"))
                answer["refused"] = False
            finally:
                self.send(answer)

    def _look(self, row: int, group: int) -> None:
        for callback in list(self._on_look):
            callback(row, group)

    def _summary(self) -> str:
        shown = self._shown
        if shown is None:
            return "empty"
        return f"{shown.name!r}, row {shown.row}, group {shown.group}, {len(shown.solved)} variants"


def payload_of(microscope: Microscope) -> dict[str, Any]:
    """Return what the page draws: the variants that have levels, and a line for those that there are not."""
    return {
        "name": microscope.name,
        "row": microscope.row,
        "group": microscope.group,
        "first_column": microscope.first_column,
        "weights": list(microscope.weights),
        "variants": [
            _plain(variant, place == microscope.current)
            for place, variant in enumerate(microscope.variants)
            if variant.levels
        ],
        "missing": [list(line) for line in absent(microscope)],
    }


def _plain(variant: MicroscopeVariant, current: bool) -> dict[str, Any]:
    """Return a variant as JSON types; codes are hexadecimal digits, one for each weight."""
    names = ("rms", "mean_abs", "max_abs")
    return {
        "domain": variant.domain,
        "preserve_zero": variant.preserve_zero,
        "solver": variant.solver,
        "current": current,
        "levels": list(variant.levels),
        "codes": "".join(f"{code:x}" for code in variant.codes),
        "scale": variant.scale,
        "zero": variant.zero,
        "bits": variant.bits_per_weight,
        "zero_level": variant.zero_level,
        "notes": list(variant.notes),
    } | dict(itertools.chain.from_iterable(_error(variant, name) for name in names))


def _error(variant: MicroscopeVariant, name: str) -> list[tuple[str, float | None]]:
    """Return an error and its ratio; one over an exact round-to-nearest is none."""
    ratio: float | None = getattr(variant, f"{name}_ratio")
    finite = ratio if ratio is not None and math.isfinite(ratio) else None
    return [(name, getattr(variant, name)), (f"{name}_ratio", finite)]


def _whole(content: dict[str, Any], name: str) -> int:
    value = content.get(name)
    if type(value) is not int:
        raise ConfigError(f"{name}={value!r}.", allowed="a whole number")
    return value
