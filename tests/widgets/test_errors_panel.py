"""The errors panel without a browser: units, experts, and what it asks of the session."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from tests.session.stand_ins import TIMEOUT_S, closing
from tests.widgets.opened import following
from workbench.errors import ConfigError
from workbench.jobs import Job
from workbench.records.layers import LayerRecord
from workbench.session import Event, Session
from workbench.widgets.compare_panel import ComparePanel
from workbench.widgets.component import log_error
from workbench.widgets.convergence_panel import ConvergencePanel
from workbench.widgets.errors_panel import ErrorsPanel
from workbench.widgets.histogram_panel import HistogramPanel
from workbench.widgets.microscope_panel import MicroscopePanel
from workbench.widgets.panel import NOT_LINEAR, Panel


class Experts:
    """A source of a plain weight and of a stack of three experts of 16 rows."""

    name = "experts"
    shapes = (("plain", "linear", (16, 128)), ("stack", "experts", (3, 16, 128)), ("words", "embedding", (16, 128)))

    def records(self) -> list[LayerRecord]:
        return [LayerRecord(name, kind, shape, "float32", 4 * 2048) for name, kind, shape in self.shapes]

    def weight(self, name: str) -> torch.Tensor:
        rows = 48 if name == "stack" else 16
        return torch.randn(rows, 128, generator=torch.Generator().manual_seed(1))

    def missing(self, name: str) -> str:
        return ""


@pytest.fixture
def session() -> Iterator[Session]:
    with closing(Session(Experts())) as session:
        yield session


@pytest.fixture
def panel(wire: Any, session: Session) -> Iterator[ErrorsPanel]:
    with following(ErrorsPanel, session) as panel:
        yield panel


@pytest.fixture
def panels(wire: Any, session: Session) -> Iterator[list[Panel]]:
    """Every panel that shows the layer on show, with a comparison in it."""
    kinds = (ErrorsPanel, ConvergencePanel, HistogramPanel, ComparePanel, MicroscopePanel)
    panels: list[Panel] = [kind(session, log_error) for kind in kinds]
    for panel in panels:
        session.listen(panel.on_event)
    session.compare.pin()
    session.configure(group_size=32, solver="hqq")
    assert session.wait(TIMEOUT_S)
    yield panels
    for panel in panels:
        panel.close()


def shown(panels: list[Panel]) -> list[bool]:
    """Whether each of them shows a picture."""
    heat, steps, bars, compare, group = panels
    assert isinstance(heat, ErrorsPanel) and isinstance(steps, ConvergencePanel) and isinstance(bars, HistogramPanel)
    assert isinstance(compare, ComparePanel) and isinstance(group, MicroscopePanel)
    pictures = (heat.heatmap.payload, steps.chart.chart.series, bars.weights.chart.counts)
    return [bool(one) for one in (*pictures, compare.map.payload, group.view.microscope)]


def test_a_weight_that_is_no_layer_leaves_no_picture_of_another_one(session: Session, panels: list[Panel]) -> None:
    assert shown(panels) == [True] * 5
    session.select(["words"])
    assert session.wait(TIMEOUT_S)
    assert shown(panels) == [False] * 5
    heat = panels[0]
    assert isinstance(heat, ErrorsPanel)
    assert (heat.heatmap.message, heat.numbers.facts, heat.heatmap.busy) == (NOT_LINEAR, [], False)
    session.select(["plain"])
    assert session.wait(TIMEOUT_S)
    assert shown(panels) == [True] * 5


def test_what_is_told_late_of_another_layer_is_not_shown(session: Session, panels: list[Panel]) -> None:
    late = [Event("group", session.microscope.latest), Event("details", session.details.latest)]
    late += [Event("compare", session.compare.latest), Event("view", session.errors["plain"])]
    session.select(["words"])
    assert session.wait(TIMEOUT_S)
    for event in late:
        for panel in panels:
            panel.on_event(event)
    assert shown(panels) == [False] * 5


def test_a_comparison_that_comes_before_its_recipe_is_told_is_not_waited_for(
    session: Session, panels: list[Panel]
) -> None:
    compare = panels[3]
    assert isinstance(compare, ComparePanel) and not compare.map.busy
    compare.on_event(Event("coverage", session.coverage))
    assert not compare.map.busy
    session.compare.latest = None
    compare.on_event(Event("coverage", session.coverage))
    assert compare.map.busy


def failed(label: str) -> Job:
    def work(_cancel: threading.Event) -> Iterator[None]:
        raise ConfigError("No.")

    job = Job(label, work, lambda *_: None, lambda _: None, quiet=True)
    job.run()
    return job


def test_only_a_failure_of_the_view_itself_takes_the_pictures_away(session: Session, panels: list[Panel]) -> None:
    other = failed("Quality")  # measured behind each change, and failed: the layer on show is as it was
    for panel in panels:
        panel.on_event(Event("job", other, other))
    assert shown(panels) == [True] * 5
    own = session.views.lane.submit(failed("Errors of plain"))
    for panel in panels:
        panel.on_event(Event("job", own, own))
    assert shown(panels) == [False] * 5


def choose(panel: ErrorsPanel, field: str, value: Any) -> None:
    panel.form.change(field, value)
    assert panel.session.wait(TIMEOUT_S)


def test_rows_of_a_stack_are_told_by_expert_and_those_of_a_plain_weight_are_not(panel: ErrorsPanel) -> None:
    assert panel.heatmap.payload is not None and panel.heatmap.payload.stack_rows is None
    panel.session.select(["stack"])
    assert panel.session.wait(TIMEOUT_S)
    shown = panel.heatmap.payload
    assert (shown.title, shown.total_rows, shown.stack_rows) == ("stack", 48, 16)


def test_the_microscope_knows_the_rows_of_an_expert_too(wire: Any, session: Session) -> None:
    panel = MicroscopePanel(session, log_error)
    session.listen(panel.on_event)
    for name, rows in (("plain", None), ("stack", 16)):
        session.select([name])
        session.refresh()
        assert session.wait(TIMEOUT_S)
        assert (panel.view._payload["name"], panel.view._payload["stack_rows"]) == (name, rows)
    panel.close()


@pytest.mark.parametrize(
    ("metric", "relative", "back"),
    [
        ("rmse", "relative", "rmse"),
        ("max", "relative_max", "max"),
        ("mse", "sqnr", "mse"),
        ("mean_abs", "relative", "rmse"),
    ],
)
def test_one_switch_goes_between_units_of_the_weight_and_relative(
    panel: ErrorsPanel, metric: str, relative: str, back: str
) -> None:
    choose(panel, "metric", metric)
    assert panel.form.values["units"] == "weight"
    choose(panel, "units", "relative")
    assert (panel.session.metric, panel.form.values["metric"]) == (relative, relative)
    assert panel.heatmap.payload is not None
    assert panel.heatmap.payload.low_is_worse == (relative == "sqnr")
    choose(panel, "units", "weight")
    assert (panel.session.metric, panel.form.values["units"]) == (back, "weight")


def test_what_is_no_error_has_no_other_units(panel: ErrorsPanel) -> None:
    choose(panel, "metric", "scale")
    assert panel.form.disabled == ["units"]
    choose(panel, "metric", "max")
    assert panel.form.disabled == []


def test_the_output_error_is_offered_until_it_is_asked_for(panel: ErrorsPanel, session: Session) -> None:
    def offered() -> bool:
        return "wb-away" not in panel._more._dom_classes

    assert offered()
    for name, expected in (("words", False), ("stack", False), ("plain", True)):
        session.select([name])
        assert session.wait(TIMEOUT_S) and offered() is expected
    with pytest.raises(ConfigError, match="no calibration text"):
        panel._measure("output")
    assert session.details.wants_output and not offered()
