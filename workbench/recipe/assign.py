"""A recipe that gives each of many layers its own choice, in as few rules as will do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

from workbench.recipe.edit import LayerNames, with_choice
from workbench.recipe.recipe import Choice, Recipe


def with_choices(
    recipe: Recipe, layers: LayerNames, wanted: Mapping[str, Choice], *, keep_default: bool = False
) -> Recipe:
    """Return a recipe that decides `wanted` for these layers; what most of them want becomes the default.

    Args:
        recipe: What is changed.
        layers: The names of the model's linear layers.
        wanted: Layer name → its choice.
        keep_default: Whether the default stays as it is: layers that are not in `wanted` are then decided as before.
    """
    free = Counter(choice for name, choice in wanted.items() if recipe.decide(name)[1] == "default")
    edited = recipe
    if free and recipe.default is not None and not keep_default:
        edited = replace(recipe, default=free.most_common(1)[0][0])
    by_choice: dict[Choice, list[str]] = {}
    for name, choice in wanted.items():
        if edited.decide(name)[0] != choice:
            by_choice.setdefault(choice, []).append(name)
    for choice, names in by_choice.items():
        edited = with_choice(edited, layers, names, choice)
    return edited
