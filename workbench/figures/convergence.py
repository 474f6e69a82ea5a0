"""How solvers come to their results: the objective after each step, one solver alone or several in comparison."""

from __future__ import annotations

import math
from collections.abc import Mapping

import plotly.graph_objects as go

from workbench.errors import ConfigError
from workbench.figures.style import Theme, ThemeName, new_figure, say_empty, style_of
from workbench.records.errors import ErrorTrace

_EMPTY = "Round-to-nearest takes no steps: there is nothing to converge."


def convergence_figure(trace: ErrorTrace | Mapping[str, ErrorTrace], *, theme: ThemeName = "light") -> go.Figure:
    """Draw a solver's objective by step, or that of several solvers over round-to-nearest's.

    Args:
        trace: What a solver told of its way; or name → trace, drawn over each other as shares of round-to-nearest's
            error, since each solver has an objective of its own.
        theme: "light" or "dark".

    Raises:
        ConfigError: when a mapping is empty.
    """
    style = style_of(theme)
    if isinstance(trace, ErrorTrace):
        return _alone(trace, style)
    if not trace:
        raise ConfigError("No trace is given.", mend='pass {"hqq": result.trace, ...}')
    return _compared(trace, style)


def _alone(trace: ErrorTrace, style: Theme) -> go.Figure:
    saved = 1 - trace.relative[-1]
    subtitle = f"{trace.improved_groups:,} of {trace.groups:,} groups improved; {trace.objective} {saved:.2%} lower"
    figure = new_figure(style, "Convergence of the solver", subtitle)
    marks = [style.series[1], *[style.series[0]] * (len(trace.values) - 1)]
    _add_line(figure, style, trace, trace.values, "best so far", style.series[0], marks)
    figure.data[
        -1
    ].hovertemplate = "step %{x}: <b>%{y:.4g}</b><br>%{customdata} against round-to-nearest<extra></extra>"
    _add_reference(figure, trace.rtn_error, style.series[1])
    _dress_axes(figure, len(trace.values))
    unit = f", {trace.unit}" if trace.unit else ""
    figure.update_yaxes(title_text=f"{trace.objective}{unit}", tickformat=".4~g", exponentformat="power")
    return figure.update_layout(showlegend=False, margin={"t": 88})


def _compared(traces: Mapping[str, ErrorTrace], style: Theme) -> go.Figure:
    steps = {name: trace for name, trace in traces.items() if len(trace.values) > 1}
    ends = [f"{name} {trace.relative[-1]:.3f}×" for name, trace in steps.items()]
    figure = new_figure(
        style, "Convergence of the solvers", "each in its own objective: " + (", ".join(ends) or "none")
    )
    for place, (name, trace) in enumerate(steps.items()):
        color = style.series[place % len(style.series)]
        label = f"{name}: {trace.objective}"
        _add_line(figure, style, trace, trace.relative, label, color, color)
        figure.data[
            -1
        ].hovertemplate = f"step %{{x}}: <b>%{{y:.4f}}×</b> round-to-nearest's {trace.objective}<extra>{name}</extra>"
    _add_reference(figure, 1.0, style.fg3)
    _dress_axes(figure, max((len(trace.values) for trace in steps.values()), default=1))
    figure.update_yaxes(title_text="objective over round-to-nearest's", tickformat=".4~g", ticksuffix="×")
    figure.update_layout(showlegend=True)
    return figure if steps else say_empty(figure, style, _EMPTY)


def _add_line(
    figure: go.Figure,
    style: Theme,
    trace: ErrorTrace,
    values: tuple[float, ...],
    name: str,
    color: str,
    marks: str | list[str],
) -> None:
    points = [(step, value) for step, value in enumerate(values) if math.isfinite(value)]
    shades = marks if isinstance(marks, str) else [marks[step] for step, _ in points]
    exact = trace.rtn_error == 0
    figure.add_trace(
        go.Scatter(
            x=[step for step, _ in points],
            y=[value for _, value in points],
            mode="lines+markers",
            name=name,
            line={"color": color, "width": 2.5},
            marker={"size": 7, "color": shades, "line": {"width": 2, "color": style.surface}},
            customdata=["exact" if exact else f"{trace.relative[step] - 1:+.2%}" for step, _ in points],
        )
    )


def _add_reference(figure: go.Figure, at: float, color: str) -> None:
    if math.isfinite(at):
        line = {"color": color, "width": 1.5, "dash": "dash"}
        figure.add_hline(y=at, line=line, annotation_text="round-to-nearest")
        figure.update_annotations(font={"color": color, "size": 11})


def _dress_axes(figure: go.Figure, steps: int) -> None:
    figure.update_xaxes(title_text="step (0: round-to-nearest)", tick0=0, dtick=max(1, steps // 10))
