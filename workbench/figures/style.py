"""How figures look: the colours and fonts of the components' style sheet, light and dark, as plotly templates."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Literal

import plotly.graph_objects as go

from workbench.errors import ConfigError

ThemeName = Literal["light", "dark"]

FONT = "system-ui, -apple-system, 'Segoe UI', 'Helvetica Neue', Arial, sans-serif"
_VIRIDIS = "440154 472d7b 3b528b 2c728e 21918c 28ae80 5ec962 addc30 fde725"


@dataclass(frozen=True)
class Theme:
    """Colours of one theme; the names are those of the custom properties in widgets/theme.css.

    Attributes:
        surface: Background.
        line: Grid lines.
        line_strong: Axes, and bars of the state before.
        fg: Titles.
        fg2: Labels.
        fg3: What is least important.
        series: Colours of lines and bars, first to last.
        middle: OKLCH lightness of the middle and of the ends of a diverging colour scale.
    """

    surface: str
    line: str
    line_strong: str
    fg: str
    fg2: str
    fg3: str
    series: tuple[str, str, str, str, str, str]
    middle: tuple[float, float]


THEMES = {
    "light": Theme(
        surface="#ffffff",
        line="#d8dbe0",
        line_strong="#b6bbc4",
        fg="#1c2026",
        fg2="#4f5660",
        fg3="#636a75",
        series=("#0b6bcb", "#c2410c", "#0f8a6a", "#8e3fb0", "#a37200", "#b83269"),
        middle=(0.97, 0.42),
    ),
    "dark": Theme(
        surface="#16181c",
        line="#363a42",
        line_strong="#555b66",
        fg="#eceef1",
        fg2="#b4bbc5",
        fg3="#a3abb6",
        series=("#62b0ff", "#ff9a5c", "#4cd0a6", "#cf93f0", "#e3bb4d", "#ff86b3"),
        middle=(0.22, 0.86),
    ),
}


def style_of(theme: str) -> Theme:
    """Return a theme by name.

    Raises:
        ConfigError: for any other name.
    """
    if theme not in THEMES:
        raise ConfigError(f"theme={theme!r}.", allowed="'light' or 'dark'")
    return THEMES[theme]


def new_figure(theme: Theme, title: str, subtitle: str) -> go.Figure:
    """Return an empty figure in a theme."""
    return dress(go.Figure(), theme, title, subtitle)


def dress(figure: go.Figure, theme: Theme, title: str, subtitle: str) -> go.Figure:
    """Give a figure its theme and titles."""
    return figure.update_layout(template=template(theme), title={"text": title, "subtitle": {"text": subtitle}})


def say_empty(figure: go.Figure, theme: Theme, text: str) -> go.Figure:
    """Take the axes from a figure and put a sentence in its middle."""
    figure.update_xaxes(visible=False).update_yaxes(visible=False)
    figure.layout.shapes = ()
    figure.layout.annotations = ()
    place = {"x": 0.5, "y": 0.5, "xref": "paper", "yref": "paper", "showarrow": False}
    return figure.add_annotation(text=text, font={"size": 14, "color": theme.fg3}, **place)


@functools.cache
def template(theme: Theme) -> go.layout.Template:
    """Return the plotly template of a theme; it stands alone, plotly's own templates are not changed."""
    axis = {
        "gridcolor": theme.line,
        "linecolor": theme.line_strong,
        "zerolinecolor": theme.line_strong,
        "zerolinewidth": 1,
        "showline": True,
        "ticks": "outside",
        "ticklen": 4,
        "tickcolor": theme.line_strong,
        "tickfont": {"size": 11, "color": theme.fg2},
        "title": {"font": {"size": 12, "color": theme.fg2}, "standoff": 10},
        "automargin": True,
    }
    return go.layout.Template(
        layout={
            "paper_bgcolor": theme.surface,
            "plot_bgcolor": theme.surface,
            "font": {"family": FONT, "size": 12, "color": theme.fg2},
            "colorway": theme.series,
            "title": {
                "font": {"size": 16, "color": theme.fg, "weight": 600},
                "subtitle": {"font": {"size": 12, "color": theme.fg2}},
                "x": 0,
                "xref": "paper",
                "xanchor": "left",
                "y": 1,
                "yref": "container",
                "yanchor": "top",
                "pad": {"t": 18},
            },
            "margin": {"l": 64, "r": 24, "t": 112, "b": 56},
            "height": 440,
            "xaxis": axis,
            "yaxis": axis,
            "legend": {
                "orientation": "h",
                "x": 0,
                "xanchor": "left",
                "y": 1.01,
                "yanchor": "bottom",
                "bgcolor": "rgba(0, 0, 0, 0)",
                "font": {"color": theme.fg2},
            },
            "hoverlabel": {
                "bgcolor": theme.surface,
                "bordercolor": theme.line_strong,
                "font": {"family": FONT, "size": 12, "color": theme.fg},
                "align": "left",
            },
            "modebar": {"bgcolor": "rgba(0, 0, 0, 0)", "color": theme.fg3, "activecolor": theme.fg},
        }
    )


def color_scale(theme: Theme, *, signed: bool) -> list[list[float | str]]:
    """Return the heatmap's colours as the components have them: viridis, or for signed values blue to orange."""
    if not signed:
        colors = [f"#{color}" for color in _VIRIDIS.split()]
    else:
        colors = [_diverging(theme, 2 * place / 32 - 1) for place in range(33)]
    return [[place / (len(colors) - 1), color] for place, color in enumerate(colors)]


def faded(color: str, opacity: float) -> str:
    """Return a "#rrggbb" colour with an opacity from 0 to 1."""
    red, green, blue = (int(color[at : at + 2], 16) for at in (1, 3, 5))
    return f"rgba({red}, {green}, {blue}, {opacity})"


def _diverging(theme: Theme, at: float) -> str:
    """Colour of a value from -1 (blue) over 0 (the page's own lightness) to 1 (orange)."""
    far = abs(at)
    lightness = theme.middle[0] + (theme.middle[1] - theme.middle[0]) * far
    chroma = 0.15 * math.sin(math.pi / 2 * min(1.0, 1.15 * far)) * (1 - 0.25 * far)
    return _from_oklch(lightness, chroma, 255 if at < 0 else 45)


def _from_oklch(lightness: float, chroma: float, hue: float) -> str:
    """OKLCH to sRGB (Ottosson 2020), clipped to the gamut."""
    a, b = chroma * math.cos(math.radians(hue)), chroma * math.sin(math.radians(hue))
    long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    medium = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    short = (lightness - 0.0894841775 * a - 1.291485548 * b) ** 3
    linear = (
        4.0767416621 * long - 3.3077115913 * medium + 0.2309699292 * short,
        -1.2684380046 * long + 2.6097574011 * medium - 0.3413193965 * short,
        -0.0041960863 * long - 0.7034186147 * medium + 1.707614701 * short,
    )
    return "#" + "".join(f"{_gamma(channel):02x}" for channel in linear)


def _gamma(channel: float) -> int:
    value = 12.92 * channel if channel <= 0.0031308 else 1.055 * channel ** (1 / 2.4) - 0.055
    return round(255 * min(1.0, max(0.0, value)))
