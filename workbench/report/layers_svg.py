"""The error of every solved layer in the order of the model, as SVG."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from workbench.report.svg import MARKS, SERIES, Axis, frame, legend, mark, svg, text

_WIDTH, _HEIGHT, _LEFT, _RIGHT = 960.0, 280.0, 64.0, 12.0
_OTHERS = "others"


def layers_svg(errors: Sequence[tuple[str, float]]) -> str:
    """Draw a point for each layer; layers with the same last part of their name share a mark.

    Args:
        errors: Name and relative RMS error of each layer, in the order of the model; one that is exact stays out.
    """
    shown = [(place, name, error) for place, (name, error) in enumerate(errors) if 0 < error < math.inf]
    if not shown:
        return svg(_WIDTH, 60, "Error by layer", [text(_WIDTH / 2, 34, "No layer has an error to show.", "label")])
    kinds = _kinds([name for _, name, _ in shown])
    names = list(dict.fromkeys(kinds.values()))
    low, high = min(error for *_, error in shown), max(error for *_, error in shown)
    marks, tall = legend(names, _LEFT, 42, _WIDTH - _LEFT - _RIGHT)
    top = 42 + tall
    x = Axis(-0.5, len(errors) - 0.5, _LEFT, _WIDTH - _RIGHT)
    y = Axis(low / 1.08, high * 1.08, top + _HEIGHT, top, log=True)
    parts = [frame(x, y, "layer, in the order of the model", "RMS error / RMS weight", _percent, x.ticks(8)), marks]
    for place, name, error in shown:
        series = names.index(kinds[name])
        title = f"{name}: {error:.2%}"
        parts.append(mark(MARKS[series % len(MARKS)], x.at(place), y.at(error), series, title, 3.5))
    return svg(_WIDTH, top + _HEIGHT + 48, f"Relative error of {len(shown)} layers", parts)


def _kinds(names: Sequence[str]) -> dict[str, str]:
    """Return name → the last part of it that is no number; the rarest are "others", where colours do not suffice."""
    last = {name: next((p for p in reversed(name.split(".")) if not p.isdecimal()), name) for name in names}
    common = [kind for kind, _ in Counter(last.values()).most_common()]
    kept = set(common if len(common) <= SERIES else common[: SERIES - 1])
    return {name: kind if kind in kept else _OTHERS for name, kind in last.items()}


def _percent(share: float) -> str:
    return f"{100 * share:g}%" if share >= 1e-4 else f"{share:g}"
