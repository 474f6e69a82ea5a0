"""Sampled rows."""

from __future__ import annotations

import itertools

import pytest

from workbench.measure.sampling import sampled_rows


@pytest.mark.parametrize(("n", "limit"), [(1, 256), (256, 256), (257, 256), (1000, 7), (100_000, 256)])
def test_sampled_rows_are_even_and_distinct(n, limit):
    rows = sampled_rows(n, limit).tolist()
    assert len(rows) == min(n, limit) and rows == sorted(set(rows))
    assert rows[0] == 0 and rows[-1] == n - 1
    gaps = [b - a for a, b in itertools.pairwise(rows)]
    assert not gaps or max(gaps) - min(gaps) <= 1
