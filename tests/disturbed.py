"""A plugin of pytest that holds threads up on purpose: a test, or a session, that needs one of two to be first fails.

`-p tests.disturbed` loads it; `DISTURBED` says who is held up:

- "workers-first": whoever gives work to a lane waits until it has ended, and what followed from it was told;
- "people-first": work begins late, when the one who gave it has gone on;
- a number: the seed of random pauses before work, around each change of its state, and around each event.
"""

from __future__ import annotations

import functools
import os
import random
import threading
import time
from collections.abc import Callable
from typing import Any

from workbench.jobs import Job, Lane
from workbench.session.events import Listeners

WAIT_S = 0.7  # a test may hold work up itself, so that it does not end before its giver goes on
LATE_S = 0.1
PAUSE_S = 0.03


def on_worker() -> bool:
    """Say whether this thread is a lane's."""
    return threading.current_thread().name.startswith("workbench-")


def around(owner: type, name: str, before: Callable[[], None], after: Callable[[], None] = lambda: None) -> None:
    """Call `before` and `after` around each call of a method."""
    method = getattr(owner, name)

    @functools.wraps(method)
    def held_up(*args: Any, **settings: Any) -> Any:
        before()
        try:
            return method(*args, **settings)
        finally:
            after()

    setattr(owner, name, held_up)


def workers_first() -> None:
    """Let work end before the one who gave it goes on."""
    submit = Lane.submit

    def finished(lane: Lane, job: Job) -> Job:
        submit(lane, job)
        if not on_worker():
            job.wait(WAIT_S)
        return job

    Lane.submit = finished


def people_first() -> None:
    """Let the one who gives work go on before it begins."""
    around(Job, "run", lambda: time.sleep(LATE_S if on_worker() else 0))


def at_random(seed: int) -> None:
    """Pause here and there."""
    chance = random.Random(seed)

    def pause() -> None:
        if chance.random() < 0.5:
            time.sleep(PAUSE_S * chance.random())

    around(Job, "run", pause)
    around(Job, "_enter", pause, pause)
    around(Lane, "submit", pause, pause)
    around(Listeners, "tell", pause, pause)


def pytest_configure() -> None:
    """Hold up who is to be held up."""
    how = os.environ["DISTURBED"]
    if how == "workers-first":
        workers_first()
    elif how == "people-first":
        people_first()
    else:
        at_random(int(how))
