"""Widgets without a browser: what they send is recorded, what they log is seen."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import ipywidgets
import pytest


@dataclass
class Wire:
    """Messages to the front end, oldest first, as (message, buffers)."""

    messages: list[tuple[dict[str, Any], list[Any]]] = field(default_factory=list)

    def clear(self) -> None:
        self.messages.clear()

    @property
    def states(self) -> list[dict[str, Any]]:
        return [message["state"] for message, _ in self.messages if message["method"] == "update"]

    @property
    def customs(self) -> list[Any]:
        return [message["content"] for message, _ in self.messages if message["method"] == "custom"]


@pytest.fixture
def wire(monkeypatch: pytest.MonkeyPatch) -> Wire:
    """Record what widgets send instead of publishing it."""
    wire = Wire()

    def record(_self: ipywidgets.Widget, message: dict[str, Any], buffers: Any = None) -> None:
        wire.messages.append((message, list(buffers or [])))

    monkeypatch.setattr(ipywidgets.Widget, "_send", record)
    return wire


@pytest.fixture(autouse=True)
def no_widget_leaks() -> Iterator[None]:
    """Close what a test opened, so that no test sees another's widgets."""
    before = set(ipywidgets.widgets.widget._instances)
    yield
    for key in set(ipywidgets.widgets.widget._instances) - before:
        ipywidgets.widgets.widget._instances[key].close()
