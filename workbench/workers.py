"""Blocks of work on threads that each compute alone, their results in order.

PyTorch shares every single operation among its threads, and all of them wait for the slowest. On a machine that does
anything else, each wait can cost a turn of the scheduler, some 8 ms: a solver of a thousand short operations then takes
a hundred times as long. Here each thread takes whole blocks and shares nothing, so that nobody waits.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain, islice
from typing import TypeVar

import torch

_STARTING = threading.Lock()  # held while the process's number of threads is not what it should be
_Block = TypeVar("_Block")
_Result = TypeVar("_Result")


def in_order(work: Callable[[_Block], _Result], blocks: Iterable[_Block]) -> Generator[_Result, None, None]:
    """Yield `work(block)` for each block, in order, computed by as many threads as PyTorch would use.

    The caller's inference and gradient modes hold in `work`. No more than two blocks for each thread are begun before
    the first of them is taken. An error of `work` is raised when its block's turn comes; blocks not begun by then never
    are, as when the iterator is closed.

    Args:
        work: Runs on several threads at once; CPU tensors only.
        blocks: What to work on.
    """
    threads = own_thread_count()
    blocks = iter(blocks)
    ahead = list(islice(blocks, threads))
    if not ahead or threads == 1 or not torch.backends.openmp.is_available():
        yield from map(work, chain(ahead, blocks))
        return
    inference, grad = torch.is_inference_mode_enabled(), torch.is_grad_enabled()

    def work_alone(block: _Block) -> _Result:
        with torch.inference_mode(inference), torch.set_grad_enabled(grad):
            return work(block)

    ready = threading.Barrier(len(ahead) + 1)
    pool = ThreadPoolExecutor(len(ahead), "workbench", _compute_alone, (ready,))
    try:
        with _STARTING:
            running: deque[Future[_Result]] = deque(pool.submit(work_alone, block) for block in ahead)
            ready.wait()
            torch.set_num_threads(threads)  # of this thread, as before; and of threads that are yet to start
        running.extend(pool.submit(work_alone, block) for block in islice(blocks, len(ahead)))
        while running:
            yield running.popleft().result()
            running.extend(pool.submit(work_alone, block) for block in islice(blocks, 1))
    finally:
        ready.abort()  # an interrupt before all have met would leave the first ones waiting for ever
        pool.shutdown(wait=True, cancel_futures=True)


def own_thread_count() -> int:
    """Return how many threads PyTorch shares an operation of this thread among, and keep it to that from now on.

    A thread takes the process's number when PyTorch first looks. While the threads of a pool start, that number is 1:
    a thread of ours that begins just then would stay at 1 for good, slower, and with results that round otherwise.
    """
    with _STARTING:
        return torch.get_num_threads()


def _compute_alone(ready: threading.Barrier) -> None:
    """Let the operations of this thread run on it alone. OpenMP keeps the number for each thread.

    A thread takes the process's number when PyTorch first looks, which would undo what was set before: look first.
    """
    torch.get_num_threads()
    torch.set_num_threads(1)
    with contextlib.suppress(threading.BrokenBarrierError):
        ready.wait()
