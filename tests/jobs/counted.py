"""Jobs of tests: what they yielded and which states they went through is kept."""

from workbench.jobs import Job

TIMEOUT_S = 10


def make(work, label="job"):
    items, states = [], []
    job = Job(label, work, lambda job, item: items.append(item), lambda job: states.append(job.state))
    return job, items, states


def count_to(n):
    return lambda cancel: iter(range(n))
