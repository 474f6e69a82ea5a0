"""The README's table of export targets, and that each of its cells keeps its word."""

from __future__ import annotations

import pytest

from scripts.target_table import END, START, table
from tests.readme_table import shown
from tests.targets.cells import GROUPS, cell
from tests.tiny_models import hushed
from workbench.config import DOMAINS
from workbench.targets import TARGETS
from workbench.targets.target import STATES


@pytest.mark.parametrize("group_size", GROUPS)
@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("target", list(TARGETS))
def test_what_is_written_is_what_was_said(target, domain, group_size):
    with hushed():
        found = cell(target, domain, group_size)
    assert found.state in STATES
    if found.state == "rounded":
        assert found.why and 0 <= found.max_error < 2**-7  # bfloat16 keeps 8 bits of what is rounded
    else:
        assert found.max_error == 0


def test_the_readme_has_the_table():
    with hushed():
        wanted = table()
    assert shown(START, END) == wanted
