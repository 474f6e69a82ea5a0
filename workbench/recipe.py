"""Which layers become int4, and how: a default configuration and ordered pattern → configuration rules.

A pattern is a glob over the whole layer name ("model.layers.*.mlp.*"), a regular expression ("re:.*q_proj"), or
plain dotted components found anywhere in the name ("q_proj", "layers.0"). The first rule that matches decides.
"""

from __future__ import annotations

import difflib
import fnmatch
import functools
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from workbench.config import Domain, Int4WeightOnlyConfig, ResolvedConfig, TensorCoreTiledLayout, ZeroPointDomain
from workbench.errors import ConfigError, PatternError
from workbench.options import SOLVERS, SolverName, SolverOptions, options_from_json, options_to_json
from workbench.records import write_json

FORMAT_VERSION = 1
_FIELDS = (
    "group_size",
    "use_hqq",
    "zero_point_domain",
    "preserve_zero",
    "inner_k_tiles",
    "set_inductor_config",
    "domain",
    "solver",
    "solver_options",
)


@dataclass(frozen=True)
class Choice:
    """How one layer is quantized: a configuration, and the solver, options and domain that it leaves open."""

    config: Int4WeightOnlyConfig = field(default_factory=Int4WeightOnlyConfig)
    solver: SolverName | None = None
    domain: Domain | None = None
    options: SolverOptions | None = None

    def __post_init__(self) -> None:
        self.resolved("cpu")

    def resolved(self, device: torch.device | str) -> ResolvedConfig:
        """Decide everything that the choice leaves open, for the device that will run the weights.

        Raises:
            ConfigError: when the settings contradict each other.
        """
        return self.config.resolved(device, solver=self.solver, domain=self.domain, options=self.options)

    def to_json(self) -> dict[str, Any]:
        """Return only what differs from the defaults, as JSON types."""
        config, default = self.config, Int4WeightOnlyConfig()
        given: dict[str, Any] = {
            "group_size": config.group_size,
            "use_hqq": config.use_hqq or None,
            "zero_point_domain": config.zero_point_domain.name,
            "preserve_zero": config.preserve_zero,
            "inner_k_tiles": config.layout.inner_k_tiles,
            "set_inductor_config": None if config.set_inductor_config else False,
            "domain": self.domain,
            "solver": self.solver,
            "solver_options": None if self.options is None else options_to_json(self.options),
        }
        usual = {"zero_point_domain": default.zero_point_domain.name, "inner_k_tiles": 8}
        return {key: value for key, value in given.items() if value is not None and usual.get(key) != value}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Choice:
        """Build from `to_json`'s dictionary.

        Raises:
            ConfigError: for an unknown setting or a value that cannot work.
        """
        unknown = sorted(set(data) - set(_FIELDS))
        if unknown:
            raise ConfigError(f"Unknown settings {unknown} in a recipe.", allowed=", ".join(_FIELDS))
        named = data.get("zero_point_domain", "NONE")
        if not isinstance(named, str) or named not in ZeroPointDomain.__members__:
            raise ConfigError(f"zero_point_domain={named!r} in a recipe.", allowed="FLOAT, INT or NONE")
        config = Int4WeightOnlyConfig(
            group_size=data.get("group_size", 128),
            layout=TensorCoreTiledLayout(data.get("inner_k_tiles", 8)),
            use_hqq=data.get("use_hqq", False),
            zero_point_domain=ZeroPointDomain[named],
            set_inductor_config=data.get("set_inductor_config", True),
            preserve_zero=data.get("preserve_zero"),
        )
        solver, options = data.get("solver"), None
        if data.get("solver_options") is not None:
            named_solver = solver or ("hqq" if config.use_hqq else "rtn")
            if named_solver not in SOLVERS:
                raise ConfigError(f"solver={named_solver!r} in a recipe.", allowed=", ".join(SOLVERS))
            options = options_from_json(named_solver, data["solver_options"])
        return cls(config, solver, data.get("domain"), options)


@dataclass(frozen=True)
class Rule:
    """A pattern and what it decides: a choice, or None for "leave it dense"."""

    pattern: str
    choice: Choice | None

    def __post_init__(self) -> None:
        _check_pattern(self.pattern)


