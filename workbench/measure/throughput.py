"""How many tokens a second a model reads and writes, int4 and dense: measured on this machine with its own `generate`.

Greedy, one sequence, with a key-value cache, on a prompt of fixed random tokens; the end of a text does not stop it.
Both speeds come from the same call and are kept apart by the clock, which `generate` stops at each token that it hands
out: from the prompt to the first new token is the prefill (one forward pass over the prompt, which fills the cache,
logits of its last position only), from each new token to the next is one step of decoding.

Models take turns call by call, so that a drift of the machine hits all alike.
"""

from __future__ import annotations

import contextlib
import itertools
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from workbench.errors import Cancelled, ConfigError, ModelError
from workbench.forward import evaluating
from workbench.layers import model_device
from workbench.measure.causal import check_model, vocabulary_size
from workbench.measure.throughput_report import ModelThroughput, ThroughputReport
from workbench.measure.timing import Environment, environment
from workbench.records.progress import Progress

DEFAULT_PROMPT_TOKENS, DEFAULT_NEW_TOKENS, DEFAULT_ROUNDS = 256, 32, 5
_ONE = "the model"


@dataclass(frozen=True)
class ThroughputStep:
    """One step of long work.

    Attributes:
        progress: Where the work stands after this turn of one model.
        report: All turns so far; None until each model had one. The last step holds the result.
    """

    progress: Progress
    report: ThroughputReport | None


def measure_throughput(
    models: nn.Module | Mapping[str, nn.Module],
    *,
    prompt_tokens: int = DEFAULT_PROMPT_TOKENS,
    new_tokens: int = DEFAULT_NEW_TOKENS,
    rounds: int = DEFAULT_ROUNDS,
    progress: Callable[[Progress], None] | None = None,
    cancel: threading.Event | None = None,
) -> ThroughputReport:
    """Measure the tokens per second that models read (prefill) and write (decode), one sequence at a time.

    Args:
        models: A causal language model as `load_model` gives it, or several by name; each runs where it is.
        prompt_tokens: Tokens of the prompt.
        new_tokens: Timed steps of decoding in each turn; one token more is generated, which ends the prefill.
        rounds: Timed turns of each model. One turn of each comes first and is not counted.
        progress: Called after each turn.
        cancel: Set it to stop before the next token.

    Returns:
        Medians and percentiles of each model; print it.

    Raises:
        ConfigError: for sizes that cannot be measured.
        ModelError: for a model that does not generate text.
        Cancelled: when `cancel` was set.
    """
    steps = iter_throughput(models, prompt_tokens=prompt_tokens, new_tokens=new_tokens, rounds=rounds, cancel=cancel)
    for step in steps:
        if progress is not None:
            progress(step.progress)
    assert step.report is not None, "every model had all its turns"
    return step.report


def iter_throughput(
    models: nn.Module | Mapping[str, nn.Module],
    *,
    prompt_tokens: int = DEFAULT_PROMPT_TOKENS,
    new_tokens: int = DEFAULT_NEW_TOKENS,
    rounds: int = DEFAULT_ROUNDS,
    cancel: threading.Event | None = None,
) -> Iterator[ThroughputStep]:
    """Yield after each turn what `measure_throughput` knows by then; the models do without dropout until the end."""
    named = dict(models) if isinstance(models, Mapping) else {_ONE: models}
    ids = _checked_prompt(named, prompt_tokens, new_tokens, rounds)
    where = environment(model_device(next(iter(named.values()))).type)
    timed = {name: _Turns() for name in named}
    order, done, start = list(named), 0, time.monotonic()
    with contextlib.ExitStack() as stack:
        for model in named.values():
            stack.enter_context(evaluating(model))
        for turn in range(rounds + 1):
            for name in order:
                prefill, steps = _turn(named[name], ids, new_tokens, cancel)
                if turn > 0:  # the first one warms up
                    timed[name].add(prefill, steps)
                done += 1
                elapsed, total = time.monotonic() - start, (rounds + 1) * len(named)
                left = elapsed * (total - done) / done
                yield ThroughputStep(
                    Progress(done, total, name, elapsed, left), _report(named, timed, prompt_tokens, new_tokens, where)
                )
            order.reverse()


@dataclass
class _Turns:
    """What was timed of one model, in seconds."""

    prefill: list[float] = field(default_factory=list)
    decode: list[float] = field(default_factory=list)

    def add(self, prefill: float, steps: Sequence[float]) -> None:
        self.prefill.append(prefill)
        self.decode += steps


class _Clock:
    """Stands where a streamer of transformers does: told of the prompt, then of each new token once it is known."""

    def __init__(self, cancel: threading.Event | None) -> None:
        self.times: list[float] = []
        self._cancel = cancel

    def put(self, _tokens: Tensor) -> None:
        self.times.append(time.perf_counter())
        if self._cancel is not None and self._cancel.is_set():
            raise Cancelled("Measuring was cancelled.", mend="start it again; the models are as they were")

    def end(self) -> None:
        """Nothing is left to do after the last token."""


