"""What an export target says about itself, and whether a model fits it: known before a value is read or solved."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from workbench.checkpoint.contents import Contents, Outline
from workbench.checkpoint.native import ModuleFormat
from workbench.errors import CheckpointError
from workbench.solving import SolvedLayer
from workbench.targets.companions import Companions

State = Literal["exact", "rounded", "refused"]
STATES: tuple[State, ...] = ("exact", "rounded", "refused")
_NAMED = 3


@dataclass(frozen=True)
class Misfit:
    """Why some layers, or the model, do not fit a target.

    Attributes:
        what: The value that does not fit, for instance "zero_point_domain float".
        allowed: What the target holds.
        mend: What a person can do.
        layers: The layers; () for the model as a whole.
        change: Settings of those layers that would fit, as `Session.configure` takes them; {} where none would.
    """

    what: str
    allowed: str
    mend: str
    layers: tuple[str, ...] = ()
    change: Mapping[str, Any] = field(default_factory=dict)

    @property
    def brief(self) -> str:
        """The misfit in a few words, for a table."""
        where = f" in {len(self.layers)} layers" if self.layers else ""
        return f"{self.what}{where}: it holds {self.allowed}"

    def __str__(self) -> str:
        """The misfit as a sentence."""
        named = ", ".join(self.layers[:_NAMED]) + (" …" if len(self.layers) > _NAMED else "")
        where = f" ({len(self.layers)} layers: {named})" if self.layers else ""
        return f"{self.what}{where}; allowed: {self.allowed}; {self.mend}"


@dataclass(frozen=True)
class Fit:
    """Whether a target can hold a model under its recipe.

    Attributes:
        target: Name of the target.
        rounds: What is rounded, for instance "minimum to float16"; "" where codes, scales and zero points stay exact.
        misfits: Why it is refused; () when it is not.
        size_bytes: Forecast of the bytes of all tensors; 0 when it is refused.
        notes: What a person must know before exporting: which engine takes what.
    """

    target: str
    rounds: str = ""
    misfits: tuple[Misfit, ...] = ()
    size_bytes: int = 0
    notes: tuple[str, ...] = ()

    @property
    def state(self) -> State:
        """One of "exact", "rounded" and "refused"."""
        return "refused" if self.misfits else "rounded" if self.rounds else "exact"

    @property
    def mend(self) -> str:
        """What a person can do about what does not fit; "" where all fits."""
        return "; ".join(dict.fromkeys(misfit.mend for misfit in self.misfits))

    @property
    def change(self) -> dict[str, dict[str, Any]]:
        """Layer → settings that would make the target take it; {} when nothing is to change or no setting helps."""
        if any(not misfit.change for misfit in self.misfits):
            return {}
        changes: dict[str, dict[str, Any]] = {}
        for misfit in self.misfits:
            for name in misfit.layers:
                changes.setdefault(name, {}).update(misfit.change)
        return changes

    def __str__(self) -> str:
        """The verdict in a line."""
        if self.misfits:
            return f"refused: {'; '.join(map(str, self.misfits))}"
        return f"rounded: {self.rounds}" if self.rounds else "exact"

    def check(self) -> None:
        """Refuse what does not fit.

        Raises:
            CheckpointError: saying what does not fit, what the target holds, and the mend.
        """
        if not self.misfits:
            return
        first = self.misfits[0]
        named = ", ".join(first.layers[:_NAMED]) + (" …" if len(first.layers) > _NAMED else "")
        where = f" in {len(first.layers)} layers ({named})" if first.layers else ""
        more = f" And {len(self.misfits) - 1} more reasons: {'; '.join(map(str, self.misfits[1:]))}."
        raise CheckpointError(
            f"{self.target} cannot hold {first.what}{where}." + (more if len(self.misfits) > 1 else ""),
            allowed=first.allowed,
            mend=first.mend,
        )


@dataclass(frozen=True)
class Written:
    """One layer that was written.

    Attributes:
        name: Module path.
        max_error: Largest absolute difference between what the target's loader dequantizes and our weight, in weight
            units; it comes from rounding scales and zero points alone.
        solved: How it was solved, where that was done on the way.
    """

    name: str
    max_error: float
    solved: SolvedLayer | None = None


@dataclass(frozen=True)
class LoadLines:
    """How a person loads what was written.

    Attributes:
        python: Lines of Python, or "".
        shell: Lines for a shell, or "".
    """

    python: str = ""
    shell: str = ""


class Target(Protocol):
    """One export format."""

    @property
    def name(self) -> str:
        """As `wb.export(format=…)` takes it."""
        ...

    @property
    def title(self) -> str:
        """As a person reads it."""
        ...

    @property
    def engines(self) -> str:
        """What loads it."""
        ...

    @property
    def asked_later(self) -> str:
        """What `fit` does not ask where the files beside the weights are not at hand, "" for nothing."""
        ...

    def fit(self, outline: Outline, companions: Companions | None = None) -> Fit:
        """Say whether the target can hold a model; no value is read.

        Args:
            outline: What would be written.
            companions: The files beside the weights, where they are at hand.
        """
        ...

    def write(
        self, contents: Contents, outline: Outline, folder: Path, cancel: threading.Event | None = None
    ) -> Iterator[Written]:
        """Write everything that belongs to the format into an empty folder; yields each int4 layer.

        Raises:
            CheckpointError: when a value does not fit after all.
            Cancelled: when `cancel` was set.
        """
        ...

    def load_lines(self, directory: Path, outline: Outline) -> LoadLines:
        """Return the lines that load a folder that was written."""
        ...


def misfits_by(
    layers: Mapping[str, ModuleFormat],
    wrong: Callable[[ModuleFormat], bool],
    what: Callable[[ModuleFormat], str],
    *,
    allowed: str,
    mend: str,
    change: Mapping[str, Any] | None = None,
) -> list[Misfit]:
    """Return one misfit for each kind of wrong layer, with the layers of that kind."""
    found: dict[str, list[str]] = {}
    for name, form in layers.items():
        if wrong(form):
            found.setdefault(what(form), []).append(name)
    return [Misfit(said, allowed, mend, tuple(names), change or {}) for said, names in found.items()]


def domain_misfits(layers: Mapping[str, ModuleFormat], domains: Iterable[str]) -> list[Misfit]:
    """Refuse domains that a target cannot express, and offer to solve the layers again in one that it can."""
    held = tuple(domains)
    return misfits_by(
        layers,
        lambda form: form.domain not in held,
        lambda form: f"zero_point_domain {form.domain}",
        allowed=" or ".join(held),
        mend=f"quantize these layers again from the original weights with domain={held[0]!r} (--domain {held[0]})",
        change={"domain": held[0]},
    )
