"""Quiet: and everything as it was afterwards."""

from __future__ import annotations

import pytest
import transformers

from workbench.hf.quiet import quiet


def test_quiet_puts_everything_back():
    log = transformers.utils.logging
    log.enable_progress_bar()
    before = log.get_verbosity()
    with pytest.raises(ZeroDivisionError), quiet():
        assert not log.is_progress_bar_enabled()
        raise ZeroDivisionError
    assert log.is_progress_bar_enabled() and log.get_verbosity() == before
