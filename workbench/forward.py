"""Forward passes over a text, to see what reaches the layers of a model, and to stop them half-way.

A pass runs on the caller's thread; hooks act on that thread alone, so that others may use the model meanwhile.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from workbench.errors import Cancelled, ConfigError, ModelError

_Key = TypeVar("_Key")


class Reached(Exception):
    """Raised by a hook to end a forward pass of which all that matters has been seen."""


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


@contextmanager
def looking(model: nn.Module, stop: Callable[[], None]) -> Iterator[None]:
    """Within, `stop` is called before each module of a model that holds a matrix runs on this thread.

    Args:
        model: Any.
        stop: May raise, which ends the forward pass.
    """
    heavy = (module for module in model.modules() if _holds_matrix(module))
    with hooked(((module, module) for module in heavy), lambda *_: stop()):
        yield


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
    longest = max_positions(config)
    if longest is not None and longest < ids.shape[1]:
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


def max_positions(config: Any) -> int | None:
    """Return how many tokens a transformers model takes at once; None where its configuration sets no limit."""
    most = getattr(config, "max_position_embeddings", None)
    return most if isinstance(most, int) and most > 0 else None


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


def _holds_matrix(module: nn.Module) -> bool:
    own = (*module.parameters(recurse=False), *module.buffers(recurse=False))
    return any(tensor.ndim > 1 for tensor in own)
