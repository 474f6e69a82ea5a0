"""Jobs: every end is reached, latest wins, and a lane survives what runs on it."""

import threading

import pytest

from workbench.errors import ConfigError, WeightError
from workbench.jobs import Job, Lane

TIMEOUT_S = 10


def make(work, label="job"):
    items, states = [], []
    job = Job(label, work, lambda job, item: items.append(item), lambda job: states.append(job.state))
    return job, items, states


def count_to(n):
    return lambda cancel: iter(range(n))


def test_a_job_yields_its_items_and_ends_done():
    job, items, states = make(count_to(3))
    Lane("t", latest_wins=False).submit(job)
    assert job.wait(TIMEOUT_S)
    assert items == [0, 1, 2]
    assert states == ["running", "done"]


def test_an_error_is_kept_with_its_traceback_and_the_lane_goes_on():
    def broken(cancel):
        yield 1
        raise WeightError("bad weight")

    lane = Lane("t", latest_wins=False)
    job, items, states = make(broken)
    lane.submit(job)
    assert lane.wait(TIMEOUT_S)
    assert items == [1]
    assert states[-1] == "failed"
    assert isinstance(job.error, WeightError)
    assert "bad weight" in job.details
    after, items, _ = make(count_to(1))
    lane.submit(after)
    assert after.wait(TIMEOUT_S)
    assert items == [0]


def test_cancel_is_acknowledged_at_once_and_stops_at_the_next_block():
    started, go_on = threading.Event(), threading.Event()

    def slow(cancel):
        started.set()
        go_on.wait(TIMEOUT_S)
        yield "too late"

    job, items, states = make(slow)
    Lane("t", latest_wins=False).submit(job)
    assert started.wait(TIMEOUT_S)
    job.cancel()
    assert job.state == "cancelling"
    go_on.set()
    assert job.wait(TIMEOUT_S)
    assert job.state == "cancelled"
    assert items == []
    assert states == ["running", "cancelling", "cancelled"]


def test_a_busy_lane_refuses_a_second_job_by_name():
    go_on = threading.Event()

    def slow(cancel):
        go_on.wait(TIMEOUT_S)
        yield 1

    lane = Lane("t", latest_wins=False)
    first, _, _ = make(slow, "Export")
    lane.submit(first)
    second, items, _ = make(count_to(1), "Measure")
    with pytest.raises(ConfigError, match=r"Measure cannot start: Export is running.*Cancel"):
        lane.submit(second)
    go_on.set()
    assert lane.wait(TIMEOUT_S)
    assert items == []


def test_latest_wins_cancels_the_running_and_drops_the_waiting_job():
    started, go_on = threading.Event(), threading.Event()

    def slow(cancel):
        started.set()
        go_on.wait(TIMEOUT_S)
        yield "stale"

    lane = Lane("t", latest_wins=True)
    first, first_items, _ = make(slow)
    lane.submit(first)
    assert started.wait(TIMEOUT_S)
    second, second_items, _ = make(count_to(1))
    third, third_items, _ = make(count_to(2))
    lane.submit(second)
    lane.submit(third)
    go_on.set()
    assert lane.wait(TIMEOUT_S)
    assert third.wait(TIMEOUT_S)
    assert (first.state, second.state, third.state) == ("cancelled", "cancelled", "done")
    assert (first_items, second_items, third_items) == ([], [], [0, 1])
    assert first.number < second.number < third.number


def test_many_jobs_from_many_threads_all_end():
    lane = Lane("t", latest_wins=True)
    jobs = []

    def submit_some():
        for _ in range(25):
            job, _, _ = make(count_to(5))
            jobs.append(lane.submit(job))

    threads = [threading.Thread(target=submit_some) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert lane.wait(TIMEOUT_S)
    assert all(job.wait(TIMEOUT_S) and job.state in ("done", "cancelled") for job in jobs)
    assert jobs[-1].finished


def test_an_idle_lane_holds_no_thread():
    lane = Lane("idle-lane", latest_wins=False)
    job, _, _ = make(count_to(1))
    lane.submit(job)
    assert lane.wait(TIMEOUT_S)
    for thread in threading.enumerate():
        if thread.name == "workbench-idle-lane":
            thread.join(TIMEOUT_S)
    assert not any(thread.name == "workbench-idle-lane" for thread in threading.enumerate())
