"""Quality in words: what a state and two answers say, for a person to read in ten seconds."""

from __future__ import annotations

import math
from collections.abc import Callable

from workbench.measure.paired import Change, Comparison, Estimate
from workbench.session.quality_prompt import Answers
from workbench.session.quality_state import Measured, QualityState
from workbench.sizes import size
from workbench.widgets.facts import Fact, Tone
from workbench.widgets.quality_bars import Bar

_SHOWN = 6  # results in the chart
_TONES: dict[str | None, Tone] = {"better": "good", "worse": "bad", "the same": "", None: ""}


def said(state: QualityState) -> str:
    """Sum a state up in a line."""
    if state.problem is not None:
        return f"Not measured: {state.problem}"
    if state.measured is None:
        if state.refused is not None:
            return f"Nothing can be measured: {state.refused}"
        if not state.origin:
            return "Not measured yet: give a text first."
        return "Not measured under this recipe yet." if state.history else "Not measured yet."
    ratio = state.measured.comparison.perplexity_ratio
    if ratio.low is not None and ratio.high is not None and ratio.low <= 1 <= ratio.high:
        return "On this text no difference in perplexity can be told between int4 and the original."
    way = "raises" if ratio.value >= 1 else "lowers"
    return f"int4 {way} the perplexity of this text by {_percent(abs(ratio.value - 1))}."


def tab_badge(state: QualityState) -> str:
    """Return what stands on the tab: the change of perplexity; "" where nothing is measured under this recipe."""
    if state.measured is None:
        return ""
    return f"{_signed_percent(state.measured.comparison.perplexity_ratio.value - 1)} perplexity"


def facts_of(state: QualityState) -> list[Fact]:
    """Return the headline numbers."""
    if state.measured is None:
        return []
    found = state.measured.comparison
    ratio, kl = found.perplexity_ratio, found.mean_kl.through(_not_below_zero)
    facts = [
        Fact(
            "Perplexity",
            f"{_perplexity(found.reference_perplexity)} → {_perplexity(found.perplexity)}",
            "original → int4",
        ),
        Fact("Difference", _signed_percent(ratio.value - 1), _interval(ratio.through(_minus_one), _signed_percent)),
        Fact("Mean KL", _number(kl.value, 3), f"{_interval(kl, _three)} nats a token"),
        Fact("Same first choice", f"{found.agreement:.1%}", "of the tokens"),
        Fact("Measured on", f"{found.tokens:,} tokens", _how_much(state.measured, state.windows)),
    ]
    if state.calibrated_on:
        facts.append(Fact("Text", "not held out", "the layers were calibrated on it: the numbers flatter", "warn"))
    if state.change is not None:
        facts.append(_change_fact(state.change, state.before))
    return facts


def _change_fact(change: Change, before: str) -> Fact:
    verdict, kl = change.verdict, change.mean_kl
    value = {"better": "better", "worse": "worse", "the same": "no difference", None: "too few windows"}[verdict]
    spread = _interval(kl, _signed)
    return Fact("Than before", value, f"mean KL {_signed(kl.value)} ({spread}) to {before}", _TONES[verdict])


def bars_of(state: QualityState) -> list[Bar]:
    """Return the last results, newest first: on the same windows, as far as they have them."""
    newest = state.measured or next(iter(state.history), None)
    if newest is None:
        return []
    count = len(newest.comparison.windows)
    rows = [one for one in state.history if one is newest or one.covers(count) or one.complete]
    cut = [(one, Comparison(one.comparison.windows[:count])) for one in rows[:_SHOWN]]
    return [_bar(one.label, found, one is state.measured) for one, found in cut if math.isfinite(found.mean_kl.value)]


def _bar(label: str, found: Comparison, now: bool) -> Bar:
    kl = found.mean_kl.through(_not_below_zero)
    windows = f"{len(found.windows)} window{'s' * (len(found.windows) != 1)}"
    text = f"{_three(kl.value)} · {_interval(kl, _three)} · {windows}"
    return Bar(label, kl.value, kl.low, kl.high, text, _perplexity(found.perplexity), now)


def _how_much(measured: Measured, wanted: int | None) -> str:
    done = len(measured.comparison.windows)
    if not measured.covers(wanted):
        return f"{done} of {min(wanted or measured.available, measured.available)} windows so far"
    rest = "all of the text" if done == measured.available else f"the text has {measured.available:,}"
    return f"{done} window{'s' * (done != 1)} of {measured.window:,}, {rest}"


def notes_of(state: QualityState) -> list[str]:
    """Return what a person must know."""
    notes = list(state.measured.notes) if state.measured is not None else []
    if state.loads_bytes and not state.history:
        notes.append(f"measuring loads the model into memory: {size(state.loads_bytes)}")
    if state.device_note:
        notes.append(state.device_note)
    if state.calibrated_on:
        notes.append("this is the calibration text: give one that the layers were not fitted to, for honest numbers")
    if state.measured is not None and state.measured.comparison.mean_kl.low is not None:
        notes.append("intervals: 95%, paired: both models read the same tokens, so hard text widens none of them")
    return notes


def answers_said(answers: Answers) -> str:
    """Say where two answers part."""
    count = max(map(len, answers.tokens))
    if answers.parted is None:
        both = f"Both give the same {count} token{'s' * (count != 1)}"
        return f"{both}." if answers.done else f"{both} so far …"
    (one, p), (other, q) = answers.parted
    same = (
        f"The same for {answers.agreed} token{'s' * (answers.agreed != 1)}, then"
        if answers.agreed
        else "At the first token"
    )
    return f"{same} the original says “{_shown(one)}” ({p:.0%} sure) and int4 “{_shown(other)}” ({q:.0%} sure)."


def _shown(piece: str) -> str:
    return piece.strip() or piece.replace("\n", "↵").replace(" ", "␣") or "end of the text"


def _interval(estimate: Estimate, say: Callable[[float], str]) -> str:
    if estimate.low is None or estimate.high is None:
        return "no interval from one window"
    return f"{say(estimate.low)} to {say(estimate.high)}"


def _minus_one(value: float) -> float:
    return value - 1


def _not_below_zero(value: float) -> float:
    """A divergence is never below zero, whatever an interval of few windows says."""
    return max(0.0, value)


def _number(value: float, digits: int = 4) -> str:
    if not math.isfinite(value):
        return "∞"
    return f"{value:.{digits}g}" if value < 1e5 else f"{value:.2e}"


def _perplexity(value: float) -> str:
    return f"{value:.2f}" if value < 1000 else f"{value:,.0f}" if value < 1e6 else _number(value)


def _three(value: float) -> str:
    return _number(value, 3).replace("-", "−")


def _signed(value: float) -> str:
    return ("+" if value >= 0 else "−") + _number(abs(value), 2)


def _percent(value: float) -> str:
    if not math.isfinite(value):
        return "∞"
    digits = f"{100 * value:#.2g}".removesuffix(".") if 0 < value < 0.995 else f"{100 * value:,.0f}"
    return f"{digits}%"  # "1.0", beside "0.72" and "1.4" of its interval


def _signed_percent(value: float) -> str:
    return ("+" if value >= 0 else "−") + _percent(abs(value))
