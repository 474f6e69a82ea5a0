"""Recipes by name, for those who want a good result before they know the settings.

The figures are those of the embedded demo model: bits a weight, scales and zero points included, and the mean KL
divergence from the unquantized model on its held-out text.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Any

from workbench.errors import ConfigError


@dataclass(frozen=True)
class Preset:
    """A recipe by name.

    Attributes:
        good_for: What it is good for, in a line.
        settings: The recipe as its file would hold it.
    """

    good_for: str
    settings: dict[str, Any]


def _preset(good_for: str, *, output_head: bool = False, **choice: Any) -> Preset:
    return Preset(good_for, {"format_version": 1, "default": choice, "output_head": output_head, "rules": []})


PRESETS = {
    "balanced": _preset("good quality for its size: 4.5 bits, KL 0.019", group_size=64, solver="refined"),
    "accurate": _preset("the best that needs no text: 5 bits, KL 0.015", group_size=32, solver="refined"),
    "small": _preset("the smallest files: 4.13 bits, KL 0.031", group_size=256, solver="refined"),
    "fast": _preset(
        "the output head in int4 too, for decoding: 4.25 bits, KL 0.037",
        group_size=128,
        solver="refined",
        output_head=True,
    ),
    "calibrated": _preset(
        "the best of all, with a text like what the model will see: 4.5 bits, KL 0.006",
        group_size=64,
        solver="calibrated",
    ),
}


def preset_settings(name: str) -> dict[str, Any]:
    """Return the settings of a preset.

    Raises:
        ConfigError: for an unknown name, with all there are and the nearest.
    """
    if name in PRESETS:
        return PRESETS[name].settings
    close = difflib.get_close_matches(str(name), PRESETS, n=1)
    raise ConfigError(
        f"There is no preset {name!r}.",
        allowed="; ".join(f"{known!r} ({one.good_for})" for known, one in PRESETS.items()),
        mend=f"take {close[0]!r}" if close else "name one of them",
    )
