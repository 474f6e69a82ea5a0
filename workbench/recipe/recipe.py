"""Which layers become int4, and how: a default configuration and ordered pattern → configuration rules.

The first rule whose pattern matches a layer's name decides; `workbench.recipe.patterns` says what a pattern is.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from workbench.config import Domain, Int4WeightOnlyConfig
from workbench.disk import why_unwritten
from workbench.errors import ConfigError, PatternError
from workbench.not_for_transformers import NotForTransformers
from workbench.options import SolverName, SolverOptions
from workbench.recipe.choice import Choice as Choice
from workbench.recipe.choice import check_type, read_choice, refuse_unknown
from workbench.recipe.patterns import GRAMMAR, PatternIndex, nearest
from workbench.recipe.patterns import matches as matches
from workbench.recipe.presets import PRESETS, preset_settings
from workbench.recipe.rule import Rule as Rule
from workbench.recipe.rule import read_rule
from workbench.recipe.text import Cursor, dotted, read_document, reading, recipe_text
from workbench.recipe.torchao import as_configuration, fqn_dictionary, read_fqn_dictionary

FORMAT_VERSION = 1
_KEYS = ("format_version", "default", "output_head", "rules")


@dataclass(frozen=True)
class Recipe(NotForTransformers):
    """Ordered rules over a default. The output head is left dense unless a rule names it or `output_head` is set.

    Attributes:
        default: For layers that no rule matches; None leaves them dense.
        rules: The first whose pattern matches a layer decides.
        output_head: Whether `default` applies to the output head too.
    """

    default: Choice | None = field(default_factory=Choice)
    rules: tuple[Rule, ...] = ()
    output_head: bool = False

    def __repr__(self) -> str:
        """As its JSON, which leaves defaults out: a line that makes it again."""
        return f"Recipe.from_json({self.to_json()})"

    def decide(self, name: str) -> tuple[Choice | None, str]:
        """Return the choice for a layer and the reason, a rule's pattern or "default"."""
        for place in self.matching(name)[:1]:
            return self.rules[place].choice, f"pattern {self.rules[place].pattern!r}"
        return self.default, "default"

    def matching(self, name: str) -> list[int]:
        """Return the places in `rules` of those whose pattern matches a layer name, in order."""
        return self._index.matching(name)

    @functools.cached_property
    def _index(self) -> PatternIndex:
        return PatternIndex([rule.pattern for rule in self.rules])

    def with_rule(self, pattern: str, choice: Choice | None) -> Recipe:
        """Return a recipe where `pattern` decides before all others; an older rule of that pattern is dropped."""
        kept = tuple(rule for rule in self.rules if rule.pattern != pattern)
        return replace(self, rules=(Rule(pattern, choice), *kept))

    def check(self, names: Sequence[str]) -> None:
        """Hold every pattern against the layer names.

        Raises:
            PatternError: for a pattern that matches none of them, with the nearest names.
        """
        found = {place for name in names for place in self.matching(name)}
        lost = [rule.pattern for place, rule in enumerate(self.rules) if place not in found]
        if lost:
            more = f" (and {len(lost) - 1} more patterns neither)" if len(lost) > 1 else ""
            near = " or ".join(map(repr, nearest(lost[0], names))) or "another pattern"
            raise PatternError(
                f"The pattern {lost[0]!r} matches none of the {len(names)} weights{more}.",
                allowed=GRAMMAR,
                mend=f"did you mean {near}?",
            )

    def to_json(self) -> dict[str, Any]:
        """Return the recipe as JSON types."""
        return {
            "format_version": FORMAT_VERSION,
            "default": None if self.default is None else self.default.to_json(),
            "output_head": self.output_head,
            "rules": [rule.to_json() for rule in self.rules],
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Recipe:
        """Build from `to_json`'s dictionary.

        Raises:
            ConfigError: for an unknown version, key or setting, saying where it stands.
            PatternError: for a malformed pattern.
        """
        with reading(dotted) as cursor:
            return read_recipe(data, cursor)

    def save(self, path: Path | str) -> None:
        """Write the recipe as a small JSON file: a line for each key, a line for each rule.

        Raises:
            ConfigError: when the file cannot be written.
        """
        try:
            Path(path).write_text(recipe_text(self.to_json()), encoding="utf-8")
        except OSError as error:
            reason, mend = why_unwritten(str(error.strerror), error.errno)
            raise ConfigError(f"The recipe {str(path)!r} cannot be written: {reason}.", mend=mend) from None

    @classmethod
    def load(cls, path: Path | str) -> Recipe:
        """Read a recipe file.

        Raises:
            ConfigError: when it cannot be read, is not JSON, or holds what no recipe can, with the line.
            PatternError: for a malformed pattern, with the line.
        """
        document = read_document(path)
        with reading(document.where) as cursor:
            return read_recipe(document.data, cursor)

    @classmethod
    def preset(cls, name: str) -> Recipe:
        """Return a recipe by name; `Recipe.presets()` says what each is good for.

        Args:
            name: "balanced", "accurate", "small", "fast" or "calibrated".

        Raises:
            ConfigError: for an unknown name, with all there are.
        """
        return cls.from_json(preset_settings(name))

    @staticmethod
    def presets() -> dict[str, str]:
        """Return the name of each preset and what it is good for."""
        return {name: preset.good_for for name, preset in PRESETS.items()}


RecipeLike = Recipe | Int4WeightOnlyConfig | Mapping[str, Any]


def as_recipe(
    recipe: RecipeLike | None,
    *,
    include: str | Iterable[str] | None = None,
    exclude: str | Iterable[str] | None = None,
    solver: SolverName | None = None,
    domain: Domain | None = None,
    options: SolverOptions | None = None,
    output_head: bool = False,
) -> Recipe:
    """Make a recipe of a configuration and include/exclude patterns (exclude decides first).

    torchao's own configuration is taken as well, and so is its FqnToConfig, or a dictionary like one: there
    "_default" is for all layers but the output head, which stays dense unless a name or a pattern means it.

    Args:
        recipe: A configuration, a recipe, or torchao's dictionary; None is the default configuration.
        include: Patterns of the layers to quantize; None is all linear ones.
        exclude: Patterns of layers to leave dense.
        solver: "rtn", "hqq", "refined" or "calibrated"; None follows the configuration.
        domain: "float", "int" or "symmetric"; None follows the configuration.
        options: Settings of the solver; None takes its defaults.
        output_head: Whether the output head is quantized too.

    Raises:
        ConfigError: when a recipe is given together with settings that it already holds, when settings contradict each
            other, or for something that is no recipe.
        PatternError: for a malformed pattern.
    """
    included, excluded = _patterns(include), _patterns(exclude)
    names = None if isinstance(recipe, Recipe) else fqn_dictionary(recipe)
    if isinstance(recipe, Recipe) or names is not None:
        if solver is not None or domain is not None or options is not None or included or excluded or output_head:
            raise ConfigError(
                "A Recipe (or a dictionary of names) holds its own patterns, solver, options, domain and output head.",
                mend="put them into the recipe, or pass an Int4WeightOnlyConfig instead",
            )
        return recipe if isinstance(recipe, Recipe) else _from_names(names or {})
    config = Int4WeightOnlyConfig() if recipe is None else as_configuration(recipe)
    if config is None:
        raise ConfigError(
            f"{recipe!r} is neither a configuration nor a recipe.",
            allowed="Int4WeightOnlyConfig, Recipe, or a dictionary from names to configurations",
        )
    choice = Choice(config, solver, domain, options)
    rules = [Rule(pattern, None) for pattern in excluded] + [Rule(pattern, choice) for pattern in included]
    if output_head and included:
        raise ConfigError("include= and output_head=True.", mend="name the head in include, for instance 'lm_head'")
    return Recipe(None if included else choice, tuple(rules), output_head)


def _patterns(given: str | Iterable[str] | None) -> list[str]:
    return [given] if isinstance(given, str) else list(given or ())


def _from_names(names: Mapping[Any, Any]) -> Recipe:
    default, pairs = read_fqn_dictionary(names)
    return Recipe(default, tuple(Rule(pattern, choice) for pattern, choice in pairs))


def read_recipe(data: Any, cursor: Cursor) -> Recipe:
    """Build a recipe from its JSON; the cursor shows where that failed.

    Raises:
        ConfigError: for an unknown version, key or setting.
        PatternError: for a malformed pattern.
    """
    if not isinstance(data, dict):
        raise ConfigError(f"A recipe is an object; this is {data!r:.60}.", mend='begin with {"format_version": 1, …}')
    _check_version(data, cursor)
    refuse_unknown(data, _KEYS, cursor)
    default, head, listed = data.get("default", {}), data.get("output_head", False), data.get("rules", [])
    with cursor.at("default"):
        check_type(default, dict | None, 'a configuration such as {"group_size": 64}, or null for dense')
        choice = None if default is None else read_choice(default, cursor)
    with cursor.at("output_head"):
        check_type(head, bool, "true or false")
    with cursor.at("rules"):
        check_type(listed, list | tuple, "a list of rules")
        rules = []
        for place, rule in enumerate(listed):
            with cursor.at(place):
                rules.append(read_rule(rule, cursor))
    return Recipe(choice, tuple(rules), head)


def _check_version(data: dict[str, Any], cursor: Cursor) -> None:
    version = data.get("format_version")
    if type(version) is int and version == FORMAT_VERSION:
        return
    mend = "save it again with this version of the workbench" if "format_version" in data else 'add "format_version": 1'
    with cursor.at("format_version"):
        raise ConfigError(f"Recipe of format_version {version!r}.", allowed=str(FORMAT_VERSION), mend=mend)
