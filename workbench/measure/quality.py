"""How well a model predicts a text, and how far its predictions are from those of a reference on the same text.

The text is one stream of tokens, cut into windows that do not overlap; in each, every token but the first is predicted
from those before it. A model and its reference are compared position by position over the whole vocabulary, which
sees far smaller differences than perplexity does.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from workbench.errors import ConfigError, ModelError
from workbench.forward import evaluating
from workbench.measure.causal import check_model, run_side_by_side, window_logits
from workbench.measure.divergence import TokenSums, token_sums
from workbench.measure.intervals import mean_interval
from workbench.records.progress import Progress
from workbench.records.quality import Quality
from workbench.workers import in_order

DEFAULT_WINDOW = 512
_REFERENCE = "the reference"


@dataclass(frozen=True)
class QualityStep:
    """One step of long work.

    Attributes:
        progress: Where the work stands after this window.
        qualities: Quality of each model over the windows so far; the last step holds the result.
        sums: Sums of each model over the tokens of this window.
        reference: Sums of the reference over the tokens of this window, or None.
    """

    progress: Progress
    qualities: dict[str, Quality]
    sums: dict[str, TokenSums]
    reference: TokenSums | None


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
    first: int = 0,
) -> Iterator[QualityStep]:
    """Yield after each window what `measure_qualities` knows by then; the models do without dropout until the end.

    `first` is the place of the first token in its text, for errors.

    Beside the models, the logits of the reference and of one model are held for one window, in the dtype they come in;
    where they are small, each thread holds those of a window of its own (see `causal.run_side_by_side`).
    """
    windows = token_windows(ids, window)
    tally = _Tally(models, reference, len(windows[0]), len(ids) - sum(len(part) for part in windows))
    for name, model in tally.everyone:
        check_model(model, name, ids, len(windows[0]))
    places = itertools.accumulate((len(part) for part in windows[:-1]), initial=first)
    work = list(zip(places, windows, strict=True))
    start = time.monotonic()
    with contextlib.ExitStack() as stack:
        for _, model in tally.everyone:
            stack.enter_context(evaluating(model))
        measure = functools.partial(_measure_window, models, reference, cancel)
        together = run_side_by_side([model for _, model in tally.everyone], len(windows[0]))
        results = in_order(measure, work) if together else (measure(one) for one in work)
        stack.enter_context(contextlib.closing(results))
        for done, (base, sums) in enumerate(results, start=1):
            tally.add(base, sums)
            elapsed = time.monotonic() - start
            remaining = elapsed * (len(work) - done) / done
            progress = Progress(done, len(work), f"window {done} of {len(work)}", elapsed, remaining)
            yield QualityStep(progress, tally.qualities(), sums, base)


def _measure_window(
    models: Mapping[str, nn.Module],
    reference: nn.Module | None,
    cancel: threading.Event | None,
    work: tuple[int, Tensor],
) -> tuple[TokenSums | None, dict[str, TokenSums]]:
    """Return the sums of the reference and of each model over a window that begins at a place of the text."""
    place, ids = work
    targets, base, base_sums = ids[1:], None, None
    if reference is not None:
        base = window_logits(reference, ids, _REFERENCE, place, cancel)
        base_sums = token_sums(base, targets)
    sums = {}
    for name, model in models.items():
        logits = window_logits(model, ids, name, place, cancel)
        if base is not None and base.shape != logits.shape:
            raise ModelError(
                f"{name} has a vocabulary of {logits.shape[-1]} tokens, the reference one of {base.shape[-1]}.",
                allowed="models of one vocabulary",
            )
        sums[name] = token_sums(logits, targets, base)
    return base_sums, sums


class _Tally:
    """The windows so far, and what follows from them."""

    def __init__(
        self, models: Mapping[str, nn.Module], reference: nn.Module | None, window: int, left_out: int
    ) -> None:
        if not models:
            raise ConfigError("There is no model to measure.", allowed="at least one")
        self.everyone = [*models.items(), *([] if reference is None else [(_REFERENCE, reference)])]
        self._window, self._left_out = window, left_out
        self._base: list[TokenSums] = []
        self._sums: dict[str, list[TokenSums]] = {name: [] for name in models}

    def add(self, base: TokenSums | None, sums: dict[str, TokenSums]) -> None:
        """Take a window; `base` is the reference's."""
        if base is not None:
            self._base.append(base)
        for name, one in sums.items():
            self._sums[name].append(one)

    def qualities(self) -> dict[str, Quality]:
        """Return the quality of each model."""
        return {name: self._quality(sums) for name, sums in self._sums.items()}

    def _quality(self, sums: list[TokenSums]) -> Quality:
        tokens = sum(one.tokens for one in sums)
        nats = math.fsum(one.nats for one in sums) / tokens
        compared: dict[str, Any] = {}
        if self._base:
            compared = {
                "reference_perplexity": _perplexity(math.fsum(one.nats for one in self._base) / tokens),
                "mean_kl": math.fsum(one.kl for one in sums) / tokens,
                "kl_interval": mean_interval([one.kl for one in sums], [one.tokens for one in sums]),
                "top1_agreement": sum(one.agree for one in sums) / tokens,
            }
        return Quality(_perplexity(nats), nats, tokens, len(sums), self._window, self._left_out, **compared)


def _perplexity(nats: float) -> float:
    return math.exp(nats) if nats < 700 else math.inf
