"""How well a model predicts a text, and how far its predictions are from those of a reference on the same text.

The text is one stream of tokens, cut into windows that do not overlap; in each, every token but the first is predicted
from those before it. A model and its reference are compared position by position over the whole vocabulary, which
sees far smaller differences than perplexity does.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from workbench.calibration import evaluating
from workbench.errors import Cancelled, ConfigError, ModelError
from workbench.measure.divergence import TokenSums, check_finite, token_sums
from workbench.measure.intervals import mean_interval
from workbench.quantize import model_device
from workbench.records import Progress, Quality

DEFAULT_WINDOW = 512


@dataclass(frozen=True)
class QualityStep:
    """One step of long work.

    Attributes:
        progress: Where the work stands after this window.
        qualities: Quality of each model over the windows so far; the last step holds the result.
    """

    progress: Progress
    qualities: dict[str, Quality]


def text_ids(text: str, tokenizer: Any) -> Tensor:
    """Return the tokens of a text, int64 [T] with T at least 2.

    Args:
        text: What to measure on.
        tokenizer: The model's own, as `load_model` gives it.

    Raises:
        ConfigError: without a tokenizer, or for a text that is blank or shorter than 2 tokens.
    """
    if tokenizer is None:
        raise ConfigError("There is no tokenizer to read the text with.", mend="pass the model's own tokenizer")
    mend = "pass more text, a page at least"
    if not isinstance(text, str) or not text.strip():
        raise ConfigError(f"The text is {text!r:.60}.", allowed="text of at least 2 tokens", mend=mend)
    ids = torch.tensor(tokenizer(text, verbose=False)["input_ids"], dtype=torch.int64)
    if len(ids) < 2:
        raise ConfigError(f"The text {text!r:.60} has {len(ids)} token.", allowed="at least 2 tokens", mend=mend)
    return ids


def token_windows(ids: Tensor, window: int) -> list[Tensor]:
    """Cut tokens into windows that do not overlap; a last one of a single token is left out (see `Quality`).

    Args:
        ids: int64 [T], at least 2 tokens.
        window: Tokens of a window, 2 or more; the last one may be shorter.

    Returns:
        Views of `ids`, int64 [2..window] each.

    Raises:
        ConfigError: for tokens or a window that cannot be used.
    """
    if not isinstance(ids, Tensor) or ids.ndim != 1 or ids.dtype != torch.int64 or len(ids) < 2:
        found = f"{ids.dtype} {list(ids.shape)}" if isinstance(ids, Tensor) else type(ids).__name__
        raise ConfigError(f"ids is {found}.", allowed="int64 [T] with at least 2 tokens", mend="use text_ids")
    if type(window) is not int or window < 2:
        raise ConfigError(f"window={window!r}.", allowed="a whole number of tokens, 2 or more")
    return [part for part in ids.split(window) if len(part) >= 2]


def measure_quality(
    model: nn.Module,
    ids: Tensor,
    *,
    reference: nn.Module | None = None,
    window: int = DEFAULT_WINDOW,
    progress: Callable[[Progress], None] | None = None,
    cancel: threading.Event | None = None,
) -> Quality:
    """Measure the perplexity of a model on a text, and with a reference the divergence from it.

    Args:
        model: A causal language model: `model(input_ids=int64 [1, T], use_cache=False).logits` is [1, T, vocabulary].
        ids: Tokens of the text, int64 [T]; `workbench.measure.quality.text_ids` makes them.
        reference: The model before quantization, of the same vocabulary.
        window: Tokens of a window; every token but the first of a window is predicted from those before it.
        progress: Called after each window.
        cancel: Set it to stop before the next forward pass.

    Returns:
        Perplexity, and with a reference KL(reference || model), its 95 % interval and the agreement; print it.

    Raises:
        ConfigError: for tokens or a window that the model cannot take.
        ModelError: for a model without logits, with NaN or infinity in them, or of another vocabulary.
        Cancelled: when `cancel` was set.
    """
    found = measure_qualities(
        {"the model": model}, ids, reference=reference, window=window, progress=progress, cancel=cancel
    )
    return found["the model"]


def measure_qualities(
    models: Mapping[str, nn.Module],
    ids: Tensor,
    *,
    reference: nn.Module | None = None,
    window: int = DEFAULT_WINDOW,
    progress: Callable[[Progress], None] | None = None,
    cancel: threading.Event | None = None,
) -> dict[str, Quality]:
    """Measure several models in one pass, as `measure_quality` does: the reference runs once for each window."""
    steps = iter_quality(models, ids, reference=reference, window=window, cancel=cancel)
    for step in steps:
        if progress is not None:
            progress(step.progress)
    return step.qualities


def iter_quality(
    models: Mapping[str, nn.Module],
    ids: Tensor,
    *,
    reference: nn.Module | None = None,
    window: int = DEFAULT_WINDOW,
    cancel: threading.Event | None = None,
) -> Iterator[QualityStep]:
    """Yield after each window what `measure_qualities` knows by then.

    Beside the models, the logits of the reference and of one model are held for one window, in the dtype they come in.
    """
    windows = token_windows(ids, window)
    _check_models(models, reference, ids, len(windows[0]))
    left_out = len(ids) - sum(len(part) for part in windows)
    sums: dict[str, list[TokenSums]] = {name: [] for name in models}
    base_sums: list[TokenSums] = []
    start, place = time.monotonic(), 0
    for done, part in enumerate(windows, start=1):
        base = None
        if reference is not None:
            base = _logits(reference, part, "the reference", place, cancel)
            base_sums.append(token_sums(base, part[1:]))
        for name, model in models.items():
            logits = _logits(model, part, name, place, cancel)
            sums[name].append(_compared(logits, part[1:], base, name))
        place += len(part)
        elapsed = time.monotonic() - start
        remaining = elapsed * (len(windows) - done) / done
        progress = Progress(done, len(windows), f"window {done} of {len(windows)}", elapsed, remaining)
        yield QualityStep(progress, {n: _quality(own, base_sums, len(windows[0]), left_out) for n, own in sums.items()})


def _compared(logits: Tensor, targets: Tensor, base: Tensor | None, name: str) -> TokenSums:
    if base is not None and base.shape != logits.shape:
        raise ModelError(
            f"{name} has a vocabulary of {logits.shape[-1]} tokens, the reference one of {base.shape[-1]}.",
            allowed="models of one vocabulary",
        )
    return token_sums(logits, targets, base)


@torch.no_grad()
def _logits(model: nn.Module, ids: Tensor, name: str, place: int, cancel: threading.Event | None) -> Tensor:
    """Return what the model predicts for all tokens but the first, any float dtype [T - 1, V], finite."""
    if cancel is not None and cancel.is_set():
        raise Cancelled("Measuring was cancelled.", mend="start it again; the models are as they were")
    with evaluating(model):
        output = model(input_ids=ids[None].to(model_device(model)), use_cache=False)
    logits = getattr(output, "logits", None)
    if not isinstance(logits, Tensor) or logits.ndim != 3 or logits.shape[:2] != (1, len(ids)):
        raise _no_logits(name, f"gives no logits [1, {len(ids)}, vocabulary]")
    check_finite(logits[0, :-1], name, place)
    return logits[0, :-1]


def _quality(sums: list[TokenSums], base: list[TokenSums], window: int, left_out: int) -> Quality:
    """Make a record of the windows so far; `base` is empty without a reference."""
    tokens = sum(one.tokens for one in sums)
    nats = math.fsum(one.nats for one in sums) / tokens
    compared: dict[str, Any] = {}
    if base:
        compared = {
            "reference_perplexity": _perplexity(math.fsum(one.nats for one in base) / tokens),
            "mean_kl": math.fsum(one.kl for one in sums) / tokens,
            "kl_interval": mean_interval([one.kl for one in sums], [one.tokens for one in sums]),
            "top1_agreement": sum(one.agree for one in sums) / tokens,
        }
    return Quality(_perplexity(nats), nats, tokens, len(sums), window, left_out, **compared)


def _perplexity(nats: float) -> float:
    return math.exp(nats) if nats < 700 else math.inf


def _check_models(models: Mapping[str, nn.Module], reference: nn.Module | None, ids: Tensor, window: int) -> None:
    """Refuse what a model would read out of its tables, which on a GPU ends the whole process."""
    if not models:
        raise ConfigError("There is no model to measure.", allowed="at least one")
    highest, lowest = int(ids.max()), int(ids.min())
    for name, model in [*models.items(), *([] if reference is None else [("the reference", reference)])]:
        if not isinstance(model, nn.Module):
            raise ConfigError(f"{name} is a {type(model).__name__}.", allowed="a live model, as load_model gives it")
        config = getattr(model, "config", None)
        if getattr(config, "is_encoder_decoder", False):
            raise _no_logits(name, "is an encoder with a decoder")
        most = getattr(config, "max_position_embeddings", None)
        if isinstance(most, int) and 0 < most < window:
            raise ConfigError(f"window={window} with {name}.", allowed=f"2 to {most} tokens, the model's positions")
        size = _vocabulary(model)
        if lowest < 0 or (size is not None and highest >= size):
            bad = lowest if lowest < 0 else highest
            allowed = "0 or more" if size is None else f"0 to {size - 1} for {name}"
            raise ConfigError(f"ids holds token {bad}.", allowed=allowed, mend="use the model's own tokenizer")


def _vocabulary(model: nn.Module) -> int | None:
    """Return the number of tokens that a model can read, None where it does not say."""
    ask = getattr(model, "get_input_embeddings", None)
    return getattr(ask(), "num_embeddings", None) if callable(ask) else None


def _no_logits(name: str, what: str) -> ModelError:
    return ModelError(f"{name} {what}.", allowed="a causal language model, as load_model gives it")
