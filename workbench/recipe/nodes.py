"""One rule for a part of the module tree: the pattern that names it, and the recipe that follows from it.

A part is given by the names of its layers and by its glob ("model.layers.*.mlp.*", where "*" stands for indices that
are shown as one). The glob is the pattern wherever it finds those layers and no others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from functools import partial

from workbench.recipe.edit import LayerNames, changed_choice, with_change, with_choice
from workbench.recipe.recipe import Choice, Recipe, matches


class NodeNames(LayerNames):
    """The names of a model's linear layers, where the pattern of some of them is one: that of their node.

    Args:
        names: Every name, in the order of the model.
        glob: The node's glob.
    """

    def __init__(self, names: Sequence[str], glob: str) -> None:
        super().__init__(names)
        self._glob = glob

    def patterns(self, wanted: Collection[str]) -> list[str]:
        """Return one pattern that matches the wanted names and no other; none for no names."""
        kept = set(wanted)
        names = [name for name in self.names if name in kept]
        return [node_pattern(self.names, names, self._glob)] if names else []


def with_dense(recipe: Recipe, layers: LayerNames, wanted: Collection[str], glob: str = "") -> Recipe:
    """Return a recipe that leaves the wanted layers dense; in one rule, when they are what a glob names.

    Args:
        recipe: What is changed.
        layers: The names of the model's linear layers.
        wanted: Some of them.
        glob: The glob of their node, or "".
    """
    return with_choice(recipe, NodeNames(layers.names, glob) if glob else layers, wanted, None)


def with_int4(
    recipe: Recipe,
    layers: LayerNames,
    wanted: Sequence[str],
    int4: Collection[str],
    *,
    group_size: int | None = None,
    glob: str = "",
) -> Recipe:
    """Return a recipe that makes the wanted layers int4; in one rule, when they are what a glob names.

    One rule holds one set of settings: those that most of the layers have. Without a glob each layer keeps its own.

    Args:
        recipe: What is changed.
        layers: The names of the model's linear layers.
        wanted: Some of them.
        int4: Names of the layers that become int4 under `recipe`.
        group_size: 256, 128, 64 or 32; None keeps what the layers, or the default, have.
        glob: The glob of their node, or "".

    Raises:
        ConfigError: when the group size cannot work with the other settings of one of the layers, saying which.
    """
    held = set(int4)
    change = partial(changed_choice, group_size=group_size)
    if glob:
        choices = Counter(recipe.decide(name)[0] for name in wanted if name in held)
        usual = choices.most_common(1)[0][0] if choices else None
        choice = change(usual or recipe.default or Choice())
        return with_choice(recipe, NodeNames(layers.names, glob), wanted, choice)
    others = [name for name in wanted if name not in held or group_size is not None]
    return with_change(recipe, layers, others, change)


def rules_said(before: Recipe, after: Recipe) -> str:
    """Say in a line which rules a change added and how many it dropped."""
    added = [rule for rule in after.rules if rule not in before.rules]
    dropped = sum(rule not in after.rules for rule in before.rules)
    named = ", ".join(f"{rule.pattern}: {_said(rule.choice)}" for rule in added[:2])
    more = f" and {len(added) - 2} more" if len(added) > 2 else ""
    parts = [f"{len(added)} rule{'s' * (len(added) != 1)} added ({named}{more})"] if added else []
    parts += [f"{dropped} dropped"] if dropped else []
    return ", ".join(parts) or "no change"


def _said(choice: Choice | None) -> str:
    return "dense" if choice is None else f"int4, group size {choice.config.group_size}"


def node_pattern(names: Sequence[str], wanted: Sequence[str], glob: str) -> str:
    """Return one pattern that matches the wanted names and no other: the node's glob wherever that suffices.

    Args:
        names: Every name that the pattern could match.
        wanted: Some of them, at least one.
        glob: The node's glob, for instance "model.layers.*.mlp.*".
    """
    kept = set(wanted)
    for pattern in _candidates(wanted, glob):
        if {name for name in names if matches(pattern, name)} == kept:
            return pattern
    return "re:" + "|".join(_escape(name) for name in wanted)


def _candidates(wanted: Sequence[str], glob: str) -> Iterator[str]:
    """Yield patterns from the plainest on: the glob, one of the part that all names share, the glob's own indices."""
    if glob.strip():
        yield glob
    if len(wanted) == 1 and wanted[0].strip():
        yield wanted[0]
    shared = _shared(wanted)
    if shared:
        yield f"{shared}.*"
    if glob.strip():
        yield _with_indices(wanted, glob)


def _shared(names: Sequence[str]) -> str:
    """Return the leading components that all names have, without the last of any."""
    first, last = min(names).split("."), max(names).split(".")
    same = next((at for at, pair in enumerate(zip(first, last, strict=False)) if pair[0] != pair[1]), len(first))
    parts = first[: min(same, *(name.count(".") for name in names))]
    return ".".join(parts) if all(name.split(".")[: len(parts)] == parts for name in names) else ""


def _with_indices(wanted: Sequence[str], glob: str) -> str:
    """Return a regular expression like the glob that has the indices of the wanted names in the place of each "*"."""
    parts, written = glob.split("."), []
    for place, part in enumerate(parts):
        found = sorted({name.split(".")[place] for name in wanted if name.count(".") >= place})
        if part == "*" and found and all(index.isdecimal() for index in found):
            written.append(_numbers([int(index) for index in found]))
        else:
            written.append(".*" if part == "*" else _escape(part))
    deeper = parts[-1] == "*" and written[-1] != ".*" and any(name.count(".") >= len(parts) for name in wanted)
    return "re:" + r"\.".join(written) + (r"\..*" if deeper else "")


def _numbers(indices: Sequence[int]) -> str:
    """Write whole numbers as a regular expression, runs of them within one ten as a class: "[4-9]|1[0-9]|20"."""
    tens: dict[int, list[int]] = {}
    for index in sorted(set(indices)):
        tens.setdefault(index // 10, []).append(index % 10)
    parts = [f"{ten or ''}{_digits(digits)}" for ten, digits in tens.items()]
    return parts[0] if len(parts) == 1 else f"(?:{'|'.join(parts)})"


def _digits(digits: Sequence[int]) -> str:
    if len(digits) == 1:
        return str(digits[0])
    run = digits[-1] - digits[0] + 1 == len(digits) > 2
    return f"[{digits[0]}-{digits[-1]}]" if run else f"[{''.join(map(str, digits))}]"


def _escape(text: str) -> str:
    return "".join(char if char.isalnum() or char == "_" else f"\\{char}" for char in text)


__all__ = ["NodeNames", "node_pattern", "rules_said", "with_dense", "with_int4"]
