"""What every component shares: its assets, its errors, and where its messages run."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import anywidget

from workbench.errors import ConfigError

ErrorHandler = Callable[[Exception, str], None]

# For traits that the page writes: the page is told nothing of its own changes, so that a late echo of one keystroke
# cannot undo the next.
SYNC_FROM_PAGE = {"sync": True, "echo_update": False}

_HERE = Path(__file__).parent
_LOG = logging.getLogger("workbench.widgets")


def bundle(*names: str) -> str:
    """Join asset files of this folder into one text (they import nothing, so order is all that matters)."""
    return "\n".join((_HERE / name).read_text(encoding="utf-8") for name in names)


def log_error(error: Exception, where: str) -> None:
    """Write an error and its traceback to the log "workbench.widgets"."""
    _LOG.error("%s: %s", where, error, exc_info=error)


class Component(anywidget.AnyWidget):
    """Base of the components: no exception of a handler is ever lost, and clicks arrive while a cell runs.

    ipykernel 7.3 and later hand a comm's messages to the subshell that last published on it, and whatever a
    cell or a worker sends resets that to the main shell, where clicks wait for the running cell. So each
    component forgets it after every send: the front end's choice holds (JupyterLab 4.4 and later: a subshell),
    and handlers run on its thread, beside the running cell. Without subshells, clicks wait for the cell, but
    never for a worker.

    A worker and a handler may set traits at once: whichever is sent last is what the component holds then.

    Args:
        on_error: Called as (exception, where) for each error of a handler or callback; logged by default.
        traits: Initial values of traits.

    Raises:
        ConfigError: when a keyword is not a trait of the component.
    """

    _holding_sync: bool
    _states_to_send: set[str]

    def __init__(self, *, on_error: ErrorHandler | None = None, **traits: Any) -> None:
        unknown = sorted(set(traits) - set(self.trait_names()))
        if unknown:
            known = ", ".join(n for n in sorted(self.traits(sync=True)) if not n.startswith("_"))
            raise ConfigError(f"{type(self).__name__} has no trait named {', '.join(unknown)}.", allowed=known)
        self.on_error: ErrorHandler = on_error or log_error
        self._sending = threading.RLock()  # held while values are read and sent, and while those to be sent are noted
        super().__init__(**traits)

    def __repr__(self) -> str:
        """Name the component without serialising its traits."""
        return f"{type(self).__name__}({self._summary()})"

    def _summary(self) -> str:
        return ""

    def _receive(self, content: Any, buffers: Any) -> None:
        """Handle one custom message of the front end; errors are reported by the caller."""

    @contextlib.contextmanager
    def _answering(self, content: Mapping[str, Any]) -> Iterator[None]:
        """Tell the page at the end, whatever came of it, that a change of its own was taken in (Turns in shared.js)."""
        try:
            yield
        finally:
            self.send({"type": "ack", "turn": content.get("turn")})

    @contextlib.contextmanager
    def _guard(self, where: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self._report(error, f"{type(self).__name__}: {where}")

    def _report(self, error: Exception, where: str) -> None:
        try:
            self.on_error(error, where)
        except Exception as second:
            log_error(error, where)
            log_error(second, f"{where}: the error handler itself failed")

    def _call_each(self, callbacks: list[Callable[..., Any]], *args: Any) -> None:
        """Call every callback; one that raises is reported and the others still run."""
        for callback in list(callbacks):
            with self._guard(f"callback {getattr(callback, '__qualname__', callback)}"):
                callback(*args)

    def set_state(self, sync_data: dict[str, Any]) -> None:
        """Take over trait values from the front end; an observer's exception is reported."""
        with self._guard(f"change of {', '.join(sorted(sync_data))}"):
            super().set_state(sync_data)

    def _handle_custom_msg(self, content: Any, buffers: Any) -> None:
        with self._guard("message"):
            self._receive(content, buffers)
        with self._guard("message callbacks"):
            super()._handle_custom_msg(content, buffers)

    def open(self) -> None:
        """Open the channel to the front end."""
        super().open()
        self._release_route()

    def _send(self, msg: Any, buffers: Any = None) -> None:
        super()._send(msg, buffers=buffers)
        self._release_route()

    def send_state(self, key: Any = None) -> None:
        """Send traits as they are now; never an older value after a newer one, whichever thread sends it."""
        with self._sending:
            super().send_state(key)

    @contextlib.contextmanager
    def hold_sync(self) -> Iterator[None]:
        """Send what is set within at its end, and with it what another thread sets meanwhile."""
        if self._holding_sync:
            yield
            return
        self._holding_sync = True
        try:
            yield
        finally:
            with self._sending:
                self._holding_sync = False
                held, self._states_to_send = self._states_to_send, set()
                self.send_state(held)

    def _should_send_property(self, key: str, value: Any) -> bool:
        with self._sending:
            return bool(super()._should_send_property(key, value))

    def _release_route(self) -> None:
        if self.comm is not None:
            self.comm.__dict__.pop("_reply_subshell_id", None)
