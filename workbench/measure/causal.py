"""Causal language models as they are measured: which ones can be, their logits, and what can run side by side."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from workbench.errors import Cancelled, ConfigError, ModelError
from workbench.forward import hooked
from workbench.layers import model_device
from workbench.measure.divergence import check_finite

_SIDE_BY_SIDE_BYTES = 256e6  # float32 logits of a model and its reference, over all threads


@torch.no_grad()
def window_logits(model: nn.Module, ids: Tensor, name: str, place: int, cancel: threading.Event | None) -> Tensor:
    """Return what a model predicts for all tokens of a window but the first: any float dtype [T - 1, V], finite.

    Args:
        model: `model(input_ids=int64 [1, T], use_cache=False).logits` is [1, T, V].
        ids: int64 [T].
        name: What the model is called in errors.
        place: Place in the text of the window's first token.
        cancel: Set it to stop before the next layer.

    Raises:
        ModelError: for a model without logits, or with NaN or infinity in them.
        Cancelled: when `cancel` was set.
    """
    _look(cancel)
    with stoppable([model], cancel):
        output = model(input_ids=ids[None].to(model_device(model)), use_cache=False)
    logits = getattr(output, "logits", None)
    if not isinstance(logits, Tensor) or logits.ndim != 3 or logits.shape[:2] != (1, len(ids)):
        raise _no_logits(name, f"gives no logits [1, {len(ids)}, vocabulary]")
    check_finite(logits[0, :-1], name, place)
    return logits[0, :-1]


@contextlib.contextmanager
def stoppable(models: Iterable[nn.Module], cancel: threading.Event | None) -> Iterator[None]:
    """Within, a forward pass on this thread ends before its next layer once `cancel` is set: a pass may take seconds.

    Raises:
        Cancelled: out of that pass.
    """
    if cancel is None:
        yield
        return
    modules = [module for model in models for module in model.modules()]
    leaves = [module for module in dict.fromkeys(modules) if next(module.children(), None) is None]
    with hooked(((module, module) for module in leaves), lambda *_: _look(cancel)):
        yield


def _look(cancel: threading.Event | None) -> None:
    if cancel is not None and cancel.is_set():
        raise Cancelled("Measuring was cancelled.", mend="start it again; the models are as they were")


def check_model(model: nn.Module, name: str, ids: Tensor, window: int) -> None:
    """Refuse what a model would read beyond its tables, which on a GPU ends the whole process.

    Args:
        model: The model.
        name: What it is called in errors.
        ids: int64 [T].
        window: Tokens of the longest window.

    Raises:
        ConfigError: for a token that it does not know, or a window beyond its positions.
        ModelError: for a model that does not predict one token after the other.
    """
    if not isinstance(model, nn.Module):
        raise ConfigError(f"{name} is a {type(model).__name__}.", allowed="a live model, as load_model gives it")
    config = getattr(model, "config", None)
    if getattr(config, "is_encoder_decoder", False):
        raise _no_logits(name, "is an encoder with a decoder")
    most = getattr(config, "max_position_embeddings", None)
    if isinstance(most, int) and 0 < most < window:
        raise ConfigError(f"window={window} with {name}.", allowed=f"2 to {most} tokens, the model's positions")
    check_tokens(model, name, ids)


def check_tokens(model: nn.Module, name: str, ids: Tensor) -> None:
    """Refuse tokens that a model does not know.

    Args:
        model: The model.
        name: What it is called in errors.
        ids: int64 [T], at least one.

    Raises:
        ConfigError: with what it knows.
    """
    highest, lowest, size = int(ids.max()), int(ids.min()), vocabulary_size(model)
    if lowest < 0 or (size is not None and highest >= size):
        bad = lowest if lowest < 0 else highest
        allowed = "0 or more" if size is None else f"0 to {size - 1} for {name}"
        raise ConfigError(f"ids holds token {bad}.", allowed=allowed, mend="use the model's own tokenizer")


@torch.no_grad()
def check_causal(model: nn.Module, name: str) -> None:
    """Refuse a model that cannot be asked for the next token, or that looks at the tokens to come.

    The first of two tokens is followed by another one; what the model predicts after the first must stay.

    Args:
        model: The model, in evaluation mode.
        name: What it is called in errors.

    Raises:
        ModelError: with what it does instead, and for NaN or infinity in its logits.
    """
    device, size = model_device(model), vocabulary_size(model) or 3
    ids = torch.tensor([[0, 1], [0, min(2, size - 1)]], device=device)
    if getattr(getattr(model, "config", None), "is_encoder_decoder", False):
        raise _no_logits(name, "is an encoder with a decoder")
    try:
        found = [getattr(model(input_ids=one[None], use_cache=False), "logits", None) for one in ids]
    except Exception as error:  # any module may be given; what it says is passed on
        raise _no_logits(name, f"cannot be run on tokens ({type(error).__name__}: {error})") from error
    first, other = found
    if not isinstance(first, Tensor) or not isinstance(other, Tensor) or first.ndim != 3 or first.shape[:2] != (1, 2):
        raise _no_logits(name, "gives no logits of the next token")
    for logits in (first, other):
        check_finite(logits[0], name, 0)
    if not torch.allclose(first[0, 0].float(), other[0, 0].float(), rtol=0.02, atol=0.02 * float(first.std())):
        raise _no_logits(name, "looks at the tokens to come: it does not predict the next one")


def run_side_by_side(models: Iterable[nn.Module], window: int) -> bool:
    """Say whether windows can be measured by several threads at once, each alone (see `workers`).

    A small model's operations are so short that threads which share them wait most of the time. On the CPU, with
    logits that are small for all threads together; never with hooks, which need not bear it.

    Args:
        models: All that are run on a window.
        window: Tokens of a window.
    """
    for model in models:
        size = vocabulary_size(model)
        if size is None or any(tensor.device.type != "cpu" for tensor in (*model.parameters(), *model.buffers())):
            return False
        if 2 * 4 * window * size * torch.get_num_threads() > _SIDE_BY_SIDE_BYTES:
            return False
        if any(m._forward_hooks or m._forward_pre_hooks or hasattr(m, "_hf_hook") for m in model.modules()):
            return False
    return True


def vocabulary_size(model: nn.Module) -> int | None:
    """Return the number of tokens that a model can read, None where it does not say."""
    ask = getattr(model, "get_input_embeddings", None)
    return getattr(ask(), "num_embeddings", None) if callable(ask) else None


def _no_logits(name: str, what: str) -> ModelError:
    return ModelError(f"{name} {what}.", allowed="a causal language model, as load_model gives it")
