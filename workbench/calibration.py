"""Calibration text, and the second moments of what the layers of a model see of it.

A forward pass runs on the caller's thread; hooks act on that thread alone, so that others may use the model meanwhile.
"""

from __future__ import annotations

import inspect
import os
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from workbench.errors import Cancelled, ConfigError, ModelError
from workbench.layers import get_layer, model_device
from workbench.solvers import InputMoments

_Key = TypeVar("_Key")

SEQUENCE_LENGTH = 512
MAX_SEQUENCES = 128
_LEAST_TOKENS = 2
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
        if not good or self.ids.shape[0] < 1 or self.ids.shape[1] < _LEAST_TOKENS:
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
    ) -> Calibration:
        """Cut a text, or several one after the other, into sequences of tokens.

        Args:
            text: What the model is going to see: the closer to its real use, the better.
            tokenizer: The model's own.
            sequence_length: Tokens of a sequence; a text that is shorter becomes one shorter sequence.
            max_sequences: Most sequences, from the beginning of the text.
            memory_limit: Most bytes for moments; None is half of what is free.

        Raises:
            ConfigError: for an empty text, one of fewer than 2 tokens, or no tokenizer.
        """
        if tokenizer is None:
            raise ConfigError("A calibration text without a tokenizer.", mend="pass the model's own tokenizer")
        for name, value in (("sequence_length", sequence_length), ("max_sequences", max_sequences)):
            least = _LEAST_TOKENS if name == "sequence_length" else 1
            if type(value) is not int or value < least:
                raise ConfigError(f"{name}={value!r}.", allowed=f"a whole number from {least}")
        whole = text if isinstance(text, str) else "\n\n".join(text)
        if not whole.strip():
            raise ConfigError(
                "The calibration text is empty.", mend="give some thousand words of what the model will see"
            )
        ids = torch.tensor(tokenizer(whole, verbose=False)["input_ids"], dtype=torch.int64)
        if len(ids) < _LEAST_TOKENS:
            raise ConfigError(
                f"The calibration text has {len(ids)} token.",
                allowed=f"at least {_LEAST_TOKENS}",
                mend="give some thousand words of what the model will see",
            )
        return cls(*_cut(ids, sequence_length, max_sequences), memory_limit)

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
        free = free_bytes()
        return None if free is None else int(free * _SHARE_OF_MEMORY)


def as_calibration(
    given: Calibration | str | Sequence[str] | Tensor | None, tokenizer: Any = None
) -> Calibration | None:
    """Return a calibration as it is, or made of a text (which needs a tokenizer) or of ids.

    Raises:
        ConfigError: for anything else, an empty text, or a text without a tokenizer.
    """
    if given is None or isinstance(given, Calibration):
        return given
    if isinstance(given, Tensor):
        return Calibration(given)
    if isinstance(given, str) or (isinstance(given, Sequence) and all(isinstance(part, str) for part in given)):
        return Calibration.from_text(given, tokenizer)
    raise ConfigError(f"calibration={given!r}.", allowed="a Calibration, a text, a list of texts, or ids int64 [S, T]")


def layer_moments(
    model: nn.Module,
    names: Sequence[str],
    calibration: Calibration,
    *,
    cancel: threading.Event | None = None,
    progress: Callable[[float], None] | None = None,
) -> dict[str, InputMoments]:
    """Collect the second moments of the inputs of some layers, with the model as it is (`iter_layer_moments`, run).

    Args:
        model: A model that takes token ids.
        names: Module paths of linear layers.
        calibration: The text.
        cancel: Set it to stop between sequences.
        progress: Called with the share of sequences done, 0 to 1.

    Raises:
        ConfigError: when memory cannot hold the moments.
        ModelError: when the model cannot be run on token ids.
        Cancelled: when `cancel` was set.
    """
    steps = iter_layer_moments(model, names, calibration, cancel=cancel)
    while True:
        try:
            share = next(steps)
        except StopIteration as end:
            moments: dict[str, InputMoments] = end.value
            return moments
        if progress is not None:
            progress(share)


