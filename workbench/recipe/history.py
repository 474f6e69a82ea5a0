"""The recipes that a person chose, one after the other, and what each change was, in a line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from workbench.config import Int4WeightOnlyConfig
from workbench.options import options_to_json
from workbench.recipe.recipe import Choice, Recipe, Rule

_MOST_NAMED = 3
_USUAL = ("domain", "0 kept exact", "inner k tiles", "inductor settings")


@dataclass(frozen=True)
class Step:
    """One recipe of the history.

    Attributes:
        place: Its place, 0 for the first.
        text: What changed with it.
        now: Whether it is the one that holds.
    """

    place: int
    text: str
    now: bool


class RecipeHistory:
    """Recipes in the order in which they were chosen; a new one drops those that were undone.

    Args:
        first: The recipe at the start.

    Attributes:
        recipes: All of them, oldest first.
        place: Place of the one that holds now.
    """

    def __init__(self, first: Recipe) -> None:
        self.recipes: tuple[Recipe, ...] = (first,)
        self.place = 0

    @property
    def before(self) -> Recipe | None:
        """The recipe before the one that holds now, or None."""
        return self.recipes[self.place - 1] if self.place else None

    @property
    def can_undo(self) -> bool:
        """Whether there is a recipe to go back to."""
        return self.place > 0

    @property
    def can_redo(self) -> bool:
        """Whether there is an undo to take back."""
        return self.place + 1 < len(self.recipes)

    def add(self, recipe: Recipe) -> None:
        """Put a recipe after the one that holds now; it holds then."""
        self.recipes = (*self.recipes[: self.place + 1], recipe)
        self.place += 1

    def steps(self, most: int | None = None) -> list[Step]:
        """Return a line for each recipe, newest first; at most so many, around the one that holds now."""
        stop = len(self.recipes)
        if most is not None:
            stop = min(stop, max(most, self.place + most // 2 + 1))
        start = 0 if most is None else max(0, stop - most)
        return [self._step(place) for place in reversed(range(start, stop))]

    def _step(self, place: int) -> Step:
        text = change_said(self.recipes[place - 1], self.recipes[place]) if place else "the recipe at the start"
        return Step(place, text, place == self.place)


def settings_of(choice: Choice) -> dict[str, str]:
    """Return every setting of a choice in words, those of its solver included; "auto" where it is left open."""
    config, resolved = choice.config, choice.resolved("cpu")
    domain = config.zero_point_domain.name.lower()
    kept = {None: "auto", True: "yes", False: "no"}[config.preserve_zero]
    settings = {
        "group size": str(config.group_size),
        "solver": resolved.solver,
        "domain": choice.domain or ("auto" if domain == "none" else domain),
        "0 kept exact": kept,
        "inner k tiles": str(config.layout.inner_k_tiles),
        "inductor settings": "set" if config.set_inductor_config else "left as they are",
    }
    if choice.options is not None:
        settings |= {name.replace("_", " "): str(value) for name, value in options_to_json(choice.options).items()}
    return settings


def choice_said(choice: Choice | None) -> str:
    """Say a choice: "dense", or "int4, group size 64, refined" and what else differs from the defaults."""
    if choice is None:
        return "dense"
    settings, usual = settings_of(choice), settings_of(Choice(Int4WeightOnlyConfig()))
    size, solver = settings.pop("group size"), settings.pop("solver")
    changed = [f"{name} {value}" for name, value in settings.items() if name not in _USUAL or value != usual[name]]
    return ", ".join(["int4", f"group size {size}", solver, *changed])


def recipe_said(recipe: Recipe) -> str:
    """Say a recipe in a few words: "2 rules over int4, group size 64, refined"."""
    count = len(recipe.rules)
    rules = f"{count} rule{'s' * (count != 1)} over " if count else ""
    head = "; the output head too" if recipe.output_head else ""
    return f"{rules}{choice_said(recipe.default)}{head}"


def change_said(before: Recipe, after: Recipe) -> str:
    """Say in a line what a change of the recipe did."""
    parts = _default_changes(before, after) + _rule_changes(before.rules, after.rules)
    if len(parts) > _MOST_NAMED:
        parts = [*parts[:_MOST_NAMED], f"and {len(parts) - _MOST_NAMED} more changes"]
    return "; ".join(parts) or "no change"


def _default_changes(before: Recipe, after: Recipe) -> list[str]:
    parts = []
    if before.default != after.default:
        parts.append(f"default: {_choice_change(before.default, after.default)}")
    if before.output_head != after.output_head:
        parts.append(f"output head: {'as the default' if after.output_head else 'left dense'}")
    return parts


def _rule_changes(before: Sequence[Rule], after: Sequence[Rule]) -> list[str]:
    old, new = ({rule.pattern: rule.choice for rule in rules} for rules in (before, after))
    lost, came = ([p for p in one if p not in other] for one, other in ((old, new), (new, old)))
    if len(lost) == len(came) == 1 and old[lost[0]] == new[came[0]]:
        parts = [f"{lost[0]} became {came[0]}"]
    else:
        parts = [f"{pattern}: {choice_said(new[pattern])}" for pattern in came]
        parts += [f"{pattern}: rule removed" for pattern in lost]
    both = [pattern for pattern in old if pattern in new]
    parts += [f"{p}: {_choice_change(old[p], new[p])}" for p in both if old[p] != new[p]]
    if not parts and list(before) != list(after):
        parts.append(_order_change([rule.pattern for rule in before], [rule.pattern for rule in after]))
    return parts


def _order_change(before: list[str], after: list[str]) -> str:
    if len(before) != len(after):
        return "rules that decide nothing removed" if len(after) < len(before) else "a rule repeated"
    moved = [place for place, pattern in enumerate(after) if before[place] != pattern]
    return f"{after[moved[0]]} moved up" if len(moved) == 2 else "rules in another order"


def _choice_change(before: Choice | None, after: Choice | None) -> str:
    if before is None or after is None:
        return f"{choice_said(before)} → {choice_said(after)}"
    old, new = settings_of(before), settings_of(after)
    names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    said = [f"{name} {old.get(name, 'at its default')} → {new.get(name, 'at its default')}" for name in names]
    return ", ".join(said) or "written in another way"


__all__ = ["RecipeHistory", "Step", "change_said", "choice_said", "recipe_said", "settings_of"]
