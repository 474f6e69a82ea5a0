"""Buttons whose clicks reach the kernel also while a cell or a worker is running."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import traitlets

from workbench.errors import ConfigError
from workbench.widgets.component import Component, ErrorHandler, bundle


@dataclass(frozen=True)
class Command:
    """One button.

    Attributes:
        id: What the callback is given.
        label: Text on the button.
        tooltip: What it does, in a sentence.
        kind: How it looks.
        enabled: Whether it can be clicked.
    """

    id: str
    label: str
    tooltip: str = ""
    kind: Literal["normal", "primary", "danger"] = "normal"
    enabled: bool = True


class Commands(Component):
    """A row of buttons that works while the kernel is busy.

    A click runs its callback at once, also while a cell loops or a worker writes to widgets (`Component` says
    why); with ipykernel 7.4 in JupyterLab 4.6 it takes 0.1-0.2 s, where a plain button waits for the cell.

    So callbacks run on another thread than cells do: set an Event, take a lock, or hand over to a worker.

    Traits:
        buttons: The buttons as dictionaries; set them through the constructor or `set_buttons`.
        ready: Whether a page has shown the buttons and the kernel has answered it.

    Args:
        buttons: The buttons, left to right.
        on_error: Called as (exception, where) for each error of a callback; by default it is logged.
        traits: Initial values of traits.
    """

    _esm = bundle("shared.js", "commands.js")
    _css = bundle("theme.css", "commands.css")
    buttons = traitlets.List(traitlets.Dict()).tag(sync=True)
    ready = traitlets.Bool(False)

    def __init__(self, buttons: Sequence[Command] = (), *, on_error: ErrorHandler | None = None, **traits: Any) -> None:
        self._callbacks: list[Callable[[str], str | None]] = []
        super().__init__(on_error=on_error, buttons=_plain(buttons), **traits)

    def set_buttons(self, buttons: Sequence[Command]) -> None:
        """Replace the buttons."""
        self.buttons = _plain(buttons)

    def enable(self, **enabled: bool) -> None:
        """Enable or disable buttons by id, for instance `enable(cancel=True)`.

        Raises:
            ConfigError: when there is no such button.
        """
        known = [button["id"] for button in self.buttons]
        strange = sorted(set(enabled) - set(known))
        if strange:
            raise ConfigError(f"There is no button {strange[0]!r}.", allowed=", ".join(known))
        self.buttons = [{**button, "enabled": enabled.get(button["id"], button["enabled"])} for button in self.buttons]

    def on_command(self, callback: Callable[[str], str | None]) -> None:
        """Call `callback` with the id of each clicked button; the text it returns is shown beside them."""
        self._callbacks.append(callback)

    def _receive(self, content: Any, buffers: Any) -> None:
        kind = content.get("type") if isinstance(content, dict) else None
        if kind == "ready":
            self.ready = True
            self.send({"type": "ready"})
        elif kind == "command":  # not "id": ipykernel takes that name for its own requests
            self._run(str(content["command"]), content.get("click"))

    def _run(self, command: str, click: Any) -> None:
        texts, failed = [], False
        for callback in list(self._callbacks):
            try:
                texts.append(callback(command))
            except Exception as error:
                failed = True
                texts.append(str(error) or type(error).__name__)
                self._report(error, f"Commands: {command}")
        text = " ".join(text for text in texts if text)
        self.send({"type": "reply", "click": click, "command": command, "ok": not failed, "text": text})

    def _summary(self) -> str:
        return ", ".join(button["label"] for button in self.buttons)


def _plain(buttons: Sequence[Command]) -> list[dict[str, Any]]:
    ids = [button.id for button in buttons]
    if len(set(ids)) < len(ids):
        raise ConfigError(f"Two buttons share an id: {ids}.")
    return [dataclasses.asdict(button) for button in buttons]
