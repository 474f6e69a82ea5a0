"""Panels and components of the notebook interface; each is imported when it is first asked for."""

from __future__ import annotations

import importlib
from typing import Any

_HOMES = {
    "Commands": "commands",
    "HeatPayload": "heatmap",
    "Heatmap": "heatmap",
    "LayerTable": "layer_table",
    "LineChart": "line_chart",
}


def __getattr__(name: str) -> Any:
    """Import the module that holds `name` on first use."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
