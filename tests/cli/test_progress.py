"""A Ctrl-C in long work: seen between blocks, and at once the second time."""

from __future__ import annotations

import signal
from concurrent.futures import ThreadPoolExecutor

import pytest

from workbench.cli.progress import stopping


def test_a_ctrl_c_is_seen_between_blocks_and_the_second_one_at_once():
    before = signal.getsignal(signal.SIGINT)
    with stopping() as cancel:
        assert not cancel.is_set()
        signal.raise_signal(signal.SIGINT)
        assert cancel.is_set()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_work_on_another_thread_is_given_an_event_that_nobody_sets():
    with ThreadPoolExecutor(1) as pool:

        def work():
            with stopping() as cancel:
                return cancel.is_set()

        assert pool.submit(work).result() is False
