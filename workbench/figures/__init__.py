"""Records in, `plotly.graph_objects.Figure` out: pure functions for notebooks and reports; the only importer of plotly.

Show one with `figure.show(config=CONFIG)`, or save it with `figure.write_html(path, config=CONFIG)`.
"""

from __future__ import annotations

from typing import Any

from workbench.figures.convergence import convergence_figure
from workbench.figures.coverage import coverage_figure
from workbench.figures.microscope import microscope_figure
from workbench.figures.quality import quality_figure
from workbench.figures.speed import latency_figure, speedup_figure
from workbench.figures.style import ThemeName
from workbench.figures.weights import error_map_figure, histogram_figure, map_values

CONFIG: dict[str, Any] = {"displaylogo": False}  # "responsive" collapses a figure in JupyterLab to no height

__all__ = [
    "CONFIG",
    "ThemeName",
    "convergence_figure",
    "coverage_figure",
    "error_map_figure",
    "histogram_figure",
    "latency_figure",
    "map_values",
    "microscope_figure",
    "quality_figure",
    "speedup_figure",
]
