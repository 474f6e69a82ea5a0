"""The short measurement of a verdict; what it measures is real, how long it took is not asserted."""

from __future__ import annotations

import threading

import pytest

from workbench.errors import Cancelled
from workbench.measure.decode import DecodeSpeed, iter_decode


def test_it_is_warm_first_and_then_measured():
    warm, found = iter_decode(64, 96, 32, budget_s=0.01)
    assert warm is None
    assert isinstance(found, DecodeSpeed)
    assert (found.n, found.k, found.group_size, found.device, found.dtype) == (64, 96, 32, "cpu", "bfloat16")
    assert found.int4_ms > 0 and found.dense_ms > 0 and found.runs >= 5
    assert found.ratio == pytest.approx(found.dense_ms / found.int4_ms)
    assert DecodeSpeed.from_json(found.to_json()) == found


@pytest.mark.parametrize(
    ("ours", "said"),
    [
        (1.0, "2.00× as fast as dense"),
        (4.0, "2.00× slower than dense"),
        (0.1, "20.0× as fast as dense"),
        (3521.72, "1,761× slower than dense"),
    ],
)
def test_it_says_which_is_faster(ours, said):
    found = DecodeSpeed("cpu", "a CPU", "bfloat16", 8, 16, 64, ours, 2.0, 7)
    assert str(found) == f"{said} (batch 1, 8×16 bfloat16, a CPU)"


def test_it_stops_before_the_next_call():
    cancel = threading.Event()
    steps = iter_decode(64, 96, 32, cancel=cancel)
    next(steps)
    cancel.set()
    with pytest.raises(Cancelled):
        next(steps)
