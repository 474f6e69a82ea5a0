"""Lanes: latest wins, and a lane survives what runs on it."""

import subprocess
import sys
import threading

import pytest

from tests.jobs.counted import TIMEOUT_S, Held, count_to, make
from workbench.errors import Cancelled, ConfigError, WeightError
from workbench.jobs import Job, Lane, behind, wait_for_all


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


def test_a_busy_lane_refuses_a_second_job_by_name():
    slow = Held()
    lane = Lane("t", latest_wins=False)
    first, _, _ = make(slow, "Export")
    lane.submit(first)
    second, items, _ = make(count_to(1), "Measure")
    with pytest.raises(ConfigError, match=r"Measure cannot start: Export is running.*Cancel"):
        lane.submit(second)
    slow.go_on.set()
    assert lane.wait(TIMEOUT_S)
    assert items == []


def test_latest_wins_cancels_the_running_and_drops_the_waiting_job():
    slow = Held("stale")
    lane = Lane("t", latest_wins=True)
    first, first_items, _ = make(slow)
    lane.submit(first)
    assert slow.begun.wait(TIMEOUT_S)
    second, second_items, _ = make(count_to(1))
    third, third_items, _ = make(count_to(2))
    lane.submit(second)
    lane.submit(third)
    slow.go_on.set()
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


@pytest.mark.parametrize("fault", [RuntimeError("broken"), SystemExit(3), KeyboardInterrupt()])
def test_whatever_work_raises_ends_the_job_and_not_the_lane(fault):
    def broken(cancel):
        raise fault

    lane = Lane("t", latest_wins=False)
    job, _, states = make(broken)
    lane.submit(job)
    assert lane.wait(TIMEOUT_S)
    assert (job.state, job.error, states) == ("failed", fault, ["running", "failed"])
    assert job.error.__traceback__ is None, "it would hold on to the weights of its frames"
    after, items, _ = make(count_to(1))
    lane.submit(after)
    assert after.wait(TIMEOUT_S)
    assert items == [0]


def test_who_takes_an_item_badly_fails_the_job_and_not_the_lane():
    def refuse(job, item):
        raise ValueError("cannot show")

    lane = Lane("t", latest_wins=False)
    job = lane.submit(Job("j", count_to(2), refuse, lambda job: None))
    assert lane.wait(TIMEOUT_S)
    assert job.state == "failed"
    assert "cannot show" in job.details


def test_who_hears_a_state_badly_breaks_nothing(caplog):
    def refuse(job):
        raise ValueError(f"cannot show {job.state}")

    items = []
    lane = Lane("t", latest_wins=False)
    job = lane.submit(Job("j", count_to(2), lambda job, item: items.append(item), refuse))
    assert lane.wait(TIMEOUT_S)
    assert (job.state, job.error, items) == ("done", None, [0, 1])
    assert "cannot show running" in caplog.text and "cannot show done" in caplog.text


def test_the_next_job_can_start_as_soon_as_one_has_ended():
    lane = Lane("t", latest_wins=False)
    for _ in range(200):
        job, _, _ = make(count_to(1))
        lane.submit(job)
        assert job.wait(TIMEOUT_S)
        assert not lane.busy
        assert lane.current is None


def test_the_end_of_one_job_can_start_the_next():
    lane, items = Lane("t", latest_wins=False), []
    second, items, _ = make(count_to(2))

    def start_second(job):
        if job.finished:
            lane.submit(second)

    lane.submit(Job("first", count_to(1), lambda job, item: None, start_second))
    assert lane.wait(TIMEOUT_S)
    assert (second.state, items) == ("done", [0, 1])


def test_wait_gives_up_in_time_and_current_names_what_runs():
    slow = Held()
    lane = Lane("t", latest_wins=False)
    assert lane.wait(0)
    job, _, _ = make(slow)
    lane.submit(job)
    assert not lane.wait(0.01)
    assert not job.wait(0.01)
    assert lane.busy and lane.current is job
    slow.go_on.set()
    assert lane.wait(TIMEOUT_S)
    assert not lane.busy


def test_steps_behind_an_idle_lane_are_all_taken():
    assert list(behind(Lane("idle", latest_wins=True), iter("abc"), threading.Event())) == ["a", "b", "c"]


def test_no_step_is_taken_while_the_lane_before_is_busy():
    go_on, cancel, taken = threading.Event(), threading.Event(), []
    lane = Lane("t", latest_wins=True)
    lane.submit(make(lambda cancel: iter([go_on.wait(TIMEOUT_S)]))[0])
    cancel.set()
    with pytest.raises(Cancelled, match="before its turn came"):
        list(behind(lane, (taken.append(step) for step in range(3)), cancel))
    go_on.set()
    assert lane.wait(TIMEOUT_S)
    assert taken == []


def test_waiting_for_all_takes_in_what_one_lane_begins_on_another_that_was_idle():
    idle, begun = threading.Event(), []

    class Watched(Lane):
        def wait(self, timeout_s=None):
            found = super().wait(timeout_s)
            idle.set()
            return found

    first, second = Watched("first", latest_wins=True), Lane("second", latest_wins=False)

    def late(cancel):
        cancel.wait(0.1)
        begun.append("ran")
        yield 1

    def begins_another(cancel):
        assert idle.wait(TIMEOUT_S)
        first.submit(make(late)[0])
        yield 1

    second.submit(make(begins_another)[0])
    assert wait_for_all((first, second), TIMEOUT_S)
    assert begun == ["ran"] and not first.busy and not second.busy


def test_waiting_for_all_gives_up_in_time():
    go_on, lane = threading.Event(), Lane("t", latest_wins=False)
    lane.submit(make(lambda cancel: iter([go_on.wait(TIMEOUT_S)]))[0])
    assert not wait_for_all((Lane("idle", latest_wins=False), lane), 0.01)
    go_on.set()
    assert wait_for_all((lane,))


def test_cancelling_a_lane_reaches_what_runs_and_what_waits():
    slow = Held()
    lane = Lane("t", latest_wins=True)
    lane.cancel()
    first, first_items, _ = make(slow)
    lane.submit(first)
    assert slow.begun.wait(TIMEOUT_S)
    second, second_items, _ = make(count_to(1))
    lane.submit(second)
    lane.cancel()
    slow.go_on.set()
    assert lane.wait(TIMEOUT_S)
    assert (first.state, second.state, first_items, second_items) == ("cancelled", "cancelled", [], [])


def test_a_process_that_ends_while_work_runs_stops_it_first():
    code = """
import threading
import torch
from workbench.jobs import Job, Lane, wait_for_all

def work(cancel):
    values = torch.rand(500, 500)
    while not cancel.is_set():
        begun.set()
        values = torch.linalg.qr(values).Q
        yield values

begun = threading.Event()
Lane("test", latest_wins=False).submit(Job("long", work, lambda *_: None, lambda job: print(job.state, flush=True)))
begun.wait()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == ["running", "cancelling", "cancelled"]
