"""One option for each item, the least error within a number of bytes: the multiple-choice knapsack problem."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from workbench.errors import ConfigError

_MOST_STATES = 1 << 14


def best_within(
    sizes: Sequence[Sequence[int]], errors: Sequence[Sequence[float]], budget_bytes: int, *, states: int = _MOST_STATES
) -> list[int]:
    """Return the place of the option that each item takes, so that the sum of the errors is least within the bytes.

    Items are added one by one; of the sums so far, those are kept that no other beats in bytes and error alike. With at
    most `states` of them the answer is exact; of more, the best in each even part of the range of bytes is kept.

    Args:
        sizes: Bytes of each option of each item.
        errors: Error of each option of each item; errors add up.
        budget_bytes: Most bytes of all items together.
        states: Most sums that are kept.

    Raises:
        ConfigError: when an item has no option, or not even the smallest options fit.
    """
    least = [min(one, default=0) for one in sizes]
    if not all(sizes) or sum(least) > budget_bytes:
        raise ConfigError(
            f"The smallest options take {sum(least):,} bytes.", allowed=f"at most {budget_bytes:,}, and an option each"
        )
    held_bytes, held_errors = torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.float64)
    steps: list[tuple[Tensor, Tensor]] = []  # of each kept sum: the sum before it, and the option
    left = sum(least)
    for size, error, smallest in zip(sizes, errors, least, strict=True):
        left -= smallest
        of_bytes, of_errors = torch.tensor(size, dtype=torch.int64), torch.tensor(error, dtype=torch.float64)
        options = _unbeaten(of_bytes, of_errors, budget_bytes)
        all_bytes = (held_bytes[:, None] + of_bytes[options]).flatten()
        all_errors = (held_errors[:, None] + of_errors[options]).flatten()
        kept = _thinned(_unbeaten(all_bytes, all_errors, budget_bytes - left), all_bytes, states)
        held_bytes, held_errors = all_bytes[kept], all_errors[kept]
        steps.append((kept // len(options), options[kept % len(options)]))
    return _backwards(steps, int(held_errors.argmin()))


def _unbeaten(sizes: Tensor, errors: Tensor, budget: int) -> Tensor:
    """Return the places of sums within the budget that none beats: bytes rise, errors fall; of equal ones the first."""
    order = torch.argsort(errors, stable=True)
    order = order[torch.argsort(sizes[order], stable=True)]
    order = order[sizes[order] <= budget]
    best = errors[order].cummin(0).values
    before = torch.cat([torch.full((1,), torch.inf, dtype=torch.float64), best[:-1]])
    first = torch.arange(len(order)) == 0  # infinite errors beat nothing, and something has to be kept
    return order[(errors[order] < before) | first]


def _thinned(places: Tensor, sizes: Tensor, states: int) -> Tensor:
    """Keep the last, and so the best, of each even part of the range of bytes."""
    if len(places) <= states:
        return places
    held = sizes[places].double()
    part = ((held - held[0]) * (states / (held[-1] - held[0] + 1))).long()
    return places[torch.cat([part[1:] != part[:-1], torch.ones(1, dtype=torch.bool)])]


def _backwards(steps: Sequence[tuple[Tensor, Tensor]], place: int) -> list[int]:
    """Follow a sum from the last item to the first."""
    chosen = []
    for before, option in reversed(steps):
        chosen.append(int(option[place]))
        place = int(before[place])
    return chosen[::-1]