def iter_layer_moments(
    model: nn.Module, names: Sequence[str], calibration: Calibration, *, cancel: threading.Event | None = None
) -> Generator[float, None, dict[str, InputMoments]]:
    """Collect the second moments of the inputs of some layers, with the model as it is, and return them at the end.

    Layers with the same input share theirs. A layer that the text does not reach has moments of 0 tokens.

    Args:
        model: A model that takes token ids.
        names: Module paths of linear layers.
        calibration: The text.
        cancel: Set it to stop before the next of these layers.

    Yields:
        The share of sequences done, 0 to 1.

    Raises:
        ConfigError: when memory cannot hold the moments.
        ModelError: when the model cannot be run on token ids.
        Cancelled: when `cancel` was set.
    """
    layers = {name: get_layer(model, name) for name in names}
    widths = {name: in_features(layer) for name, layer in layers.items()}
    calibration.hold_limit(max(widths.values(), default=1))
    batches = list(calibration.batches(model_device(model)))
    with evaluating(model):
        tap = InputTap(layers, cancel)
        with tap.probing():
            run_model(model, batches[0][:1])
        with tap.collecting():
            for done, batch in enumerate(batches, start=1):
                look(cancel)
                tap.run(lambda batch=batch: run_model(model, batch))  # type: ignore[misc]
                yield done / len(batches)
    return tap.moments()


class Reached(Exception):
    """Raised by a hook to end a forward pass of which all that matters has been seen."""


