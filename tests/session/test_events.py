"""Events: the thread that they come from, and listeners that none of them can break."""

import pytest

from tests.session.stand_ins import GATE, TIMEOUT_S, Heard, waited
from workbench.errors import CheckpointError

pytestmark = pytest.mark.usefixtures("quick_roofline")


def test_events_come_from_the_right_thread(demo, tmp_path):
    heard = Heard(demo)
    demo.select([GATE])
    demo.configure(group_size=32)
    assert demo.wait(TIMEOUT_S)
    waited(demo.sweep_errors())
    waited(demo.speed.measure(batch_sizes=[1], budget_s=0.0))
    waited(demo.export(tmp_path / "out", verify=False))
    with pytest.raises(CheckpointError):
        demo.export("")
    assert heard.threads_of("coverage") == heard.threads_of("selection") == {"MainThread"}
    assert heard.threads_of("view") == {"workbench-preview"}
    for kind in ("error", "speed", "export"):
        assert heard.threads_of(kind) == {"workbench-work"}
    assert heard.of("problem") == []


def test_forgetting_a_listener_stops_it(demo):
    heard = Heard(demo)
    heard.forget()
    heard.forget()
    demo.select([GATE])
    assert heard.events == []


def test_a_listener_that_raises_breaks_neither_the_others_nor_the_lane(demo, caplog):
    def broken(event):
        raise RuntimeError(f"cannot show {event.kind}")

    demo.listen(broken)
    heard = Heard(demo)
    demo.select([GATE])
    assert demo.wait(TIMEOUT_S)
    assert [view.name for view in heard.of("view")] == [GATE]
    assert "cannot show view" in [str(problem) for problem in heard.of("problem")]
    assert [job.state for job in heard.of("job")] == ["done"] * len(heard.of("job"))
    assert "A listener failed" in caplog.text
    demo.configure(group_size=32)
    assert demo.wait(TIMEOUT_S)
    assert heard.of("view")[-1].group_size == 32
