"""Long work off the notebook's thread: a generator run on a worker, with progress, cancel and latest-wins."""

from workbench.jobs.job import FINISHED as FINISHED
from workbench.jobs.job import Job as Job
from workbench.jobs.job import progress_since as progress_since
from workbench.jobs.lane import Lane as Lane
from workbench.jobs.lane import behind as behind
from workbench.jobs.lane import wait_for_all as wait_for_all
