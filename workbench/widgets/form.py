"""A form of labelled controls: sliders over fixed choices, segments, switches, menus, numbers and text."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import traitlets

from workbench.errors import ConfigError
from workbench.widgets.component import Component, ErrorHandler, bundle

Value = str | int | float | bool | None


@dataclass(frozen=True)
class Field:
    """One control.

    Attributes:
        id: What the callback is given.
        label: Text in front of the control.
        kind: "slider" and "segments" and "menu" offer `options`; "switch" is on or off; "number" takes a number,
            "text" a line, "area" a text of any length, which is sent when the person leaves it or presses its button.
        options: (value, text) of each choice.
        help: What it means, in a sentence (shown as a tooltip).
        wide: Whether it takes a row of its own.
        placeholder: What an empty control says; a number may be empty (None) only where there is one.
        limit: Characters of an area that the page is given; 0 is all.
    """

    id: str
    label: str
    kind: Literal["slider", "segments", "menu", "switch", "number", "text", "area"]
    options: tuple[tuple[Value, str], ...] = ()
    help: str = ""
    wide: bool = False
    placeholder: str = ""
    limit: int = 0

    def check(self, value: Any) -> None:
        """Refuse a value that the control cannot hold.

        Raises:
            ConfigError: naming the value and the choices.
        """
        if self.kind == "switch":
            good, allowed = isinstance(value, bool), "True or False"
        elif self.kind in ("text", "area"):
            good, allowed = isinstance(value, str), "text"
        elif self.kind == "number":
            empty = bool(self.placeholder) and value is None
            good = empty or (type(value) in (int, float) and math.isfinite(value))
            allowed = f"a finite number{', or nothing' if self.placeholder else ''}"
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
        hint: A few words beside the heading.
        fold: "" (always open), or how a form that can be folded under its heading is now: "open" or "closed".
        fields: The controls as dictionaries; set them through the constructor or `set_fields`.
        values: id → value of each control (of a long text, what the page has of it); set them through `set_values`.
        lengths: id → characters of each text that is longer than what the page has of it.
        errors: id → what is wrong with a control's value, shown under it.
        disabled: ids of the controls that cannot be used now.
        notes: Lines under the controls, for instance what "auto" became.
        inline: Whether the controls stand in one row, each beside its label.

    Args:
        fields: The controls, in order.
        values: Their values.
        on_error: Called as (exception, where) for each error of a callback; by default it is logged.
        traits: Initial values of traits.
    """

    _esm = bundle("shared.js", "form_area.js", "form.js")
    _css = bundle("theme.css", "form.css")
    title = traitlets.Unicode("").tag(sync=True)
    fields = traitlets.List(traitlets.Dict()).tag(sync=True)
    values = traitlets.Dict().tag(sync=True)
    hint = traitlets.Unicode("").tag(sync=True)
    fold = traitlets.Enum(["", "open", "closed"], "").tag(sync=True)
    lengths = traitlets.Dict().tag(sync=True)
    errors = traitlets.Dict().tag(sync=True)
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
        given = self._checked(values)
        lengths = self._lengths(given)
        super().__init__(on_error=on_error, fields=_plain(fields), values=self._cut(given), lengths=lengths, **traits)

    def set_fields(self, fields: Sequence[Field], values: Mapping[str, Value]) -> None:
        """Replace the controls and their values without calling back.

        Raises:
            ConfigError: for an unknown control, or a value that it cannot hold.
        """
        if _plain(fields) == self.fields:
            return self.set_values(**values)
        before, self._fields = self._fields, {field.id: field for field in fields}
        try:
            given = self._checked(values)
        except ConfigError:
            self._fields = before
            raise
        with self.hold_sync():
            self.values, self.fields = self._cut(given), _plain(fields)
            self.lengths, self.errors = self._lengths(given), {}

    def set_values(self, **values: Value) -> None:
        """Set some controls without calling back.

        Raises:
            ConfigError: for an unknown control, or a value that it cannot hold.
        """
        given = self._checked(values)
        with self.hold_sync():
            self.lengths = {name: n for name, n in self.lengths.items() if name not in given} | self._lengths(given)
            merged = {**self.values, **self._cut(given)}
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

    def _cut(self, values: Mapping[str, Value]) -> dict[str, Value]:
        """Return the values as the page has them."""
        limits = {name: self._fields[name].limit for name in values}
        return {n: v[: limits[n]] if isinstance(v, str) and limits[n] else v for n, v in values.items()}

    def _lengths(self, values: Mapping[str, Value]) -> dict[str, int]:
        """Return the characters of each text that the page does not have all of."""
        texts = {name: len(value) for name, value in values.items() if isinstance(value, str)}
        return {name: count for name, count in texts.items() if 0 < self._fields[name].limit < count}

    def _receive(self, content: Any, buffers: Any) -> None:
        if not isinstance(content, dict) or content.get("type") != "change":
            return
        with self._answering(content):
            self.change(str(content["id"]), content["value"])

    def _summary(self) -> str:
        return ", ".join(
            f"{name}={str(value)[:40]!r}" if isinstance(value, str) else f"{name}={value!r}"
            for name, value in self.values.items()
        )


def _plain(fields: Sequence[Field]) -> list[dict[str, Any]]:
    return [dataclasses.asdict(field) for field in fields]