@dataclass(frozen=True)
class Recipe:
    """Ordered rules over a default. The output head is left dense unless a rule names it or `output_head` is set.

    Attributes:
        default: For layers that no rule matches; None leaves them dense.
        rules: The first whose pattern matches a layer decides.
        output_head: Whether `default` applies to the output head too.
    """

    default: Choice | None = field(default_factory=Choice)
    rules: tuple[Rule, ...] = ()
    output_head: bool = False

    def decide(self, name: str) -> tuple[Choice | None, str]:
        """Return the choice for a layer and the reason, a rule's pattern or "default"."""
        for place in self.matching(name)[:1]:
            return self.rules[place].choice, f"pattern {self.rules[place].pattern!r}"
        return self.default, "default"

    def matching(self, name: str) -> list[int]:
        """Return the places in `rules` of those whose pattern matches a layer name, in order."""
        plain, other = self._by_kind
        found = [place for run in component_runs(name) for place in plain.get(run, ())] if plain else []
        return sorted(found + [place for place in other if matches(self.rules[place].pattern, name)])

    @functools.cached_property
    def _by_kind(self) -> tuple[dict[str, list[int]], list[int]]:
        """Places of the rules with dotted components, by pattern, and of all others: thousands of rules stay fast."""
        plain: dict[str, list[int]] = {}
        other: list[int] = []
        for place, rule in enumerate(self.rules):
            (plain.setdefault(rule.pattern, []) if is_plain(rule.pattern) else other).append(place)
        return plain, other

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
        for place, rule in enumerate(self.rules):
            if place not in found:
                raise PatternError(
                    f"The pattern {rule.pattern!r} matches none of the {len(names)} weights.",
                    allowed="a glob, 're:…', or dotted components of a name",
                    mend=f"did you mean {_nearest(rule.pattern, names)}?",
                )

    def to_json(self) -> dict[str, Any]:
        """Return the recipe as JSON types."""
        rules = [
            {"pattern": r.pattern, "dense": True} if r.choice is None else {"pattern": r.pattern, **r.choice.to_json()}
            for r in self.rules
        ]
        return {
            "format_version": FORMAT_VERSION,
            "default": None if self.default is None else self.default.to_json(),
            "rules": rules,
            "output_head": self.output_head,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Recipe:
        """Build from `to_json`'s dictionary.

        Raises:
            ConfigError: for an unknown version, key or setting.
        """
        if not isinstance(data, dict) or data.get("format_version") != FORMAT_VERSION:
            version = data.get("format_version") if isinstance(data, dict) else None
            raise ConfigError(f"Recipe of format_version {version!r}.", allowed=str(FORMAT_VERSION))
        unknown = sorted(set(data) - {"format_version", "default", "rules", "output_head"})
        if unknown:
            raise ConfigError(f"Unknown keys {unknown} in a recipe.", allowed="default, rules, output_head")
        default, listed = data.get("default", {}), data.get("rules", [])
        if not isinstance(default, dict | None) or not isinstance(listed, list | tuple):
            raise ConfigError(
                "A recipe's default or rules are of the wrong type.",
                allowed="default: an object or null; rules: a list",
            )
        rules = tuple(_rule_from_json(rule) for rule in listed)
        return cls(
            None if default is None else Choice.from_json(default),
            rules,
            bool(data.get("output_head", False)),
        )

    def save(self, path: Path | str) -> None:
        """Write the recipe as a small JSON file."""
        write_json(path, self.to_json())

    @classmethod
    def load(cls, path: Path | str) -> Recipe:
        """Read a recipe file.

        Raises:
            ConfigError: when it cannot be read, is not JSON, or holds what no recipe can.
        """
        try:
            return cls.from_json(json.loads(Path(path).read_text(encoding="utf-8")))
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"The recipe {str(path)!r} cannot be read: {error}.") from None
        except json.JSONDecodeError as error:
            raise ConfigError(f"The recipe {str(path)!r} is not JSON: line {error.lineno}: {error.msg}.") from None


