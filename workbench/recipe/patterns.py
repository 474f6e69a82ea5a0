"""Patterns: which layers a rule means, by their names.

A pattern is a glob over the whole layer name ("model.layers.*.mlp.*"), a regular expression over it ("re:.*q_proj"),
plain dotted components found anywhere in it ("q_proj", "layers.0"), or a key of torchao's FqnToConfig
("fqn:lm_head", "fqn:re:.*q_proj"): the exact name, or a regular expression over it, of a layer or of its weight.
"""

from __future__ import annotations

import difflib
import fnmatch
import functools
import re
from collections.abc import Iterable, Sequence

from workbench.errors import PatternError

FQN = "fqn:"
GRAMMAR = "a glob, 're:…', or dotted components of a name"
_MOST_COMPARED = 500  # names that are compared letter by letter, for a suggestion


def matches(pattern: str, name: str) -> bool:
    """Say whether a pattern matches a layer name (see the module's first lines).

    Raises:
        PatternError: for a malformed regular expression or an empty pattern.
    """
    check_pattern(pattern)
    if is_plain(pattern):
        return f".{pattern}." in f".{name}."
    if is_exact(pattern):
        return pattern[len(FQN) :] in both_names(name)
    compiled = _compile(pattern.removeprefix(FQN))
    return any(compiled.fullmatch(one) for one in (both_names(name) if pattern.startswith(FQN) else (name,)))


def both_names(name: str) -> tuple[str, str]:
    """Return a layer's name and the full name of its weight, as torchao's dictionaries may call it."""
    return name, f"{name}.weight".lstrip(".")


@functools.lru_cache(maxsize=1 << 15)
def component_runs(name: str) -> tuple[str, ...]:
    """Return every run of whole components of a dotted name, which are the plain patterns that match it."""
    starts = [0, *(place + 1 for place, char in enumerate(name) if char == ".")]
    ends = [*(start - 1 for start in starts[1:]), len(name)]
    return tuple(name[start:end] for place, start in enumerate(starts) for end in ends[place:])


def is_plain(pattern: str) -> bool:
    """Say whether a pattern is plain dotted components: no glob, no regular expression, no key of torchao's."""
    return bool(pattern.strip()) and not pattern.startswith(("re:", FQN)) and not any(char in pattern for char in "*?[")


def is_exact(pattern: str) -> bool:
    """Say whether a pattern is one exact name."""
    return pattern.startswith(FQN) and not pattern.startswith(f"{FQN}re:")


def check_pattern(pattern: object) -> None:
    """Refuse what is no pattern.

    Raises:
        PatternError: for anything but text, an empty pattern, or a malformed regular expression.
    """
    if not isinstance(pattern, str):
        raise PatternError(f"The pattern {pattern!r} is of type {type(pattern).__name__}.", allowed=GRAMMAR)
    if not pattern.strip():
        raise PatternError(f"Empty pattern {pattern!r}.", allowed=GRAMMAR)
    if pattern.removeprefix(FQN).startswith("re:"):
        _compile(pattern.removeprefix(FQN))


class PatternIndex:
    """Ordered patterns, and which of them match a name: exact names and components are looked up, not tried in turn.

    Args:
        patterns: Every pattern, in order.
    """

    def __init__(self, patterns: Sequence[str]) -> None:
        self._plain: dict[str, list[int]] = {}
        self._exact: dict[str, list[int]] = {}
        self._other: list[tuple[int, str]] = []
        for place, pattern in enumerate(patterns):
            if is_plain(pattern):
                self._plain.setdefault(pattern, []).append(place)
            elif is_exact(pattern):
                self._exact.setdefault(pattern.removeprefix(FQN), []).append(place)
            else:
                self._other.append((place, pattern))

    def matching(self, name: str) -> list[int]:
        """Return the places of the patterns that match a name, in order."""
        found = [place for place, pattern in self._other if matches(pattern, name)]
        if self._plain:
            found += [place for run in component_runs(name) for place in self._plain.get(run, ())]
        if self._exact:
            found += [place for one in both_names(name) for place in self._exact.get(one, ())]
        return sorted(found)


@functools.lru_cache(maxsize=4096)
def _compile(pattern: str) -> re.Pattern[str]:
    """Compile a regular expression or a glob."""
    if not pattern.startswith("re:"):
        return re.compile(fnmatch.translate(pattern))
    try:
        return re.compile(pattern[3:])
    except (re.error, OverflowError, RecursionError) as error:
        raise PatternError(
            f"The pattern {pattern!r:.200} is not a regular expression: {error}.", mend="write . as \\."
        ) from None


def nearest(pattern: str, names: Sequence[str]) -> list[str]:
    """Return up to three patterns or names near to a pattern that matches none of the names, the nearest first."""
    parts = sorted({part for name in names for part in name.split(".") if not part.isdigit()})
    known = set(parts)
    for word in re.findall(r"\w{2,}", pattern.removeprefix(FQN).removeprefix("re:")):
        close = [] if word in known or word.isdigit() else difflib.get_close_matches(word, parts, n=3, cutoff=0.5)
        found = [one for one in (pattern.replace(word, part) for part in close) if _finds(one, names)]
        if found:
            return found
    return _nearest_names(pattern.removeprefix(FQN).removeprefix("re:").replace("\\", ""), names)


def _finds(pattern: str, names: Iterable[str]) -> bool:
    try:
        return any(matches(pattern, name) for name in names)
    except PatternError:
        return False


def _nearest_names(text: str, names: Sequence[str]) -> list[str]:
    """Return the names most like a text; of many names, only those that share most of its components are compared."""
    wanted = set(text.split("."))
    likely = sorted(names, key=lambda name: -len(wanted.intersection(name.split("."))))[:_MOST_COMPARED]
    return difflib.get_close_matches(text, likely, n=3, cutoff=0.0)
