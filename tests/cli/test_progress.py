"""A Ctrl-C in long work: seen between blocks, and at once the second time."""

from __future__ import annotations

import signal
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from workbench.cli.progress import ProgressLine, stopping
from workbench.records.progress import Progress


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


def test_a_line_on_a_terminal_is_written_over_without_a_rest_and_never_wraps(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "30")
    with ProgressLine() as shown:
        for done, label in enumerate(("a" * 50, "b")):
            shown.show(Progress(done=done, total=2, label=label, elapsed_s=0.0, remaining_s=None))
    first, second = capsys.readouterr().err.removesuffix("\n").split("\r")[1:]
    assert len(first) == len(second) == 29 and second.rstrip() == " 50%  b  0.0 s"
