"""Recipes as a person changes them: some settings of some layers, held in as few and as plain rules as will do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from workbench.config import DOMAINS, Domain, Int4WeightOnlyConfig, TensorCoreTiledLayout, ZeroPointDomain
from workbench.errors import ConfigError
from workbench.options import OPTIONS_OF, SolverName, SolverOptions, resolve_options
from workbench.recipe.patterns import component_runs, is_plain
from workbench.recipe.recipe import Choice, Recipe, Rule

Change = Callable[[Choice], Choice]


def changed_choice(
    choice: Choice,
    group_size: int | None = None,
    domain: str | None = None,
    solver: SolverName | None = None,
    preserve_zero: bool | Literal["auto"] | None = None,
    inner_k_tiles: int | None = None,
    options: Mapping[str, Any] | None = None,
    options_of: SolverName | None = None,
) -> Choice:
    """Return a choice with the given settings changed; None keeps a setting.

    Args:
        choice: What is changed.
        group_size: 256, 128, 64 or 32.
        domain: "auto", "float", "int" or "symmetric".
        solver: Another solver drops the options of the one before.
        preserve_zero: True, False, or "auto" (the domain's own default).
        inner_k_tiles: 2, 4 or 8.
        options: Settings of the solver by name; those not named stay.
        options_of: The solver that `options` are meant for: a choice of another solver keeps its own. None means any.

    Raises:
        ConfigError: for settings that cannot work together, or unknown ones.
    """
    config = choice.config
    zero_point_domain, beside = _changed_domain(choice, domain)
    before = choice.resolved("cpu").solver
    use_hqq, named, kept = config.use_hqq, choice.solver, choice.options
    if solver is not None:
        use_hqq, named = solver == "hqq", None if solver in ("rtn", "hqq") else solver
        kept = kept if solver == before else None
    final = solver or before
    if options is not None and options_of in (None, final):
        kept = changed_options(final, kept, options)
    config = Int4WeightOnlyConfig(
        group_size=config.group_size if group_size is None else group_size,
        layout=config.layout if inner_k_tiles is None else TensorCoreTiledLayout(inner_k_tiles),
        use_hqq=use_hqq,
        zero_point_domain=zero_point_domain,
        set_inductor_config=config.set_inductor_config,
        preserve_zero={None: config.preserve_zero, "auto": None}.get(preserve_zero, preserve_zero),  # type: ignore[arg-type]
    )
    return Choice(config, named, beside, kept)


def changed_options(
    solver: SolverName, options: SolverOptions | None, changes: Mapping[str, Any]
) -> SolverOptions | None:
    """Return the options of a solver with some changed; None where all of them are its defaults.

    Raises:
        ConfigError: for an unknown option, a value out of range or of the wrong type.
    """
    kind = OPTIONS_OF.get(solver)
    known = [] if kind is None else list(vars(kind()))
    unknown = [name for name in changes if name not in known]
    if kind is None or unknown:
        raise ConfigError(f"{solver} has no option {', '.join(unknown)}.", allowed=", ".join(known) or "none at all")
    changed = kind(**vars(resolve_options(solver, options)) | dict(changes))
    return None if changed == kind() else changed


def _changed_domain(choice: Choice, domain: str | None) -> tuple[ZeroPointDomain, Domain | None]:
    """Return the configuration's domain and the one beside it."""
    if domain is None:
        return choice.config.zero_point_domain, choice.domain
    if domain not in ("auto", *DOMAINS):
        raise ConfigError(f"domain={domain!r}.", allowed="'auto', 'float', 'int' or 'symmetric'")
    named = {"float": ZeroPointDomain.FLOAT, "int": ZeroPointDomain.INT}
    return named.get(domain, ZeroPointDomain.NONE), "symmetric" if domain == "symmetric" else None


class LayerNames:
    """The names of a model's linear layers, and the patterns that find some of them and no other.

    Args:
        names: Every name, in the order of the model.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self._total = Counter(run for name in self.names for run in component_runs(name))

    def patterns(self, wanted: Collection[str]) -> list[str]:
        """Return few patterns that match the wanted names and no other: "q_proj" for all of that name, say."""
        kept = set(wanted)
        names = [name for name in self.names if name in kept]
        caught: dict[str, list[str]] = {}
        for name in names:
            for run in component_runs(name):
                caught.setdefault(run, []).append(name)
        common = [run for run, of in caught.items() if 1 < len(of) == self._total[run] and _reads_well(run)]
        common.sort(key=lambda run: (-len(caught[run]), run.count("."), run))
        found: list[str] = []
        for run in common:
            new = kept.intersection(caught[run])
            if len(new) > 1:
                found.append(run)
                kept -= new
        return found + [self._exact(name) for name in names if name in kept]

    def _exact(self, name: str) -> str:
        """Return a pattern that matches a name and no other: the name itself wherever that suffices."""
        if self._total[name] == 1 and is_plain(name):
            return name
        return "re:" + "".join(f"\\{char}" if not (char.isalnum() or char == "_") else char for char in name)


def _reads_well(run: str) -> bool:
    """A run that begins with a number says too little: "0.mlp" for "layers.0.mlp"."""
    return is_plain(run) and not run[0].isdigit()


def with_choice(recipe: Recipe, layers: LayerNames, wanted: Collection[str], choice: Choice | None) -> Recipe:
    """Return a recipe that decides `choice` (None: dense) for the wanted layers and is as before for all others.

    Args:
        recipe: What is changed.
        layers: Names of all layers, which the patterns have to tell apart.
        wanted: Names of the layers that are to change.
        choice: How they are quantized; None leaves them dense.
    """
    patterns = layers.patterns(wanted)
    kept = [rule for rule in recipe.rules if rule.pattern not in set(patterns)]
    edited = replace(recipe, rules=(*(Rule(pattern, choice) for pattern in patterns), *kept))
    return _without_overruled(recipe, edited, layers)


def with_change(recipe: Recipe, layers: LayerNames, wanted: Collection[str], change: Change) -> Recipe:
    """Return a recipe where `change` is made to the settings of each wanted layer; all else stays as it was.

    Args:
        recipe: What is changed.
        layers: Names of all layers, which the patterns have to tell apart.
        wanted: Names of the layers that are to change.
        change: Returns the settings of a layer for those before; a dense layer begins with the default's.

    Raises:
        ConfigError: when the change cannot work with the settings of one of the layers, saying which.
    """
    by_choice: dict[Choice | None, list[str]] = {}
    for place, names in _by_rule(recipe, wanted).items():
        choice = recipe.default if place is None else recipe.rules[place].choice
        by_choice.setdefault(choice, []).extend(names)
    edited = recipe
    for choice, names in by_choice.items():
        edited = with_choice(edited, layers, names, _changed(choice or recipe.default or Choice(), change, names))
    return edited


def with_change_everywhere(recipe: Recipe, change: Change) -> Recipe:
    """Return a recipe where `change` is made to the default and to every rule that is not dense.

    Raises:
        ConfigError: when the change cannot work with the settings of one of them, saying which.
    """
    default = None if recipe.default is None else _changed(recipe.default, change, ())
    rules = tuple(
        rule if rule.choice is None else Rule(rule.pattern, _changed(rule.choice, change, (rule.pattern,)))
        for rule in recipe.rules
    )
    return replace(recipe, default=default, rules=rules)


def _changed(choice: Choice, change: Change, names: Sequence[str]) -> Choice:
    try:
        return change(choice)
    except ConfigError as error:
        where = "" if not names else f"{names[0]}: " if len(names) == 1 else f"{names[0]} and {len(names) - 1} more: "
        raise ConfigError(where + error.what, allowed=error.allowed, mend=error.mend) from None


def _by_rule(recipe: Recipe, names: Collection[str]) -> dict[int | None, list[str]]:
    """Group names by the place of the rule that decides them, None for the default."""
    found: dict[int | None, list[str]] = {}
    for name in names:
        found.setdefault(next(iter(recipe.matching(name)), None), []).append(name)
    return found


def _without_overruled(before: Recipe, after: Recipe, layers: LayerNames) -> Recipe:
    """Drop the rules that decided a layer before the change and decide none after it."""
    deciding = [before.rules[place] for place in _by_rule(before, layers.names) if place is not None]
    still = {place for place in _by_rule(after, layers.names) if place is not None}
    useless = {id(rule) for rule in deciding}
    rules = tuple(rule for place, rule in enumerate(after.rules) if place in still or id(rule) not in useless)
    return replace(after, rules=rules)
