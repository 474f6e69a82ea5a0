"""What every view must be, in each theme and at each width: readable."""

from __future__ import annotations

from pathlib import Path

from notebook_page import wait_for
from playwright.sync_api import Locator

FAULTS = Path(__file__).with_suffix(".js").read_text(encoding="utf-8")


def expect_readable(parts: Locator, theme: str | None = None, fits: bool = True, timeout_s: float = 20) -> None:
    """Wait until all that matches is in the theme, has enough contrast, and, unless told, is no wider than its place.

    All are read in one moment, and again until no fault is found: what a worker ends meanwhile may change a view, hide
    one or add one.

    Raises:
        AssertionError: with the faults that stayed.
    """
    wait_for(lambda: parts.evaluate_all(FAULTS, [theme, fits]), lambda faults: faults == [], timeout_s)
