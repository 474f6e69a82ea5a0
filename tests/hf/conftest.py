"""What all tests of models from transformers want: its progress bars and warnings off."""

from __future__ import annotations

import pytest

from tests.tiny_models import hushed


@pytest.fixture(autouse=True)
def _hushed():
    with hushed():
        yield
