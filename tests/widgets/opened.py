"""Panels and apps as a page shows them: with their first views, and at rest when a test is over."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from tests.session.stand_ins import TIMEOUT_S
from workbench.session import Session
from workbench.widgets.app import Workbench
from workbench.widgets.component import log_error


@contextlib.contextmanager
def following(kind: Callable[..., Any], session: Session, on_error: Callable[..., Any] = log_error) -> Iterator[Any]:
    """A panel that hears what its session tells, and has what there is to see of the layer on show."""
    panel = kind(session, on_error)
    session.listen(panel.on_event)
    session.refresh()
    assert session.wait(TIMEOUT_S)
    yield panel
    session.cancel()
    assert session.wait(TIMEOUT_S)
    panel.close()


@contextlib.contextmanager
def opened(*model: Any) -> Iterator[Workbench]:
    """An app over a model, or the demo model where none is given, with its first views."""
    app = Workbench(*model)
    assert app.wait(TIMEOUT_S)
    yield app
    app.close()
