"""The recipe that holds, taken as a whole, and the way back to those before it and forth again."""

from __future__ import annotations

from collections.abc import Callable

from workbench.coverage.coverage import Coverage
from workbench.errors import ConfigError
from workbench.recipe.history import RecipeHistory
from workbench.recipe.recipe import Recipe


class SessionHistory:
    """Takes recipes; each is held against the model first, so that one that fails changes nothing.

    Args:
        recipes: The recipes so far.
        preflight: Says what becomes of every weight under a recipe, or refuses it.
        take: Puts a recipe and its coverage in force, if the step of the history that it is given, called while nothing
            else changes, says that it still can be done; says whether it did.
    """

    def __init__(
        self,
        recipes: RecipeHistory,
        preflight: Callable[[Recipe], Coverage],
        take: Callable[[Recipe, Coverage, Callable[[], bool]], bool],
    ) -> None:
        self._recipes, self._preflight, self._take = recipes, preflight, take

    def add(self, recipe: Recipe, *, after: Recipe | None = None) -> bool:
        """Take a recipe after the one that holds; where that has to be `after` and is not, change nothing: False.

        Raises:
            PatternError: for a pattern that matches nothing; the recipe stays as it was.
        """

        def step() -> bool:
            if after is not None and self._recipes.recipes[self._recipes.place] != after:
                return False
            self._recipes.add(recipe)
            return True

        return self._take(recipe, self._preflight(recipe), step)

    def undo(self) -> bool:
        """Go back to the recipe before the last change; False when there is none."""
        return self._recipes.can_undo and self.go_to(self._recipes.place - 1)

    def redo(self) -> bool:
        """Take back the last undo; False when there is none."""
        return self._recipes.can_redo and self.go_to(self._recipes.place + 1)

    def go_to(self, place: int) -> bool:
        """Take the recipe at a place of the history, 0 for the first; False when it holds already.

        Raises:
            ConfigError: when there is no such place.
        """
        count = len(self._recipes.recipes)
        if not 0 <= place < count:
            raise ConfigError(f"There is no recipe {place} in the history.", allowed=f"0 to {count - 1}")
        if place == self._recipes.place:
            return False
        recipe = self._recipes.recipes[place]

        def step() -> bool:
            if self._recipes.recipes[place : place + 1] != (recipe,):
                return False
            self._recipes.place = place
            return True

        return self._take(recipe, self._preflight(recipe), step)