def as_recipe(
    recipe: Recipe | Int4WeightOnlyConfig | None,
    *,
    include: str | Iterable[str] | None = None,
    exclude: str | Iterable[str] | None = None,
    solver: SolverName | None = None,
    domain: Domain | None = None,
    options: SolverOptions | None = None,
) -> Recipe:
    """Make a recipe of a configuration and include/exclude patterns (exclude decides first).

    Raises:
        ConfigError: when a recipe is given together with settings that it already holds.
    """
    included, excluded = _patterns(include), _patterns(exclude)
    if isinstance(recipe, Recipe):
        if solver is not None or domain is not None or options is not None or included or excluded:
            raise ConfigError(
                "A Recipe holds its own patterns, solver, options and domain.",
                mend="put them into the recipe, or pass an Int4WeightOnlyConfig instead",
            )
        return recipe
    if recipe is not None and not isinstance(recipe, Int4WeightOnlyConfig):
        raise ConfigError(
            f"{recipe!r} is neither a configuration nor a recipe.", allowed="Int4WeightOnlyConfig or Recipe"
        )
    choice = Choice(recipe or Int4WeightOnlyConfig(), solver, domain, options)
    rules = [Rule(pattern, None) for pattern in excluded] + [Rule(pattern, choice) for pattern in included]
    return Recipe(None if included else choice, tuple(rules))


def matches(pattern: str, name: str) -> bool:
    """Say whether a pattern matches a layer name (see the module's first lines).

    Raises:
        PatternError: for a malformed regular expression or an empty pattern.
    """
    _check_pattern(pattern)
    if is_plain(pattern):
        return f".{pattern}." in f".{name}."
    return _compile(pattern).fullmatch(name) is not None


@functools.lru_cache(maxsize=1 << 15)
def component_runs(name: str) -> tuple[str, ...]:
    """Return every run of whole components of a dotted name, which are the plain patterns that match it."""
    starts = [0, *(place + 1 for place, char in enumerate(name) if char == ".")]
    ends = [*(start - 1 for start in starts[1:]), len(name)]
    return tuple(name[start:end] for place, start in enumerate(starts) for end in ends[place:])


def is_plain(pattern: str) -> bool:
    """Say whether a pattern is plain dotted components, no glob and no regular expression."""
    return bool(pattern.strip()) and not pattern.startswith("re:") and not any(char in pattern for char in "*?[")


def _check_pattern(pattern: str) -> None:
    if not isinstance(pattern, str) or not pattern.strip():
        raise PatternError(f"Empty pattern {pattern!r}.", allowed="a glob, 're:…', or dotted components of a name")
    if pattern.startswith("re:"):
        _compile(pattern)


@functools.lru_cache(maxsize=4096)
def _compile(pattern: str) -> re.Pattern[str]:
    """Compile a regular expression or a glob."""
    if not pattern.startswith("re:"):
        return re.compile(fnmatch.translate(pattern))
    try:
        return re.compile(pattern[3:])
    except re.error as error:
        raise PatternError(f"The pattern {pattern!r} is not a regular expression: {error}.") from None


def _patterns(given: str | Iterable[str] | None) -> list[str]:
    return [given] if isinstance(given, str) else list(given or ())


def _nearest(pattern: str, names: Sequence[str]) -> str:
    parts = sorted({part for name in names for part in name.split(".") if not part.isdigit()})
    last = pattern.removeprefix("re:").strip("*.").rsplit(".", 1)[-1]
    close = difflib.get_close_matches(last, parts, n=3, cutoff=0.5) or difflib.get_close_matches(
        pattern, names, n=3, cutoff=0.0
    )
    return " or ".join(repr(name) for name in close) or "another pattern"


def _rule_from_json(data: Any) -> Rule:
    if not isinstance(data, dict) or "pattern" not in data:
        raise ConfigError(
            f"The rule {data!r} has no pattern.",
            allowed='{"pattern": "…", "group_size": 64} or {"pattern": "…", "dense": true}',
        )
    settings = {key: value for key, value in data.items() if key != "pattern"}
    if settings.pop("dense", False):
        if settings:
            raise ConfigError(
                f"The rule for {data['pattern']!r} is dense and has settings {sorted(settings)}.",
                mend="drop one of the two",
            )
        return Rule(data["pattern"], None)
    return Rule(data["pattern"], Choice.from_json(settings))
