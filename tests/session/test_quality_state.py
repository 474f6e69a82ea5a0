"""What is known of quality: settings that cannot be are refused, and results are found again by what they are of."""

from __future__ import annotations

import pytest

from workbench.errors import ConfigError
from workbench.measure.paired import Comparison, WindowPair, change_between
from workbench.session.quality_plan import Plan
from workbench.session.quality_state import Measured, QualityState, Results

STATE = QualityState("a text", 9000, None, 512, 32, True)


def result(recipe, text="text", nats=(30.0, 31.0, 29.5), wanted=3):
    windows = tuple(WindowPair(10, 28.0, one, 0.5, 9) for one in nats)
    return Measured(Plan(f"recipe {recipe}", recipe, text), Comparison(windows), 11, wanted, available=4)


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ((None, None, None), (512, 32, True)),
        ((2048, None, None), (2048, 32, True)),
        ((None, 5, False), (512, 5, False)),
        ((None, "all", None), (512, None, True)),
    ],
)
def test_what_is_chosen_takes_the_place_of_what_was(choice, expected):
    assert tuple(STATE.chosen(*choice).values()) == expected


@pytest.mark.parametrize(
    ("window", "windows", "message"),
    [
        (100, None, r"window=100\. Allowed: 512 or 2048"),
        (0, None, "window=0"),
        (None, 0, r"windows=0\. Allowed: a whole number from 1 on, or 'all'"),
        (None, 2.0, r"windows=2\.0"),
        (None, True, "windows=True"),
        (None, "some", "windows='some'"),
    ],
)
def test_what_cannot_be_is_refused_with_what_can(window, windows, message):
    with pytest.raises(ConfigError, match=message):
        STATE.chosen(window, windows, None)


def test_a_result_covers_as_many_windows_as_it_has_and_no_more_than_the_text():
    three = result("a")
    assert three.complete and not result("a", wanted=4).complete
    assert [three.covers(count) for count in (1, 3, 4, 9, None)] == [True, True, False, False, False]
    four = result("a", nats=(1.0, 1.0, 1.0, 1.0), wanted=9)
    assert four.covers(9) and four.covers(None)


def test_results_are_found_by_recipe_and_text_newest_first():
    results = Results()
    first, second, other = result("a"), result("b"), result("a", "another text")
    for one in (first, second, other):
        results.add(one)
    assert len(results) == 3 and results.on("text") == (second, first) and results.on("no text") == ()
    assert results.get(first.plan) is first and results.on("text") == (first, second)
    more = result("a", nats=(30.0, 31.0, 29.5, 30.5), wanted=4)
    results.add(more)
    assert results.get(first.plan) is more and len(results) == 3


def test_the_oldest_results_are_forgotten():
    results = Results()
    for number in range(30):
        results.add(result(number))
    assert [one.plan.recipe for one in results.on("text")] == list(range(29, 5, -1))


def test_a_change_is_from_the_newest_other_recipe_whose_windows_are_all_measured():
    results = Results()
    first, half, now = result("a"), result("b", nats=(40.0,), wanted=3), result("c", nats=(28.0, 28.0, 28.0))
    results.add(now)
    assert results.change(now) is None
    results.add(half)
    assert results.change(now)[1] == "recipe b"
    for one in (first, half, now):
        results.add(one)
    found, before = results.change(now)
    assert before == "recipe a" and found == change_between(first.comparison, now.comparison)
