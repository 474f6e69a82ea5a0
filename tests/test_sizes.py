"""Numbers of bytes as a person would write them."""

from __future__ import annotations

import pytest

from workbench.sizes import size


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (1000, "1.00 kB"), (12_345_678, "12.35 MB"), (5e12, "5000.00 GB")]
)
def test_sizes_are_written_as_a_person_would(count, text):
    assert size(count) == text
