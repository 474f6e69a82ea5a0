"""Many moves of the slider in a real JupyterLab: memory, channels and bytes over the wire stay bounded."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest
from notebook_page import NotebookPage
from playwright.sync_api import expect
from shared_lab import SharedLab

COUNT = """
import gc, json, resource
from comm import get_comm_manager
from workbench.widgets.component import Component
sent = [0]
original = Component._send
def counted(self, msg, buffers=None):
    sent[0] += len(json.dumps(msg, default=str)) + sum(memoryview(part).nbytes for part in buffers or ())
    return original(self, msg, buffers=buffers)
Component._send = counted
def state():
    app.wait(); gc.collect()
    with open("/proc/self/statm") as file:
        held = int(file.read().split()[1]) * resource.getpagesize()
    return {"held": held, "comms": len(get_comm_manager().comms), "sent": sent[0]}
"""
STATE = "print(json.dumps(state()))"
MOVES = """async (count) => {
    const slider = document.querySelector("[data-field=group_size] input");
    for (let number = 0; number < count; number++) {
        slider.value = number % 4;
        slider.dispatchEvent(new Event("input", {bubbles: true}));
        await new Promise((resolve) => setTimeout(resolve, 60));
    }
}"""


@pytest.fixture
def notebook(shared_lab: SharedLab) -> Iterator[NotebookPage]:
    with shared_lab.lend(["import workbench as wb\napp = wb.Workbench()\napp"]) as lab:
        yield lab
        lab.run_code("Component._send = original")


@pytest.mark.parametrize("moves", [40, pytest.param(1000, marks=pytest.mark.soak)])
def test_moves_leave_nothing_behind(notebook: NotebookPage, moves: int) -> None:
    page = notebook.page
    expect(page.locator(".wb-heat canvas")).to_have_attribute("data-seq", re.compile(r"\d+"))
    notebook.run_code(COUNT)
    page.evaluate(MOVES, 24)  # caches fill once
    before = json.loads(notebook.run_code(STATE, timeout_s=60))
    page.evaluate(MOVES, moves)
    after = json.loads(notebook.run_code(STATE, timeout_s=60))
    assert after["comms"] == before["comms"]
    assert after["held"] - before["held"] < 50 * 2**20
    assert after["sent"] - before["sent"] < 100 * 2**10 * moves
    expect(page.locator(".wb-heat .wb-badge")).to_have_text("exact")
