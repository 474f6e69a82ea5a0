"""The figure of a microscope: a group's weights, and under them the 16 levels of every variant."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from workbench.figures.style import Theme, ThemeName, faded, new_figure, say_empty, style_of
from workbench.measure.microscope import absent
from workbench.records.microscope import Microscope, MicroscopeVariant

_COLORS = {"float": 0, "int": 2, "symmetric": 3}  # places in the palette, as in the notebook's microscope
_ROW = 30  # pixels of a variant's row
_COLUMNS = (("RMS error", 16), ("mean |e|", 136), ("largest |e|", 204), ("bits", 286), ("0 lands at", 330))


def microscope_figure(microscope: Microscope, *, theme: ThemeName = "light") -> go.Figure:
    """Draw a group's weights over the levels of every variant, with errors, bits and where 0 lands at the right.

    Errors in brackets are relative to round-to-nearest in the same domain; the best of each kind is bold.

    Args:
        microscope: What `measure.microscope.microscope` found.
        theme: "light" or "dark".
    """
    style = style_of(theme)
    found = microscope.solved
    figure = new_figure(style, microscope.name, _where(microscope))
    if not found:
        return say_empty(figure, style, "No variant of this group could be solved.")
    figure.add_trace(_weights(microscope, style, len(found)))
    _add_variants(figure, style, found)
    labels = [*(_name(variant, variant is _current(microscope)) for variant in reversed(found)), "weights"]
    plain = {"showgrid": False, "zeroline": False, "showline": False, "ticks": ""}
    figure.update_yaxes(tickvals=list(range(len(labels))), ticktext=labels, range=[-0.6, len(found) + 0.7], **plain)
    figure.update_xaxes(title_text="weight units", zeroline=True, zerolinecolor=style.fg3)
    notes = [f"{names}: {reason}" for names, reason in absent(microscope)]
    _write(figure, "<br>".join(notes), style.fg3, x=0, y=0, yref="paper", yanchor="top", yshift=-52, align="left")
    bottom = 64 + 17 * len(notes)
    height = _ROW * (len(found) + 1) + 100 + bottom
    return figure.update_layout(showlegend=False, margin={"t": 88, "r": 412, "b": bottom}, height=height)


def _add_variants(figure: go.Figure, style: Theme, variants: Sequence[MicroscopeVariant]) -> None:
    """Add a row of levels for each variant, the first on top, with its numbers at the right."""
    best = {name: min(getattr(one, name) for one in variants) for name in ("rms", "mean_abs", "max_abs")}
    for text, shift in _COLUMNS:
        _write(figure, text, style.fg3, x=1, xshift=shift, y=len(variants))
    for y, variant in enumerate(reversed(variants)):
        figure.add_traces(_levels(variant, style, y))
        for text, (_, shift) in zip(_numbers(variant, best), _COLUMNS, strict=True):
            _write(figure, text, style.fg2, x=1, xshift=shift, y=y)


def _where(microscope: Microscope) -> str:
    last = microscope.first_column + len(microscope.weights) - 1
    columns = f"in_features {microscope.first_column} to {last}"
    count = len(microscope.weights)
    where = f"output feature {microscope.row:,}, group {microscope.group:,} ({columns}), {count} weights"
    return f"{where}; × is against round-to-nearest in the same domain"


def _weights(microscope: Microscope, style: Theme, y: int) -> go.Scatter:
    return go.Scatter(
        x=list(microscope.weights),
        y=[y] * len(microscope.weights),
        mode="markers",
        name="weights",
        marker={"symbol": "line-ns", "size": 16, "line": {"width": 1.25, "color": faded(style.fg, 0.55)}},
        customdata=[microscope.first_column + place for place in range(len(microscope.weights))],
        hovertemplate="in_feature %{customdata}: <b>%{x:.4g}</b><extra>weight</extra>",
    )


def _levels(variant: MicroscopeVariant, style: Theme, y: int) -> list[go.Scatter]:
    """Return the used levels, strong, and the unused ones, faint."""
    counts = [variant.codes.count(code) for code in range(len(variant.levels))]
    color = style.series[_COLORS.get(variant.domain, 0)]
    traces = []
    for used in (True, False):
        codes = [code for code, count in enumerate(counts) if (count > 0) is used]
        line = {"width": 3 if used else 1.5, "color": color if used else style.line_strong}
        traces.append(
            go.Scatter(
                x=[variant.levels[code] for code in codes],
                y=[y] * len(codes),
                mode="markers",
                name=f"{_name(variant)}{'' if used else ', unused'}",
                marker={"symbol": "line-ns", "size": 15 if used else 7, "line": line},
                customdata=[[code, counts[code]] for code in codes],
                hovertemplate="code %{customdata[0]}: <b>%{x:.4g}</b><br>%{customdata[1]} weights<extra></extra>",
            )
        )
    return traces


def _numbers(variant: MicroscopeVariant, best: dict[str, float]) -> list[str]:
    """Return the texts at the right of a variant's row."""
    texts = []
    for name in ("rms", "mean_abs", "max_abs"):
        value, ratio = getattr(variant, name), getattr(variant, f"{name}_ratio")
        shown = f"<b>{value:.3g}</b>" if value == best[name] else f"{value:.3g}"
        texts.append(f"{shown} ({ratio:.3f}×)" if name == "rms" and variant.solver != "rtn" else shown)
    zero = "exact" if variant.zero_level == 0 else f"{variant.zero_level:.2g}"
    return [*texts, f"{variant.bits_per_weight:.2f}", zero]


def _name(variant: MicroscopeVariant, current: bool = False) -> str:
    kept = ", preserve_zero" if variant.domain == "float" and variant.preserve_zero else ""
    name = f"{variant.domain} {variant.solver}{kept}"
    return f"<b>{name}</b>" if current else name


def _current(microscope: Microscope) -> MicroscopeVariant | None:
    return None if microscope.current is None else microscope.variants[microscope.current]


def _write(figure: go.Figure, text: str, color: str, **place: Any) -> None:
    """Write beside the plot: x in shares of its width, y in rows, shifts in pixels."""
    usual = {"xref": "paper", "xanchor": "left", "yref": "y", "showarrow": False}
    figure.add_annotation(text=text, font={"size": 12, "color": color}, **(usual | place))
