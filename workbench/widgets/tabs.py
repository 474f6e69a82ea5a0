"""Tabs over the parts of the app: the page switches them by itself, without a trip through the kernel."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import traitlets

from workbench.errors import ConfigError
from workbench.widgets.component import SYNC_FROM_PAGE, Component, ErrorHandler, bundle


@dataclass(frozen=True)
class Tab:
    """One tab.

    Attributes:
        id: Its parts have the CSS class "wb-on-<id>".
        label: Text on the tab.
        tooltip: What is there, in a sentence.
    """

    id: str
    label: str
    tooltip: str = ""


TABS = (
    Tab("layers", "Layers and errors", "Which weights become int4, how, and what that does to each group"),
    Tab("speed", "Speed", "Int4 against dense on this machine, by batch size"),
    Tab("quality", "Quality", "How well int4 predicts a text beside the original, and a prompt on both"),
    Tab("recipe", "Recipe", "Everything that was chosen: rules, changes, history, text, files and code"),
    Tab("export", "Export", "Write a checkpoint and check it; save a report to send around"),
)
GIVEN_TABS = (
    Tab("layers", "Layers", "Which layers are int4 already, and how each is stored"),
    Tab("speed", "Speed", "Int4 against dense on this machine, by batch size"),
    Tab("quality", "Quality", "How well the model predicts a text"),
    Tab("recipe", "Recipe", "The recipe that the model was made with, where it says so"),
    Tab("export", "Export", "Convert the model to another format, its codes as they are; save a report"),
)


class Tabs(Component):
    """A row of tabs; of the app around it, the parts of the selected tab are shown.

    Traits:
        tabs: The tabs as dictionaries.
        selected: Id of the selected one.
        badges: Id → a short text beside a label, for instance "3.1×".

    Args:
        tabs: The tabs, left to right; the first is selected.
        on_error: Called as (exception, where) for each error of a handler.

    Raises:
        ConfigError: when two tabs share an id, or there is none.
    """

    _esm = bundle("shared.js", "tabs.js")
    _css = bundle("theme.css", "tabs.css")
    tabs = traitlets.List(traitlets.Dict()).tag(sync=True)
    selected = traitlets.Unicode("").tag(**SYNC_FROM_PAGE)
    badges = traitlets.Dict().tag(sync=True)

    def __init__(self, tabs: Sequence[Tab], *, on_error: ErrorHandler | None = None, **traits: Any) -> None:
        ids = [tab.id for tab in tabs]
        if not ids or len(set(ids)) < len(ids):
            raise ConfigError(f"Tabs {ids}.", allowed="at least one, each with an id of its own")
        super().__init__(on_error=on_error, tabs=[dataclasses.asdict(tab) for tab in tabs], **traits)
        self.selected = self.selected or ids[0]

    @traitlets.validate("selected")
    def _known(self, proposal: Any) -> str:
        ids = [tab["id"] for tab in self.tabs]
        if ids and proposal["value"] not in ("", *ids):
            raise ConfigError(f"There is no tab {proposal['value']!r}.", allowed=", ".join(ids))
        return str(proposal["value"])

    def badge(self, tab: str, text: str) -> None:
        """Write a short text beside a tab's label; "" takes it away."""
        kept = {name: value for name, value in self.badges.items() if name != tab}
        wanted = {**kept, tab: text} if text else kept
        if wanted != self.badges:
            self.badges = wanted

    def _summary(self) -> str:
        return self.selected
