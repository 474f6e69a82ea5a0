"""Blocks on threads of their own: order, errors, cancel, and the thread counts of the process left alone."""

from __future__ import annotations

import threading

import pytest
import torch

from workbench import workers
from workbench.workers import in_order, own_thread_count


@pytest.fixture(params=[1, 2, 5])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 50])
def test_results_come_in_order(threads, count):
    assert list(in_order(lambda block: block * block, range(count))) == [block * block for block in range(count)]


def test_as_many_threads_work_as_pytorch_would_use_and_each_computes_alone(threads):
    ready = threading.Barrier(threads, timeout=60)

    def work(block):
        if block < threads:
            ready.wait()  # passes only when that many blocks are under way at once
        return threading.get_ident(), torch.get_num_threads()

    found = list(in_order(work, range(4 * threads)))
    assert len({thread for thread, _ in found}) <= threads
    assert {alone for _, alone in found} == {1}


def test_the_thread_counts_of_all_others_are_left_alone(threads):
    results = in_order(lambda block: block, range(20))
    next(results)
    counts = [torch.get_num_threads()]
    other = threading.Thread(target=lambda: counts.append(torch.get_num_threads()))
    other.start()
    other.join()
    list(results)
    assert [*counts, torch.get_num_threads()] == [threads] * 3


def test_an_error_comes_in_its_turn_and_ends_the_work(threads):
    begun = []

    def work(block):
        begun.append(block)
        if block == 7:
            raise ValueError("block 7")
        return block

    results, taken = in_order(work, range(10_000)), []
    with pytest.raises(ValueError, match="block 7"):
        taken.extend(iter(lambda: next(results), None))
    assert taken == [] or taken == list(range(7))
    assert max(begun) <= 7 + 2 * threads


def test_closing_ends_the_work_and_leaves_no_thread(threads):
    begun, before = [], threading.active_count()
    results = in_order(lambda block: begun.append(block), range(10_000))
    next(results)
    results.close()
    assert threading.active_count() == before and len(begun) <= 1 + 2 * threads


def test_blocks_are_fetched_only_a_little_ahead(threads):
    fetched = []
    results = in_order(lambda block: block, (fetched.append(block) or block for block in range(10_000)))
    next(results)
    assert len(fetched) <= 1 + 2 * threads
    results.close()


def test_without_openmp_the_calling_thread_does_the_work(monkeypatch):
    monkeypatch.setattr(torch.backends.openmp, "is_available", lambda: False)
    assert set(in_order(lambda block: threading.get_ident(), range(5))) == {threading.get_ident()}


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad, torch.enable_grad])
def test_inference_and_gradient_modes_of_the_caller_hold(threads, mode):
    seen = lambda _=None: (torch.is_inference_mode_enabled(), torch.is_grad_enabled())  # noqa: E731
    with mode():
        assert set(in_order(seen, range(6))) == {seen()}
        shared = torch.zeros(6)
        list(in_order(lambda block: shared[block].fill_(block), range(6)))
    assert shared.tolist() == [0, 1, 2, 3, 4, 5]


def test_an_interrupt_before_all_threads_have_met_leaves_none_waiting(monkeypatch):
    real, before = workers.ThreadPoolExecutor.submit, threading.active_count()
    calls = []

    def submit(pool, *arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(pool, *arguments)

    monkeypatch.setattr(workers.ThreadPoolExecutor, "submit", submit)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    with pytest.raises(KeyboardInterrupt):
        list(in_order(lambda block: block, range(8)))
    assert threading.active_count() == before


def test_a_thread_that_starts_while_a_pool_does_keeps_the_number_of_the_process(threads):
    stop, seen = threading.Event(), []

    def churn():
        while not stop.is_set():
            list(in_order(lambda block: block, range(4)))

    busy = threading.Thread(target=churn)
    busy.start()
    try:
        for _ in range(300):
            one = threading.Thread(target=lambda: seen.append((own_thread_count(), torch.get_num_threads())))
            one.start()
            one.join()
    finally:
        stop.set()
        busy.join()
    assert set(seen) == {(threads, threads)}
