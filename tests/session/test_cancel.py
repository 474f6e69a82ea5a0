"""Cancel of each kind of work: told in the middle of a block, of which at most one more follows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from workbench.demo import demo_eval_text
from workbench.session import Session
from workbench.solvers import solve

pytestmark = pytest.mark.usefixtures("quick_roofline")
TIMEOUT_S = 120


@dataclass
class Blocks:
    """Counts blocks of work; in the middle of the `at`-th one, cancels and keeps what the job says then."""

    session: Session
    kind: str
    at: int = 1
    job: Any = None
    seen: int = 0
    told: list[str] = field(default_factory=list)

    def note(self, kind: str) -> None:
        if kind == self.kind:
            self.seen += 1
        if kind == self.kind and self.seen == self.at:
            job = next(lane.current for lane in self.session.lanes if lane.busy) if self.job is None else self.job
            self.session.cancel()
            self.told.append(job.state)


@pytest.fixture
def session(session):
    session.quality.set_text(demo_eval_text()[:6000])
    assert session.wait(TIMEOUT_S)
    return session


def watch(blocks: Blocks, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Count reads of weights, layers that are solved, forward passes and timed calls."""
    source, read = blocks.session.source, blocks.session.source.weight

    def weight(name):
        blocks.note("read")
        return read(name)

    def counted(*given, **more):
        blocks.note("solve")
        return solve(*given, **more)

    def timed(call):
        blocks.note("timed")
        call()
        return 1e-3

    monkeypatch.setattr(source, "weight", weight, raising=False)
    monkeypatch.setattr("workbench.solving.solve", counted)
    monkeypatch.setattr("workbench.measure.timing._time_cpu", timed)
    layer = source.model.model.layers[0]
    return layer.register_forward_pre_hook(lambda *_: blocks.note("forward")).remove


KINDS: dict[str, tuple[str, str, Callable[[Session, Any], Any]]] = {
    "view": ("read", "hqq", lambda s, _: s.select([s.source.records()[5].name])),
    "sweep": ("read", "hqq", lambda s, _: s.sweep_errors()),
    "sweep, calibrated": ("forward", "calibrated", lambda s, _: s.sweep_errors()),
    "inputs": ("forward", "hqq", lambda s, _: s.calibration.request(s.current, list(s.coverage.configs))),
    "improve": ("read", "hqq", lambda s, _: s.improve()),
    "improve on outputs": ("forward", "hqq", lambda s, _: s.improve()),
    "quality, solving": ("solve", "rtn", lambda s, _: s.quality.measure()),
    "quality, windows": ("forward", "rtn", lambda s, _: s.quality.measure()),
    "prompt": ("forward", "rtn", lambda s, _: s.quality.prompt.ask("The function returns", 60)),
    "speed": ("timed", "hqq", lambda s, _: s.speed.measure(batch_sizes=(1, 4))),
    "verdict": ("timed", "hqq", lambda s, _: (s.verdict._known.clear(), s.verdict.follow())[-1]),
    "export": ("read", "hqq", lambda s, folder: s.export(folder / "out")),
    "export, calibrated": ("forward", "calibrated", lambda s, folder: s.export(folder / "out")),
    "report": ("read", "hqq", lambda s, folder: s.report(folder / "report.html")),
}


@pytest.mark.parametrize("name", KINDS)
def test_cancel_is_told_at_once_and_at_most_one_more_block_is_worked_through(name, session, monkeypatch, tmp_path):
    kind, solver, start = KINDS[name]
    if name == "improve":
        session.calibration.set_text("")
    if solver != "hqq":
        session.configure(solver=solver)
    session.cancel()
    assert session.wait(TIMEOUT_S)
    blocks = Blocks(session, kind, at=1 if name == "view" else 2)
    remove = watch(blocks, monkeypatch)
    states = []
    session.listen(lambda event: states.append(event.job.state) if event.kind == "job" else None)
    try:
        job = start(session, tmp_path)
        blocks.job = job if hasattr(job, "state") else None
        assert session.wait(TIMEOUT_S)
    finally:
        remove()
    assert blocks.told and set(blocks.told) <= {"cancelling", "cancelled"}  # who waits for others may have ended
    assert blocks.seen <= blocks.at + 1
    assert "failed" not in states and "done" not in states
    assert list(tmp_path.iterdir()) == []