def _turn(model: nn.Module, ids: Tensor, new_tokens: int, cancel: threading.Event | None) -> tuple[float, list[float]]:
    """Generate once; return the seconds of the prefill and of each step of decoding."""
    clock, ids, count = _Clock(cancel), ids.to(model_device(model)), new_tokens + 1
    greedy = {"do_sample": False, "num_beams": 1, "temperature": None, "top_p": None, "top_k": None}
    model.generate(  # type: ignore[operator]
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=count,
        min_new_tokens=count,
        pad_token_id=0,
        use_cache=True,
        streamer=clock,
        **greedy,
    )
    times = clock.times
    assert len(times) == count + 1, "a streamer gets the prompt and every token"
    return times[1] - times[0], [after - before for before, after in itertools.pairwise(times[1:])]


def _report(
    models: Mapping[str, nn.Module], timed: Mapping[str, _Turns], prompt: int, new: int, where: Environment
) -> ThroughputReport | None:
    if not all(turns.prefill for turns in timed.values()):
        return None
    found = tuple(_throughput(name, model, timed[name], prompt) for name, model in models.items())
    return ThroughputReport(found, prompt, new, where)


def _throughput(name: str, model: nn.Module, turns: _Turns, prompt_tokens: int) -> ModelThroughput:
    prefill_ms, decode_ms = statistics.median(turns.prefill) * 1e3, statistics.median(turns.decode) * 1e3
    return ModelThroughput(
        name=name,
        prefill_tokens_per_s=prompt_tokens / prefill_ms * 1e3,
        prefill_ms=prefill_ms,
        prefill_p10_ms=_percentile_ms(turns.prefill, 10),
        prefill_p90_ms=_percentile_ms(turns.prefill, 90),
        prefill_runs=len(turns.prefill),
        decode_tokens_per_s=1e3 / decode_ms,
        decode_ms=decode_ms,
        decode_p10_ms=_percentile_ms(turns.decode, 10),
        decode_p90_ms=_percentile_ms(turns.decode, 90),
        decode_runs=len(turns.decode),
        weight_bytes=weight_bytes(model),
    )


def _percentile_ms(seconds: Sequence[float], percent: int) -> float:
    return sorted(seconds)[len(seconds) * percent // 100] * 1e3


def weight_bytes(model: nn.Module) -> int:
    """Return the bytes of all parameters and buffers, each counted once; those inside a wrapping tensor are seen."""
    return sum(_tensor_bytes(tensor) for tensor in (*model.parameters(), *model.buffers()))


def _tensor_bytes(tensor: Tensor) -> int:
    if hasattr(tensor, "__tensor_flatten__"):
        return sum(_tensor_bytes(getattr(tensor, name)) for name in tensor.__tensor_flatten__()[0])
    return tensor.numel() * tensor.element_size()


def _checked_prompt(models: Mapping[str, nn.Module], prompt_tokens: int, new_tokens: int, rounds: int) -> Tensor:
    """Return the tokens of the prompt, int64 [1, prompt_tokens], that every model can go on from."""
    for name, value in {"prompt_tokens": prompt_tokens, "new_tokens": new_tokens, "rounds": rounds}.items():
        if type(value) is not int or value < 1:
            raise ConfigError(f"{name}={value!r}.", allowed="a whole number, 1 or more")
    if not models:
        raise ConfigError("There is no model to measure.", allowed="at least one")
    sizes = [vocabulary_size(model) or 2 for model in models.values() if isinstance(model, nn.Module)]
    ids = torch.randint(min(sizes, default=2), (1, prompt_tokens), generator=torch.Generator().manual_seed(0))
    for name, model in models.items():
        check_model(model, name, ids[0], 0)
        if hasattr(model, "_orig_mod"):
            raise ModelError(
                f"{name} is what torch.compile returned, whose generate runs uncompiled.",
                mend="compile it in place, with model.compile() or workbench.compile_model",
            )
        if not callable(getattr(model, "generate", None)):
            raise ModelError(f"{name} does not generate text.", allowed="a causal language model of transformers")
        most = getattr(getattr(model, "config", None), "max_position_embeddings", None)
        if isinstance(most, int) and 0 < most < prompt_tokens + new_tokens + 1:
            raise ConfigError(
                f"prompt_tokens={prompt_tokens} and new_tokens={new_tokens} with {name}.",
                allowed=f"{most - 1} together, by the model's positions",
                mend="measure a shorter prompt",
            )
    devices = sorted({model_device(model).type for model in models.values()})
    if len(devices) > 1:
        raise ConfigError(f"The models are on {' and '.join(devices)}.", allowed="one device, to be compared")
    return ids
