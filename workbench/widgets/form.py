"""A form of labelled controls: sliders over fixed choices, segments, switches, menus and text fields."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import traitlets

from workbench.errors import ConfigError
from workbench.widgets.component import Component, ErrorHandler, bundle

Value = str | int | float | bool


@dataclass(frozen=True)
class Field:
    """One control.

    Attributes:
        id: What the callback is given.
        label: Text in front of the control.
        kind: "slider" and "segments" and "menu" offer `options`; "switch" is on or off; "text" takes a line.
        options: (value, text) of each choice.
        help: What it means, in a sentence (shown as a tooltip).
        wide: Whether it takes a row of its own.
    """

    id: str
    label: str
    kind: Literal["slider", "segments", "menu", "switch", "text"]
    options: tuple[tuple[Value, str], ...] = ()
    help: str = ""
    wide: bool = False

    def check(self, value: Any) -> None:
        """Refuse a value that the control cannot hold.

        Raises:
            ConfigError: naming the value and the choices.
        """
        if self.kind == "switch":
            good, allowed = isinstance(value, bool), "True or False"
        elif self.kind == "text":
            good, allowed = isinstance(value, str), "text"
        else:
            choices = [choice for choice, _ in self.options]
            good = any(value == choice and type(value) is type(choice) for choice in choices)
            allowed = ", ".join(map(repr, choices))
        if not good:
            raise ConfigError(f"{self.label}: {value!r}.", allowed=allowed)


class Form(Component):
    """Controls whose changes reach the kernel one by one, the newest value of each always last.

    Callbacks may run on another thread than cells do (see `Commands`): take a lock, or hand over to a worker.

    Traits:
        title: Heading, or "".
        fields: The controls as dictionaries; set them through the constructor.
        values: id → value of each control; set them through `set_values`.
        disabled: ids of the controls that cannot be used now.
        notes: Lines under the controls, for instance what "auto" became.
        inline: Whether the controls stand in one row, each beside its label.

    Args:
        fields: The controls, in order.
        values: Their values.
        on_error: Called as (exception, where) for each error of a callback; by default it is logged.
        traits: Initial values of traits.
    """

    _esm = bundle("shared.js", "form.js")
    _css = bundle("theme.css", "form.css")
    title = traitlets.Unicode("").tag(sync=True)
    fields = traitlets.List(traitlets.Dict()).tag(sync=True)
    values = traitlets.Dict().tag(sync=True)
    disabled = traitlets.List(traitlets.Unicode()).tag(sync=True)
    notes = traitlets.List(traitlets.Unicode()).tag(sync=True)
    inline = traitlets.Bool(False).tag(sync=True)

    def __init__(
        self,
        fields: Sequence[Field],
        values: Mapping[str, Value],
        *,
        on_error: ErrorHandler | None = None,
        **traits: Any,
    ) -> None:
        self._fields = {field.id: field for field in fields}
        self._callbacks: list[Callable[[str, Value], None]] = []
        plain = [dataclasses.asdict(field) for field in fields]
        super().__init__(on_error=on_error, fields=plain, values=self._checked(values), **traits)

    def set_values(self, **values: Value) -> None:
        """Set some controls without calling back.

        Raises:
            ConfigError: for an unknown control, or a value that it cannot hold.
        """
        merged = {**self.values, **self._checked(values)}
        if merged != self.values:
            self.values = merged

    def on_change(self, callback: Callable[[str, Value], None]) -> None:
        """Call `callback` with (id, value) of each change that a person makes."""
        self._callbacks.append(callback)

    def change(self, field: str, value: Value) -> None:
        """Make a change as a person would: set the control and call back.

        Raises:
            ConfigError: for an unknown control, or a value that it cannot hold.
        """
        self.set_values(**{field: value})
        self._call_each(self._callbacks, field, value)

    def _checked(self, values: Mapping[str, Value]) -> dict[str, Value]:
        for name, value in values.items():
            if name not in self._fields:
                raise ConfigError(f"There is no control {name!r}.", allowed=", ".join(self._fields))
            self._fields[name].check(value)
        return dict(values)

    def _receive(self, content: Any, buffers: Any) -> None:
        if not isinstance(content, dict) or content.get("type") != "change":
            return
        try:
            self.change(str(content["id"]), content["value"])
        finally:
            self.send({"type": "ack", "turn": content.get("turn")})

    def _summary(self) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in self.values.items())
