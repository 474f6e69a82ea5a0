"""A job: every end is reached, told once, and kept."""

import threading

from tests.jobs.counted import TIMEOUT_S, Held, count_to, make
from workbench.errors import Cancelled
from workbench.jobs import Job, Lane


def test_a_job_yields_its_items_and_ends_done():
    job, items, states = make(count_to(3))
    Lane("t", latest_wins=False).submit(job)
    assert job.wait(TIMEOUT_S)
    assert items == [0, 1, 2]
    assert states == ["running", "done"]


def test_cancel_is_acknowledged_at_once_and_stops_at_the_next_block():
    slow = Held("too late")
    job, items, states = make(slow)
    Lane("t", latest_wins=False).submit(job)
    assert slow.begun.wait(TIMEOUT_S)
    job.cancel()
    assert job.state == "cancelling"
    slow.go_on.set()
    assert job.wait(TIMEOUT_S)
    assert job.state == "cancelled"
    assert items == []
    assert states == ["running", "cancelling", "cancelled"]


def test_work_is_closed_before_its_end_is_told():
    order, started, go_on = [], threading.Event(), threading.Event()

    def careful(cancel):
        try:
            started.set()
            go_on.wait(TIMEOUT_S)
            yield 1
        finally:
            order.append("closed")

    job = Job("careful", careful, lambda job, item: None, lambda job: order.append(job.state))
    Lane("t", latest_wins=False).submit(job)
    assert started.wait(TIMEOUT_S)
    job.cancel()
    go_on.set()
    assert job.wait(TIMEOUT_S)
    assert order == ["running", "cancelling", "closed", "cancelled"]


def test_a_job_that_ended_stays_as_it_ended():
    job, _, states = make(count_to(1))
    Lane("t", latest_wins=False).submit(job)
    assert job.wait(TIMEOUT_S)
    job.cancel()
    assert job.state == "done"
    assert states == ["running", "done"]


def test_cancel_twice_is_told_once():
    job, items, states = make(count_to(3))
    job.cancel()
    job.cancel()
    job.run()
    assert job.wait(0)
    assert (items, states) == ([], ["cancelling", "cancelled"])


def test_a_cancel_that_work_raises_itself_is_no_error():
    def gives_up(cancel):
        yield 1
        raise Cancelled("enough")

    job, items, states = make(gives_up)
    job.run()
    assert (items, states, job.error, job.details) == ([1], ["running", "cancelled"], None, "")
