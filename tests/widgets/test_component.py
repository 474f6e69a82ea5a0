"""What every component shares: traits set on two threads reach the page, the newest value last."""

from __future__ import annotations

import sys
import threading
from typing import Any

import ipywidgets
import pytest

from workbench.widgets.facts import Fact, Facts


def test_no_older_value_is_sent_after_a_newer_one(monkeypatch: pytest.MonkeyPatch) -> None:
    facts, sent = Facts(), []
    other = threading.Thread(target=lambda: setattr(facts, "verdict", "newer"))

    def record(_self: ipywidgets.Widget, message: dict[str, Any], buffers: Any = None) -> None:
        if not sent and not other.ident:
            other.start()
            other.join(0.2)  # all the time to be sent before what was read already
        sent.append(message["state"]["verdict"])

    monkeypatch.setattr(ipywidgets.Widget, "_send", record)
    facts.verdict = "older"
    other.join(10)
    assert facts.verdict == sent[-1] == "newer"


def test_what_two_threads_set_together_is_all_sent(wire: Any) -> None:
    facts, faults = Facts(), []

    def show(name: str) -> None:
        for number in range(300):
            try:
                facts.show([Fact(name, str(number))], verdict=f"{name} {number}", notes=[name])
            except RuntimeError as error:
                faults.append(error)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        threads = [threading.Thread(target=show, args=(name,)) for name in "ab"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    page: dict[str, Any] = {}
    for state in wire.states:
        page |= state
    assert faults == [] and page == facts.get_state(list(page))
    facts.busy = True
    assert wire.states[-1] == {"busy": True}, "nothing is held back any more"