class InputTap:
    """Hooks that see the inputs of some layers: first which of them share one, then the moments.

    Attributes:
        calls: Names of the layers in the order of their first calls, after `probing`.
        leader: Name → the layer whose moments it shares (itself when it does not), after `probing`.
    """

    def __init__(self, layers: dict[str, nn.Module], cancel: threading.Event | None = None) -> None:
        """Watch `layers`, by name; once `cancel` is set, a forward pass ends at the next of them."""
        self.layers, self._cancel = layers, cancel
        self.calls: list[str] = []
        self.leader = {name: name for name in layers}
        self._moments: dict[str, InputMoments] = {}
        self._seen: dict[str, list[Tensor]] = {}
        self._wanted: frozenset[str] = frozenset(layers)
        self._repeated: frozenset[str] = frozenset()
        self._last = ""

    @contextmanager
    def probing(self) -> Iterator[None]:
        """Within, note the order of the calls and which layers get the very same tensor."""
        self._seen = {name: [] for name in self.layers}
        with self._hooks(self._note):
            yield
        self.calls = [name for name in self.calls if self._seen[name]]
        self._repeated = frozenset(name for name in self.calls if len(self._seen[name]) > 1)
        for place, name in enumerate(self.calls):
            for other in self.calls[:place]:
                if self.leader[other] == other and _same(self._seen[other], self._seen[name]):
                    self.leader[name] = other
                    break
        self._seen = {}

    @contextmanager
    def collecting(self, names: Iterable[str] | None = None) -> Iterator[None]:
        """Within, add up the moments of some layers (all of them by default)."""
        wanted = list(self.layers if names is None else names)
        self._wanted = frozenset(wanted)
        called = [name for name in self.calls if name in self._wanted]
        never = [name for name in wanted if name not in set(called)]  # in the probe: an expert may be reached later
        to_the_end = never or not called or self._repeated & self._wanted
        self._last = "" if to_the_end else called[-1]
        self._moments = {}
        for name in wanted:
            layer = self.layers[name]
            if self.leader[name] == name or self.leader[name] not in self._wanted:
                self.leader[name] = name
                self._moments[name] = InputMoments.empty(in_features(layer), model_device(layer))
        with self._hooks(self._add):
            yield

    def run(self, forward: Callable[[], Any]) -> None:
        """Run a forward pass as far as the last layer that is wanted."""
        self._seen = {name: [] for name in self._wanted}
        try:
            forward()
        except Reached:
            pass
        finally:
            self._seen = {}

    def moments(self) -> dict[str, InputMoments]:
        """Return the moments that were collected, by layer; the same object for layers that share an input."""
        return {name: self._moments[self.leader[name]] for name in self._wanted}

    def _note(self, name: str, inputs: Tensor) -> None:
        if not self._seen[name]:
            self.calls.append(name)
        self._seen[name].append(inputs)

    def _add(self, name: str, inputs: Tensor) -> None:
        if name not in self._wanted:
            return
        leader = self.leader[name]
        self._seen[name].append(inputs)
        if leader == name:
            self._moments[name].add(inputs)
        elif not _same(self._seen[leader][: len(self._seen[name])], self._seen[name]):
            raise ModelError(
                f"{name} shared its input with {leader} on the first sequence, and does not on another.",
                mend="solve one of the two with 'refined' by a rule of the recipe",
            )
        if name == self._last:
            raise Reached

    def _hooks(self, see: Callable[[str, Tensor], None]) -> AbstractContextManager[None]:
        def look_and_see(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            look(self._cancel)
            see(name, args[0] if args else kwargs["input"])

        return hooked(self.layers.items(), look_and_see)


@contextmanager
def hooked(
    modules: Iterable[tuple[_Key, nn.Module]], see: Callable[[_Key, tuple[Any, ...], dict[str, Any]], None]
) -> Iterator[None]:
    """Within, call `see` with a key and the arguments before each of some modules runs on this thread.

    Args:
        modules: Each with a key that it is known by.
        see: May raise, which ends the forward pass.
    """
    owner = threading.get_ident()

    def hook(key: _Key) -> Callable[..., None]:
        def before(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if threading.get_ident() == owner:
                see(key, args, kwargs)

        return before

    handles = [module.register_forward_pre_hook(hook(key), with_kwargs=True) for key, module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def run_model(model: nn.Module, ids: Tensor) -> None:
    """Run a transformers model on token ids, int64 [B, T].

    Raises:
        ModelError: when it cannot take them, with the mend.
    """
    takes = inspect.signature(model.forward).parameters
    config = getattr(model, "config", None)
    more: dict[str, Any] = {"use_cache": False} if "use_cache" in takes else {}
    if getattr(config, "is_encoder_decoder", False):
        more["decoder_input_ids"] = ids
    longest = getattr(config, "max_position_embeddings", None)
    if isinstance(longest, int) and 0 < longest < ids.shape[1]:
        raise ConfigError(
            f"Calibration sequences of {ids.shape[1]} tokens.",
            allowed=f"at most {longest}, which the model's positions reach",
            mend=f"use Calibration.from_text(text, tokenizer, sequence_length={longest})",
        )
    try:
        with torch.no_grad():
            model(input_ids=ids, **more)
    except (Reached, Cancelled, ConfigError, ModelError):
        raise
    except Exception as error:  # an image or speech model raises whatever it likes; the person needs the reason
        raise ModelError(
            f"{type(model).__name__} cannot be run on calibration text: {error}",
            allowed="models that take token ids",
            mend="use solver='refined', which looks at the weights alone",
        ) from error


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Within, the model is in evaluation mode: no dropout."""
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


def look(cancel: threading.Event | None) -> None:
    """Stop where `cancel` is set.

    Raises:
        Cancelled: when it is.
    """
    if cancel is not None and cancel.is_set():
        raise Cancelled("Calibrating was cancelled.", mend="start it again; nothing was changed")


def in_features(layer: nn.Module) -> int:
    """Return K of a linear layer."""
    return int(layer.in_features)  # type: ignore[arg-type]


def free_bytes() -> int | None:
    """Return the memory that this machine has left, in bytes; None where it does not tell."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:  # noqa: PTH123
            for line in file:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None


def _cut(ids: Tensor, length: int, most: int) -> tuple[Tensor, tuple[str, ...]]:
    if len(ids) < length:
        return ids[None], (f"the text has {len(ids)} tokens, fewer than a sequence of {length}: one shorter sequence",)
    count = len(ids) // length
    used = min(count, most)
    notes = []
    if len(ids) > used * length:
        notes.append(f"{used * length} of the text's {len(ids)} tokens are used: {used} sequences of {length}")
    return ids[: used * length].view(used, length), tuple(notes)


def _same(one: Sequence[Tensor], other: Sequence[Tensor]) -> bool:
    return len(one) == len(other) and all(a is b for a, b in zip(one, other, strict=True))
