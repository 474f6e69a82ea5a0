"""A rule of a recipe, and the same as JSON, whose every error says which key it is about."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from workbench.errors import ConfigError
from workbench.recipe.choice import SETTINGS, Choice, check_type, read_choice, refuse_unknown
from workbench.recipe.patterns import check_pattern
from workbench.recipe.text import Cursor

_RULE = '{"pattern": "…", "group_size": 64} or {"pattern": "…", "dense": true}'


@dataclass(frozen=True)
class Rule:
    """A pattern and what it decides: a choice, or None for "leave it dense".

    Raises:
        PatternError: for a malformed pattern.
    """

    pattern: str
    choice: Choice | None

    def __post_init__(self) -> None:
        check_pattern(self.pattern)

    def to_json(self) -> dict[str, Any]:
        """Return the rule as JSON types."""
        return {"pattern": self.pattern, **({"dense": True} if self.choice is None else self.choice.to_json())}


def read_rule(data: Any, cursor: Cursor) -> Rule:
    """Build a rule from its JSON; the cursor shows where that failed.

    Raises:
        ConfigError: for a rule without a pattern, an unknown setting, or a dense rule with settings.
        PatternError: for a malformed pattern.
    """
    if not isinstance(data, dict) or "pattern" not in data:
        raise ConfigError(f"The rule {data!r:.80} has no pattern.", allowed=_RULE)
    refuse_unknown(data, ("pattern", "dense", *SETTINGS), cursor)
    settings = {key: value for key, value in data.items() if key in SETTINGS}
    with cursor.at("pattern"):
        check_pattern(data["pattern"])
    with cursor.at("dense"):
        check_type(data.get("dense", False), bool, "true or false")
    if not data.get("dense", False):
        return Rule(data["pattern"], read_choice(settings, cursor))
    for key in settings:
        with cursor.at(key):
            raise ConfigError(f"The rule is dense and has a {key}.", mend="drop one of the two")
    return Rule(data["pattern"], None)
