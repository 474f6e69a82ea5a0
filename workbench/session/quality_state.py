"""What a session knows of quality: results by recipe, what a change did, and the answers to a prompt."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench.errors import ConfigError, WorkbenchError
from workbench.measure.paired import Change, Comparison, change_between
from workbench.session.quality_plan import Plan
from workbench.session.quality_text import WINDOWS

_KEPT = 24  # results: a few kilobytes each


@dataclass(frozen=True)
class Measured:
    """The quality of the model under a recipe.

    Attributes:
        plan: What it is the quality of.
        comparison: The windows so far.
        window: Tokens of a window.
        wanted: Windows that were asked for.
        available: Windows that the whole text has.
        notes: What a person must know.
    """

    plan: Plan
    comparison: Comparison
    window: int
    wanted: int
    available: int
    notes: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether all windows that were asked for are measured."""
        return len(self.comparison.windows) >= self.wanted

    def covers(self, windows: int | None) -> bool:
        """Whether so many windows are measured, or all that the text has; None is all."""
        return len(self.comparison.windows) >= min(windows or self.available, self.available)

    @property
    def label(self) -> str:
        """The recipe in a line."""
        return self.plan.label


@dataclass(frozen=True)
class QualityState:
    """What a view shows of the quality.

    Attributes:
        origin: Where the text comes from, or "" when there is none.
        characters: Its length.
        path: The file that it was read from, or None.
        window: Tokens of a window that are wanted.
        windows: Windows that are wanted; None is all.
        follow: Whether each change of the recipe is measured.
        measured: The result of the recipe that holds now, or None.
        change: What the last change of the recipe did, on the same text, or None.
        before: Label of the recipe that `change` compares with, or "".
        history: Results on this text, newest first, that of this recipe included.
        problem: Why the newest try failed, or None.
        loads_bytes: Bytes of the model that is loaded first; 0 for one that is in memory.
        device_note: Where it is measured, when that is not where the layers will run; else "".
        calibrated_on: Whether the calibrated layers were fitted to this very text, so that the numbers flatter.
        refused: Why no text can be measured, whatever it is: the model came without a tokenizer, or without the
            original; or None.
    """

    origin: str
    characters: int
    path: Path | None
    window: int
    windows: int | None
    follow: bool
    measured: Measured | None = None
    change: Change | None = None
    before: str = ""
    history: tuple[Measured, ...] = ()
    problem: WorkbenchError | None = None
    loads_bytes: int = 0
    device_note: str = ""
    calibrated_on: bool = False
    refused: WorkbenchError | None = None

    def chosen(self, window: int | None, windows: int | str | None, follow: bool | None) -> dict[str, Any]:
        """Return how it is measured after a choice of a person's: what is None stays as it is.

        Args:
            window: Tokens of a window, one of `WINDOWS`.
            windows: Windows of the text that are measured, or "all".
            follow: Whether each change of the recipe is measured.

        Raises:
            ConfigError: for another window, or a number of windows below 1.
        """
        if window is not None and window not in WINDOWS:
            raise ConfigError(f"window={window!r}.", allowed=" or ".join(map(str, WINDOWS)))
        if windows is not None and windows != "all" and (type(windows) is not int or windows < 1):
            raise ConfigError(f"windows={windows!r}.", allowed="a whole number from 1 on, or 'all'")
        return {
            "window": window or self.window,
            "windows": self.windows if windows is None else None if windows == "all" else windows,
            "follow": self.follow if follow is None else bool(follow),
        }


class Results:
    """The last results by what they are the quality of; the newest one is that of the recipe that holds."""

    def __init__(self) -> None:
        self._held: OrderedDict[Hashable, Measured] = OrderedDict()

    def __len__(self) -> int:
        """Number of results held."""
        return len(self._held)

    def get(self, plan: Plan) -> Measured | None:
        """Return the result of a plan and make it the newest, or None."""
        found = self._held.get(plan.key)
        if found is not None:
            self._held.move_to_end(plan.key)
        return found

    def add(self, result: Measured) -> None:
        """Hold a result as the newest, in place of one of the same plan."""
        self._held[result.plan.key] = result
        self._held.move_to_end(result.plan.key)
        while len(self._held) > _KEPT:
            self._held.popitem(last=False)

    def on(self, text: Hashable) -> tuple[Measured, ...]:
        """Return the results on a text, newest first."""
        return tuple(one for one in reversed(self._held.values()) if one.plan.text == text)

    def change(self, result: Measured) -> tuple[Change, str] | None:
        """Return what the change from the recipe before did, and that recipe's label; None for a first one."""
        others = [one for one in self.on(result.plan.text) if one.plan != result.plan]
        before = next((one for one in others if one.complete), next(iter(others), None))
        return None if before is None else (change_between(before.comparison, result.comparison), before.label)
