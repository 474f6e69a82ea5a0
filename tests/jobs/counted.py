"""Jobs of tests: what they yielded and which states they went through is kept; and work that is held up."""

import threading

from workbench.jobs import Job

TIMEOUT_S = 10


def make(work, label="job"):
    items, states = [], []
    job = Job(label, work, lambda job, item: items.append(item), lambda job: states.append(job.state))
    return job, items, states


def count_to(n):
    return lambda cancel: iter(range(n))


class Held:
    """Work that says when it has begun, and yields an item once it may go on."""

    def __init__(self, item=1):
        self.item, self.begun, self.go_on = item, threading.Event(), threading.Event()

    def __call__(self, cancel):
        self.begun.set()
        assert self.go_on.wait(TIMEOUT_S)
        yield self.item
