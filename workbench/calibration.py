"""Calibration text, and the second moments of what the layers of a model see of it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from workbench.errors import ConfigError
from workbench.forward import evaluating, look, looking, max_positions, run_model
from workbench.input_tap import InputTap, in_features
from workbench.layers import get_layer, model_device
from workbench.machine import free_memory_bytes
from workbench.solvers import InputMoments
from workbench.token_sequences import LEAST_TOKENS, MAX_SEQUENCES, SEQUENCE_LENGTH, text_sequences

_BATCH_TOKENS = {"cpu": 2048, "cuda": 16384}
_SOLVING_COPIES = 5  # of the moments, while a layer is solved: ordered, damped, factorized, inverted
_SHARE_OF_MEMORY = 0.5


@dataclass(frozen=True, eq=False)
class Calibration:
    """Token sequences of one length that show a solver what the layers of a model see.

    Attributes:
        ids: int64 [S, T].
        notes: What a person must know of how the text was cut.
        memory_limit: Most bytes for moments and what is made of them while a layer is solved; None is half of what
            is free when the work begins.

    Raises:
        ConfigError: for ids of another shape or dtype, or without two tokens to a sequence.
    """

    ids: Tensor
    notes: tuple[str, ...] = ()
    memory_limit: int | None = None

    def __post_init__(self) -> None:
        good = isinstance(self.ids, Tensor) and self.ids.ndim == 2 and self.ids.dtype == torch.int64
        if not good or self.ids.shape[0] < 1 or self.ids.shape[1] < LEAST_TOKENS:
            got = f"{self.ids.dtype} {list(self.ids.shape)}" if isinstance(self.ids, Tensor) else repr(self.ids)
            raise ConfigError(
                f"Calibration ids are {got}.",
                allowed="int64 [sequences, tokens], at least one sequence of 2 tokens",
                mend="use Calibration.from_text(text, tokenizer)",
            )

    @classmethod
    def from_text(
        cls,
        text: str | Iterable[str],
        tokenizer: Any,
        *,
        sequence_length: int = SEQUENCE_LENGTH,
        max_sequences: int = MAX_SEQUENCES,
        memory_limit: int | None = None,
        positions: int | None = None,
    ) -> Calibration:
        """Cut a text, or several one after the other, into sequences of tokens.

        Args:
            text: What the model is going to see: the closer to its real use, the better.
            tokenizer: The model's own.
            sequence_length: Tokens of a sequence; a text that is shorter becomes one shorter sequence.
            max_sequences: Most sequences, from the beginning of the text.
            memory_limit: Most bytes for moments; None is half of what is free.
            positions: Tokens that the model takes at once: longer sequences are shortened to it, which the notes say;
                None for no limit.

        Raises:
            ConfigError: for an empty text, one of fewer than 2 tokens, or no tokenizer.
        """
        ids, notes = text_sequences(
            text, tokenizer, sequence_length=sequence_length, max_sequences=max_sequences, positions=positions
        )
        return cls(ids, notes, memory_limit)

    @property
    def tokens(self) -> int:
        """Number of tokens."""
        return self.ids.numel()

    def __repr__(self) -> str:
        """Say how much there is."""
        return f"Calibration({self.ids.shape[0]} sequences of {self.ids.shape[1]} tokens)"

    def batches(self, device: torch.device) -> Iterator[Tensor]:
        """Yield the sequences on a device, some at a time: int64 [B, T]."""
        size = max(1, _BATCH_TOKENS.get(device.type, 2048) // self.ids.shape[1])
        for part in self.ids.split(size):
            yield part.to(device)

    def hold_limit(self, in_features: int) -> None:
        """Refuse moments that memory cannot hold, before any work.

        Args:
            in_features: K of the widest layer.

        Raises:
            ConfigError: with the forecast, what there is, and the mend.
        """
        need = (1 + _SOLVING_COPIES) * InputMoments.size_bytes(in_features)
        limit = self.limit_bytes()
        if limit is not None and need > limit:
            raise ConfigError(
                f"Calibrating a layer of {in_features} input features takes {need / 1e6:.0f} MB, "
                f"more than {limit / 1e6:.0f} MB.",
                allowed="layers whose moments fit: 4 bytes times the square of the input features, six times over",
                mend="solve that layer with 'refined' by a rule of the recipe, free memory, or raise memory_limit",
            )

    def limit_bytes(self) -> int | None:
        """Return the most bytes that moments may take; None when this machine does not tell."""
        if self.memory_limit is not None:
            return self.memory_limit
        free = free_memory_bytes()
        return None if free is None else int(free * _SHARE_OF_MEMORY)


def as_calibration(
    given: Calibration | str | Sequence[str] | Tensor | None, tokenizer: Any = None, model: nn.Module | None = None
) -> Calibration | None:
    """Return a calibration as it is, or made of ids, or of a text (which needs a tokenizer): as long as `model` takes.

    Raises:
        ConfigError: for anything else, an empty text, or a text without a tokenizer.
    """
    if given is None or isinstance(given, Calibration):
        return given
    if isinstance(given, Tensor):
        return Calibration(given)
    if isinstance(given, str) or (isinstance(given, Sequence) and all(isinstance(part, str) for part in given)):
        return Calibration.from_text(given, tokenizer, positions=max_positions(getattr(model, "config", None)))
    raise ConfigError(f"calibration={given!r}.", allowed="a Calibration, a text, a list of texts, or ids int64 [S, T]")


def layer_moments(
    model: nn.Module,
    names: Sequence[str],
    calibration: Calibration,
    *,
    cancel: threading.Event | None = None,
    progress: Callable[[float], None] | None = None,
) -> dict[str, InputMoments]:
    """Collect the second moments of the inputs of some layers, with the model as it is (`MomentRun`, to its end).

    Args:
        model: A model that takes token ids.
        names: Module paths of linear layers.
        calibration: The text.
        cancel: Set it to stop before the next layer, or panel of a layer's moments.
        progress: Called with the share of sequences done, 0 to 1.

    Raises:
        ConfigError: when memory cannot hold the moments.
        ModelError: when the model cannot be run on token ids.
        Cancelled: when `cancel` was set.
    """
    run = MomentRun(model, names, calibration)
    for share in run.steps(cancel):
        if progress is not None:
            progress(share)
    return run.moments()


class MomentRun:
    """The second moments of what some layers see of a text, batch by batch; one that was stopped can go on.

    Layers with the same input share theirs. A layer that the text does not reach has moments of 0 tokens. A batch that
    was stopped half-way is run again, and what it gave the moments before counts once: the same bits come out.

    Args:
        model: A model that takes token ids; as it is now, until the last step.
        names: Module paths of linear layers.
        calibration: The text.

    Raises:
        ConfigError: when memory cannot hold the moments.
    """

    def __init__(self, model: nn.Module, names: Sequence[str], calibration: Calibration) -> None:
        layers = {name: get_layer(model, name) for name in names}
        calibration.hold_limit(max(map(in_features, layers.values()), default=1))
        self._model, self._tap = model, InputTap(layers)
        self._batches = list(calibration.batches(model_device(model)))
        self._probed, self._done = False, 0

    @property
    def share(self) -> float:
        """The share of sequences that are added whole, 0 to 1."""
        return self._done / len(self._batches)

    def steps(self, cancel: threading.Event | None = None) -> Iterator[float]:
        """Yield the share of sequences done, 0 to 1, after each batch that is left.

        Args:
            cancel: Set it to stop before the next layer, or panel of a layer's moments.

        Raises:
            ModelError: when the model cannot be run on token ids.
            Cancelled: when `cancel` was set.
        """
        stop = partial(look, cancel)
        with evaluating(self._model), looking(self._model, stop):
            if not self._probed:
                with self._tap.probing():
                    run_model(self._model, self._batches[0][:1])
                self._tap.begin()
                self._probed = True
            with self._tap.collecting(stop):
                for batch in self._batches[self._done :]:
                    stop()
                    self._tap.run(partial(run_model, self._model, batch))
                    self._done += 1
                    yield self.share

    def moments(self) -> dict[str, InputMoments]:
        """Return the moments by layer, after the last step; the same object for layers that share an input."""
        return self._tap.moments()
