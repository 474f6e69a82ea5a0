"""The figure of quality: how far quantized models are from the dense one."""

from __future__ import annotations

from collections.abc import Mapping

import plotly.graph_objects as go

from workbench.errors import ConfigError
from workbench.figures.style import ThemeName, new_figure, say_empty, style_of
from workbench.records.quality import Quality


def quality_figure(qualities: Mapping[str, Quality], *, theme: ThemeName = "light") -> go.Figure:
    """Draw the mean divergence of each model from the reference, with its 95 % interval.

    Args:
        qualities: Name → quality, as `measure_qualities` gives them with a reference; the first is drawn on top.
        theme: "light" or "dark".

    Raises:
        ConfigError: for a quality that was measured without a reference.
    """
    style = style_of(theme)
    alone = [name for name, quality in qualities.items() if quality.mean_kl is None]
    if alone:
        raise ConfigError(
            f"The quality of {alone[0]} was measured without a reference.", mend="pass reference=dense_model"
        )
    names, shown = list(qualities)[::-1], list(qualities.values())[::-1]
    figure = new_figure(style, "Divergence from the dense model", _what_was_measured(qualities))
    means = [quality.mean_kl or 0.0 for quality in shown]
    halves = [(high - low) / 2 for low, high in (quality.kl_interval or (0.0, 0.0) for quality in shown)]
    figure.add_trace(
        go.Bar(
            y=names,
            x=means,
            orientation="h",
            marker={"color": style.series[0], "line": {"width": 0}},
            error_x={"type": "data", "array": halves, "color": style.fg, "thickness": 1.5, "width": 5},
            customdata=[str(quality).replace(", ", "<br>") for quality in shown],
            hovertemplate="<b>%{y}</b><br>%{customdata}<extra></extra>",
        )
    )
    top = max([mean + half for mean, half in zip(means, halves, strict=True)], default=0)
    for name, quality, mean, half in zip(names, shown, means, halves, strict=True):
        label = f"{mean:.4g} · perplexity {quality.perplexity:.2f}"
        place = {"x": mean + half, "y": name, "xanchor": "left", "xshift": 8, "showarrow": False}
        figure.add_annotation(text=label, font={"size": 11, "color": style.fg2}, **place)
    figure.update_layout(showlegend=False, bargap=0.45, height=max(240, 168 + 56 * len(names)), margin={"t": 88})
    figure.update_xaxes(title_text="mean KL(dense ‖ int4), nats a token", range=[0, 1.4 * (top or 1)], nticks=7)
    figure.update_yaxes(showgrid=False, ticks="")
    return figure if shown else say_empty(figure, style, "Nothing is measured yet.")


def _what_was_measured(qualities: Mapping[str, Quality]) -> str:
    if not qualities:
        return "smaller is better"
    first = next(iter(qualities.values()))
    text = f"{first.tokens:,} tokens in {first.windows} windows of {first.window}, with the 95 % interval"
    return f"{text}; the dense model's perplexity is {first.reference_perplexity:.2f}"
