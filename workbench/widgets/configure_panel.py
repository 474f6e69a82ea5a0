"""The settings: group size, domain, solver, preserve_zero, tiles, and what "auto" became."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from workbench.config import ZeroPointDomain
from workbench.errors import WorkbenchError
from workbench.options import SOLVERS
from workbench.session import Event, Scope, Session
from workbench.widgets.component import ErrorHandler
from workbench.widgets.form import Field, Form, Value
from workbench.widgets.panel import Panel
from workbench.widgets.solver_fields import FIELDS_OF, changes_of, values_of

_SCOPES: dict[str, Scope] = {"all layers": "all", "selection": "selection", "this layer": "layer"}
_PRESERVE: dict[str, Any] = {"auto": "auto", "yes": True, "no": False}
FIELDS = (
    Field("scope", "Apply to", "segments", tuple((name, name) for name in _SCOPES), "What a change here touches"),
    Field(
        "group_size",
        "Group size",
        "slider",
        tuple((g, str(g)) for g in (32, 64, 128, 256)),
        "Weights per scale and zero point: smaller is more accurate and larger on disk",
    ),
    Field(
        "domain",
        "Zero-point domain",
        "segments",
        (("auto", "auto"), ("float", "float"), ("int", "int"), ("symmetric", "symmetric")),
        "Where the zero point lives; auto is what the device's kernel takes first",
    ),
    Field(
        "solver",
        "Solver",
        "segments",
        tuple((name, name) for name in SOLVERS),
        "How the codes are found; each is never worse than rounding to nearest (rtn) in its own measure",
    ),
    Field("int4", "Quantize to int4", "switch", (), "Off leaves the layers of the scope in full precision"),
    Field(
        "preserve_zero",
        "Preserve zero",
        "segments",
        tuple((name, name) for name in _PRESERVE),
        "Widen each group's range to reach 0",
    ),
)
_TILES = Field(
    "inner_k_tiles",
    "Inner K tiles (CUDA)",
    "segments",
    ((2, "2"), (4, "4"), (8, "8")),
    "Tile count of the CUDA layout: changes speed, never values",
)


class ConfigurePanel(Panel):
    """Settings for one layer, the selection, or all layers: a bar, and behind a button what is changed rarely."""

    def __init__(self, session: Session, on_error: ErrorHandler) -> None:
        self.form = Form(FIELDS, _values(session), on_error=on_error, title="Configure")
        self.settings = Form((), {}, on_error=on_error, title="More settings", fold="closed")
        super().__init__(session, on_error, [self.form, self.settings])
        self._show()
        self.form.on_change(self._changed)
        self.settings.on_change(self._set)

    def on_event(self, event: Event) -> None:
        """Show the settings of what is on show now."""
        if event.kind in ("coverage", "selection"):
            self._show()

    def _show(self) -> None:
        self.form.set_values(**_values(self.session))
        self._show_settings()
        row = self.session.row(self.session.current) if self.session.current else None
        notes = [str(note) for note in self.session.resolved().notes]
        if row is not None and row.padding:
            notes.append(f"padded in the kernel's layout: {row.padding}")
        if row is not None and row.decision == "dense":
            notes.append(f"{row.name} stays dense: {row.reason}")
        self.form.notes = notes

    def _show_settings(self) -> None:
        resolved = self.session.resolved()
        tiles = self.session.choice().config.layout.inner_k_tiles
        values = {**values_of(resolved.options), _TILES.id: tiles}
        self.settings.set_fields((*FIELDS_OF[resolved.solver], _TILES), values)
        self.settings.hint = f"{resolved.solver}, {changes_of(resolved.solver, resolved.options)}"

    def _changed(self, field: str, value: Value) -> None:
        with self._put_back():
            self._apply(field, value)

    def _set(self, field: str, value: Value) -> None:
        with self._put_back():
            if field == _TILES.id:
                self._apply(field, value)
            else:
                self.session.configure(options={field: value})

    @contextlib.contextmanager
    def _put_back(self) -> Iterator[None]:
        """Let a control go back to what holds when its change is refused; the error is shown under the view."""
        try:
            yield
        except WorkbenchError:
            self._show()
            raise

    def _apply(self, field: str, value: Value) -> None:
        if field == "scope":
            self.session.scope = _SCOPES[str(value)]
        elif field == "int4":
            (self.session.make_int4 if value else self.session.keep_dense)()
        elif field == "preserve_zero":
            self.session.configure(preserve_zero=_PRESERVE[str(value)])
        else:
            self.session.configure(**{field: value})  # type: ignore[arg-type]


def _values(session: Session) -> dict[str, Value]:
    choice = session.choice()
    config = choice.config
    named = {ZeroPointDomain.FLOAT: "float", ZeroPointDomain.INT: "int", ZeroPointDomain.NONE: "auto"}
    preserve = {None: "auto", True: "yes", False: "no"}[config.preserve_zero]
    return {
        "group_size": config.group_size,
        "domain": choice.domain or named[config.zero_point_domain],
        "solver": session.resolved().solver,
        "int4": bool(session.current) and session.row(session.current).decision == "int4",
        "preserve_zero": preserve,
        "scope": next(name for name, scope in _SCOPES.items() if scope == session.scope),
    }
