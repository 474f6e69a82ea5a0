"""Layers that change together, what each may become, and the choice with the least error within the bytes of now."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from workbench.coverage.rows import planned_bytes
from workbench.improve.allocation import best_within
from workbench.improve.trials import Candidate
from workbench.recipe.recipe import Recipe
from workbench.records.layers import LayerRecord

_INDEX = re.compile(r"(?<![^.])\d+(?![^.])")


@dataclass(eq=False)
class Unit:
    """Layers of one shape and one choice.

    Attributes:
        records: The layers.
        options: What they may become; the first is what they are.
        errors: Relative squared error of each layer under each option: [option][layer].
        exact: Whether the errors of an option were measured on all rows.
        sizes: Bytes of all layers together under each option.
    """

    records: list[LayerRecord]
    options: list[Candidate]
    errors: list[list[float]] = field(default_factory=list)
    exact: list[bool] = field(default_factory=list)
    sizes: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self.options = [one for place, one in enumerate(self.options) if place == 0 or self._stays_int4(one)]
        self.sizes = [sum(planned_bytes(record, one.config) for record in self.records) for one in self.options]
        self.errors = [[] for _ in self.options]
        self.exact = [True for _ in self.options]

    def _stays_int4(self, option: Candidate) -> bool:
        return all(planned_bytes(one, option.config) < one.dense_bytes for one in self.records if one.tied_to is None)

    def error(self, place: int) -> float:
        """Return the sum of the errors of all layers under an option."""
        return sum(self.errors[place])


def together(records: Sequence[LayerRecord], recipe: Recipe, one_by_one: int) -> list[list[LayerRecord]]:
    """Return the layers that change together: each for itself, or of many those that differ by an index alone."""
    if len(records) <= one_by_one:
        return [[record] for record in records]
    found: dict[object, list[LayerRecord]] = {}
    for record in records:
        template = _INDEX.sub("*", record.name)
        found.setdefault((template, record.shape, record.tied_to, recipe.decide(record.name)[0]), []).append(record)
    return list(found.values())


def total_error(units: Sequence[Unit], chosen: Sequence[int]) -> float:
    """Return the sum of the errors of a choice."""
    return sum(unit.error(place) for unit, place in zip(units, chosen, strict=True))


def choose(units: Sequence[Unit], *, plain: float = 0.0, only_exact: bool = False) -> list[int]:
    """Return the option of each unit, the least error in no more bytes than now.

    Plainer are, first, what is there now or one solver and zero point in all layers while group sizes stay, then, with
    other group sizes: the first whose error is hardly above the least is taken.

    Args:
        units: All of them.
        plain: How much above the least error that may be, as a share of it.
        only_exact: Whether only options that were measured on all rows count.
    """
    best = _within(units, only_exact, lambda unit, option: True)
    manners = dict.fromkeys(option.manner for unit in units for option in unit.options)
    for sizes_stay in (True, False):
        found = [_within(units, only_exact, partial(_is_plain, manner, sizes_stay)) for manner in manners]
        plainest = min([[0] * len(units), *filter(None, found)], key=lambda one: total_error(units, one))
        if total_error(units, plainest) <= (1 + plain) * total_error(units, best):
            return plainest
    return best


def _is_plain(manner: tuple[str, str, bool], size_stays: bool, unit: Unit, option: Candidate) -> bool:
    return option.manner == manner and (not size_stays or option.config.group_size == unit.options[0].config.group_size)


def _within(units: Sequence[Unit], only_exact: bool, counts: Callable[[Unit, Candidate], bool]) -> list[int]:
    """Return the best choice among the options that count; [] when they do not fit."""
    places = [
        [at for at, option in enumerate(unit.options) if (unit.exact[at] or not only_exact) and counts(unit, option)]
        for unit in units
    ]
    sizes = [[unit.sizes[at] for at in held] for unit, held in zip(units, places, strict=True)]
    budget = sum(unit.sizes[0] for unit in units)
    if not all(sizes) or sum(map(min, sizes)) > budget:
        return []
    errors = [[unit.error(at) for at in held] for unit, held in zip(units, places, strict=True)]
    return [held[at] for held, at in zip(places, best_within(sizes, errors, budget), strict=True)]


__all__ = ["Unit", "choose", "together", "total_error"]
