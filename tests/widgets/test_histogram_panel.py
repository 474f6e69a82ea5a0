"""The histograms of the current layer without a browser."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from tests.session.stand_ins import EMBEDDING, GATE, TIMEOUT_S, Toy
from tests.widgets.opened import following
from workbench.session import Session, open_session
from workbench.widgets.component import log_error
from workbench.widgets.histogram_panel import HistogramPanel


@pytest.fixture
def panel(wire: Any) -> Iterator[HistogramPanel]:
    with following(HistogramPanel, open_session("demo")) as panel:
        yield panel


def test_weights_levels_and_errors_of_the_layer_on_show(panel: HistogramPanel) -> None:
    session = panel.session
    weight = session.source.weight(session.current)
    chart = panel.weights.chart
    assert (chart.low, chart.high) == (-float(weight.float().abs().max()), float(weight.float().abs().max()))
    assert sum(chart.counts) == weight.numel() == sum(panel.errors.chart.counts)
    inside = sum(session.details.latest.spread.levels) / session.details.latest.spread.level_count
    assert sum(chart.outline) == pytest.approx(weight.numel() * inside)
    assert session.current in chart.subtitle and f"{weight.numel():,} weights" in chart.subtitle
    assert not panel.weights.busy


def test_another_layer_takes_the_old_counts_away_at_once_and_brings_its_own(panel: HistogramPanel) -> None:
    seen = []
    panel.session.listen(lambda event: event.kind == "selection" and seen.append(panel.weights.chart.counts))
    panel.session.select([GATE])
    assert seen == [()]
    assert panel.session.wait(TIMEOUT_S)
    assert GATE in panel.weights.chart.subtitle
    panel.session.select([EMBEDDING])
    assert panel.session.wait(TIMEOUT_S)
    assert panel.weights.chart.counts == ()


def test_settings_are_followed(panel: HistogramPanel) -> None:
    before = panel.errors.chart
    panel.session.configure(group_size=256, solver="hqq")
    assert panel.session.wait(TIMEOUT_S)
    assert "hqq, float, group size 256" in panel.errors.chart.subtitle
    assert panel.errors.chart.counts != before.counts


def test_a_panel_made_late_shows_what_is_known(panel: HistogramPanel) -> None:
    late = HistogramPanel(panel.session, log_error)
    assert late.weights.chart == panel.weights.chart
    late.close()


def test_a_layer_that_cannot_be_solved_has_no_counts(wire: Any) -> None:
    session = Session(Toy({"a": torch.full((4, 64), float("nan"))}))
    panel = HistogramPanel(session, log_error)
    session.listen(panel.on_event)
    session.refresh()
    assert session.wait(TIMEOUT_S)
    assert panel.weights.chart.empty == "The layer cannot be solved."
    panel.close()
