"""Quality: against loops over single tokens in float64, whatever the windows and the chunks."""

from __future__ import annotations

import copy
import dataclasses
import math
import threading
import types

import pytest
import torch
from torch import nn

import workbench as wb
from tests.tiny_models import make
from workbench.errors import Cancelled, ConfigError, ModelError
from workbench.measure import causal, divergence, quality
from workbench.measure.divergence import TokenSums, token_sums
from workbench.measure.intervals import mean_interval, student_97_5
from workbench.measure.quality import iter_quality, measure_qualities, measure_quality, text_ids, token_windows

VOCABULARY = 97


def some_ids(count=50, seed=3):
    return torch.randint(VOCABULARY, (count,), generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def reference():
    return make("qwen2")


@pytest.fixture(scope="module")
def int4(reference):
    model = copy.deepcopy(reference)
    wb.quantize_(model, wb.Int4WeightOnlyConfig(group_size=32))
    return model


class Given(nn.Module):
    """Gives the logits that it was made of, whatever is asked."""

    def __init__(self, logits):
        super().__init__()
        self.logits = logits

    def forward(self, input_ids, use_cache):
        assert use_cache is False and input_ids.ndim == 2 and input_ids.dtype == torch.int64
        return types.SimpleNamespace(logits=self.logits[None, : input_ids.shape[1]])


class Table(nn.Module):
    """Predicts from the last token alone: a row of its table."""

    def __init__(self, seed, vocabulary=VOCABULARY):
        super().__init__()
        table = torch.randn(vocabulary, vocabulary, generator=torch.Generator().manual_seed(seed))
        self.register_buffer("table", table)

    def forward(self, input_ids, use_cache):
        return types.SimpleNamespace(logits=self.table[input_ids])


# --- the oracle: one token after the other ----------------------------------------------------------------------------


def probabilities(row):
    row = [float(value) for value in row]
    top = max(row)
    total = math.fsum(math.exp(value - top) for value in row)
    return [math.exp(value - top) / total for value in row]


def slow_tokens(model, ids, window, reference=None):
    """For each window a list of (nats, kl, agrees), one for each token that is predicted."""
    found = []
    for start in range(0, len(ids), window):
        part = ids[start : start + window]
        if len(part) < 2:
            continue
        with torch.no_grad():
            q_logits = model(input_ids=part[None], use_cache=False).logits[0]
            p_logits = None if reference is None else reference(input_ids=part[None], use_cache=False).logits[0]
        tokens = []
        for place in range(1, len(part)):
            q = probabilities(q_logits[place - 1])
            nats = -math.log(q[int(part[place])])
            if p_logits is None:
                tokens.append((nats, 0.0, False))
                continue
            p = probabilities(p_logits[place - 1])
            kl = math.fsum(a * (math.log(a) - math.log(b)) for a, b in zip(p, q, strict=True))
            tokens.append((nats, kl, p.index(max(p)) == q.index(max(q))))
        found.append(tokens)
    return found


def flat(windows):
    return [token for tokens in windows for token in tokens]


def mean(values):
    return math.fsum(values) / len(values)


# --- windows ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "window", "lengths"),
    [
        (10, 5, [5, 5]),
        (11, 5, [5, 5]),  # a last token alone predicts nothing
        (12, 5, [5, 5, 2]),
        (2, 2, [2]),
        (3, 2, [2]),
        (7, 7, [7]),
        (7, 512, [7]),
    ],
)
def test_windows_follow_each_other_and_do_not_overlap(count, window, lengths):
    ids = some_ids(count)
    windows = token_windows(ids, window)
    assert [len(part) for part in windows] == lengths
    assert torch.equal(torch.cat(windows), ids[: sum(lengths)])
    assert all(part.dtype == torch.int64 for part in windows)


@pytest.mark.parametrize("window", [1, 0, -3, 2.5, "512", None, True])
def test_a_window_that_holds_no_prediction_is_refused(window):
    with pytest.raises(ConfigError, match=rf"window={window!r}.*2 or more"):
        token_windows(some_ids(), window)


@pytest.mark.parametrize(
    ("ids", "found"),
    [
        (torch.tensor([], dtype=torch.int64), r"int64 \[0\]"),
        (torch.tensor([3]), r"int64 \[1\]"),
        (torch.tensor([[3, 4]]), r"int64 \[1, 2\]"),
        (torch.tensor([3.0, 4.0]), r"float32 \[2\]"),
        ([3, 4], "list"),
    ],
)
def test_ids_of_another_form_are_refused(ids, found):
    for call in (lambda: token_windows(ids, 4), lambda: measure_quality(Table(0), ids)):
        with pytest.raises(ConfigError, match=rf"ids is .*{found}\..*int64 \[T\].*text_ids"):
            call()


# --- the measure ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("window", [2, 7, 16, 49, 50, 51])
def test_perplexity_and_divergence_are_those_of_single_tokens(reference, int4, window):
    ids = some_ids(50)
    found = measure_quality(int4, ids, reference=reference, window=window)
    windows = slow_tokens(int4, ids, window, reference)
    nats, kl, agrees = zip(*flat(windows), strict=True)
    assert found.tokens == len(nats) and found.windows == len(windows) and found.window == min(window, 50)
    assert found.left_out == 50 - found.tokens - found.windows
    assert found.nats_per_token == pytest.approx(mean(nats), rel=1e-5)
    assert found.perplexity == math.exp(found.nats_per_token)
    base = [token[0] for token in flat(slow_tokens(reference, ids, window))]
    assert found.reference_perplexity == pytest.approx(math.exp(mean(base)), rel=1e-5)
    assert found.mean_kl == pytest.approx(mean(kl), rel=1e-3) and found.mean_kl > 0
    assert found.top1_agreement == mean([float(one) for one in agrees])


def test_without_a_reference_there_is_perplexity_alone(int4, reference):
    alone = measure_quality(int4, some_ids(), window=16)
    both = measure_quality(int4, some_ids(), window=16, reference=reference)
    nothing = dict.fromkeys(("reference_perplexity", "mean_kl", "kl_interval", "top1_agreement"))
    assert alone == dataclasses.replace(both, **nothing)


def test_a_model_does_not_diverge_from_itself(reference):
    found = measure_quality(reference, some_ids(), reference=reference, window=16)
    assert found.mean_kl == 0 and found.kl_interval == (0, 0) and found.top1_agreement == 1
    assert found.perplexity == found.reference_perplexity


def test_a_uniform_model_has_the_vocabulary_as_its_perplexity():
    found = measure_quality(Given(torch.zeros(20, VOCABULARY)), some_ids(20))
    assert found.perplexity == pytest.approx(VOCABULARY, rel=1e-6)


def test_divergence_is_from_the_reference_to_the_model_and_not_the_other_way():
    p, q = torch.tensor([0.9, 0.1]), torch.tensor([0.5, 0.5])
    models = Given(q.log().repeat(5, 1)), Given(p.log().repeat(5, 1))
    found = measure_quality(models[0], torch.tensor([0, 1, 0, 0, 1]), reference=models[1])
    assert found.mean_kl == pytest.approx(0.9 * math.log(0.9 / 0.5) + 0.1 * math.log(0.1 / 0.5), rel=1e-6)


def test_small_divergences_are_not_lost_to_rounding():
    logits = torch.randn(200, 5000, generator=torch.Generator().manual_seed(1)) * 4
    near = logits + 1e-3 * torch.randn(200, 5000, generator=torch.Generator().manual_seed(2))
    p, q = logits.double().log_softmax(-1), near.double().log_softmax(-1)
    exact = float((p.exp() * (p - q)).sum(-1).mean())
    found = measure_quality(Given(near), torch.zeros(200, dtype=torch.int64), reference=Given(logits))
    assert exact < 1e-6 and abs(found.mean_kl - exact) < 2e-8


@pytest.mark.parametrize("elements", [1, VOCABULARY, 3 * VOCABULARY + 5, 1 << 30])
def test_chunks_do_not_change_results(reference, int4, monkeypatch, elements):
    usual = measure_quality(int4, some_ids(), reference=reference, window=16)
    monkeypatch.setattr(divergence, "_CHUNK_ELEMENTS", elements)
    found = measure_quality(int4, some_ids(), reference=reference, window=16)
    for name, value in vars(usual).items():
        assert getattr(found, name) == pytest.approx(value, rel=1e-12), name


def test_no_more_than_a_chunk_of_the_vocabulary_is_held(monkeypatch):
    monkeypatch.setattr(divergence, "_CHUNK_ELEMENTS", 4 * VOCABULARY)
    seen = []
    softmax = divergence.functional.log_softmax
    monkeypatch.setattr(
        divergence.functional, "log_softmax", lambda x, *rest: seen.append(x.numel()) or softmax(x, *rest)
    )
    measure_quality(Table(1), some_ids(), reference=Table(2))
    assert seen and max(seen) == 4 * VOCABULARY


def test_models_in_half_precision_are_measured_in_full(reference):
    half = copy.deepcopy(reference).to(torch.bfloat16)
    found = measure_quality(half, some_ids(), reference=reference, window=16)
    tokens = flat(slow_tokens(half, some_ids(), 16, reference))
    assert found.nats_per_token == pytest.approx(mean([nats for nats, _, _ in tokens]), rel=1e-6)
    assert found.mean_kl == pytest.approx(mean([kl for _, kl, _ in tokens]), rel=1e-3, abs=1e-8)


def test_windows_side_by_side_give_what_they_give_one_by_one(reference, int4, monkeypatch):
    seen = set()
    logits = quality.window_logits
    monkeypatch.setattr(
        quality, "window_logits", lambda *rest: seen.add(threading.current_thread().name) or logits(*rest)
    )
    together = measure_quality(int4, some_ids(), reference=reference, window=4)
    assert all("workbench" in name for name in seen) or torch.get_num_threads() == 1
    seen.clear()
    monkeypatch.setattr(quality, "run_side_by_side", lambda *_: False)
    alone = measure_quality(int4, some_ids(), reference=reference, window=4)
    assert seen == {threading.current_thread().name}
    for name, value in vars(alone).items():
        assert getattr(together, name) == pytest.approx(value, rel=1e-5), name


def test_only_small_models_without_hooks_run_side_by_side(reference, int4, monkeypatch):
    assert causal.run_side_by_side([reference, int4], 512)
    assert not causal.run_side_by_side([reference, Table(1)], 512)  # which does not say its vocabulary
    assert not causal.run_side_by_side([reference, int4], 10**8)
    assert not causal.run_side_by_side([make("qwen2").to("meta")], 512)
    for register in ("register_forward_hook", "register_forward_pre_hook"):
        handle = getattr(reference.model.layers[0], register)(lambda *_: None)
        assert not causal.run_side_by_side([int4, reference], 512)
        handle.remove()
    monkeypatch.setattr(reference.lm_head, "_hf_hook", object(), raising=False)
    assert not causal.run_side_by_side([int4, reference], 512)


def test_several_models_are_measured_as_each_alone_and_the_reference_runs_once(reference, int4):
    runs = []
    handle = reference.register_forward_hook(lambda *_: runs.append(1))
    found = measure_qualities({"a": int4, "b": reference}, some_ids(), reference=Table(5), window=16)
    handle.remove()
    assert list(found) == ["a", "b"] and len(runs) == found["b"].windows == 4
    for name, model in (("a", int4), ("b", reference)):
        assert found[name] == measure_quality(model, some_ids(), reference=Table(5), window=16)


def test_a_model_may_have_any_name(reference, int4):
    found = measure_qualities({"the reference": int4}, some_ids(), reference=reference, window=16)
    assert found == {"the reference": measure_quality(int4, some_ids(), reference=reference, window=16)}


# --- the interval -----------------------------------------------------------------------------------------------------


def test_the_interval_is_that_of_the_window_means(reference, int4):
    found = measure_quality(int4, some_ids(48), reference=reference, window=16)
    means = [mean([kl for _, kl, _ in tokens]) for tokens in slow_tokens(int4, some_ids(48), 16, reference)]
    center = mean(means)
    error = math.sqrt(sum((one - center) ** 2 for one in means) / 2) / math.sqrt(3)
    expected = (center - 4.30265 * error, center + 4.30265 * error)
    assert found.kl_interval == pytest.approx(expected, abs=5e-3 * center)
    assert found.kl_interval[0] < found.mean_kl < found.kl_interval[1]


def test_a_short_window_counts_for_less():
    even, odd = mean_interval([4.0, 8.0], [4, 4]), mean_interval([4.0, 8.0, 100.0], [400, 400, 1])
    assert sum(even) / 2 == pytest.approx(12 / 8) and sum(odd) / 2 == pytest.approx(112 / 801)


def test_an_interval_covers_as_often_as_it_says():
    """Windows of uneven length around a true mean of 1: some 95 of 100 intervals hold it."""
    draws = torch.Generator().manual_seed(0)
    counts = [20, 30, 25, 40, 10, 30, 30, 15]
    held = 0
    for _ in range(2000):
        means = 1 + torch.randn(len(counts), generator=draws) / torch.tensor(counts).sqrt()
        low, high = mean_interval([float(m) * n for m, n in zip(means, counts, strict=True)], counts)
        held += low <= 1 <= high
    assert 0.93 < held / 2000 < 0.97


def test_one_window_has_no_interval(reference, int4):
    assert measure_quality(int4, some_ids(12), reference=reference).kl_interval is None
    assert mean_interval([], []) is None


@pytest.mark.parametrize(
    ("freedom", "quantile"),
    [(1, 12.7062), (2, 4.30265), (3, 3.18245), (4, 2.77645), (9, 2.26216), (64, 1.99773), (10**6, 1.95997)],
)
def test_students_quantile_is_that_of_the_tables(freedom, quantile):
    assert student_97_5(freedom) == pytest.approx(quantile, rel=2e-3)


# --- long work --------------------------------------------------------------------------------------------------------


def test_each_window_is_a_step_with_what_is_known_by_then(reference, int4):
    ids = some_ids(50)
    steps = list(iter_quality({"int4": int4}, ids, reference=reference, window=16))
    assert [(step.progress.done, step.progress.total) for step in steps] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert steps[-1].progress.remaining_s == 0 and steps[0].progress.label == "window 1 of 4"
    for step, end in zip(steps, (16, 32, 48, 50), strict=True):
        expected = measure_quality(int4, ids[:end], reference=reference, window=16)
        assert step.qualities["int4"] == expected


def test_progress_is_told_for_each_window(int4):
    told = []
    measure_quality(int4, some_ids(), window=16, progress=told.append)
    assert [one.done for one in told] == [1, 2, 3, 4] and {one.total for one in told} == {4}


def test_cancel_stops_before_the_next_forward_pass(reference, int4):
    cancel, runs = threading.Event(), []
    handle = reference.register_forward_hook(lambda *_: runs.append(1) or cancel.set())
    steps = iter_quality({"a": reference, "b": int4}, some_ids(), window=16, cancel=cancel)
    with pytest.raises(Cancelled, match="as they were"):
        next(steps)
    handle.remove()
    assert len(runs) == 1


def test_cancel_from_another_thread_stops_windows_side_by_side(reference, int4):
    cancel = threading.Event()
    steps = iter_quality({"a": reference, "b": int4}, some_ids(), window=2, cancel=cancel)
    next(steps)
    cancel.set()
    with pytest.raises(Cancelled):
        list(steps)


def test_cancel_before_the_start_runs_nothing(int4):
    cancel = threading.Event()
    cancel.set()
    with pytest.raises(Cancelled):
        measure_quality(int4, some_ids(), cancel=cancel)


@pytest.mark.parametrize("steps", [1, 4])
def test_the_state_of_models_and_process_is_left_alone(steps):
    model = make("qwen2", attention_dropout=0.5)
    model.train()
    model.model.layers[0].eval()
    before = [module.training for module in model.modules()]
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    work = iter_quality({"one": model}, some_ids(), reference=model, window=16)
    for _ in range(steps):
        next(work)
        assert torch.is_grad_enabled() and torch.get_num_threads() == threads
    work.close()
    assert [module.training for module in model.modules()] == before
    assert torch.equal(torch.get_rng_state(), state)
    assert measure_quality(model, some_ids()) == measure_quality(model.eval(), some_ids())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_failing_model_is_put_back_too(reference):
    model = copy.deepcopy(reference).train()
    handle = model.register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        measure_quality(model, some_ids())
    handle.remove()
    assert all(module.training for module in model.modules())


# --- what cannot be measured ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("chunk", [VOCABULARY, 1 << 22])
def test_logits_that_are_not_finite_are_an_error_with_their_place(value, chunk, monkeypatch):
    monkeypatch.setattr(divergence, "_CHUNK_ELEMENTS", chunk)
    good, bad = Table(1), Table(1)
    ids = torch.arange(20)
    bad.table[13, 5] = value
    message = rf"logits of {{}} after token 13 of the text hold {value}\..*Allowed: finite.*bfloat16"
    for name, model, base in (("bad one", bad, None), ("bad one", bad, good), ("the reference", good, bad)):
        with pytest.raises(ModelError, match=message.format(name)):
            measure_qualities({"bad one": model}, ids, reference=base, window=8)


def test_the_last_logits_of_a_window_are_not_looked_at():
    model = Table(1)
    model.table[7] = math.nan
    assert measure_quality(model, torch.arange(8)) == measure_quality(Table(1), torch.arange(8))


def test_finite_logits_that_overflow_softmax_stay_finite():
    far = torch.zeros(4, 8)
    far[:, 0], far[:, 1] = 3e38, -3e38
    ids = torch.tensor([0, 1, 1, 2])
    found = measure_quality(Given(far), ids, reference=Given(torch.zeros(4, 8)))
    assert found.perplexity == math.inf and math.isfinite(found.nats_per_token) and found.mean_kl > 1e37
    back = measure_quality(Given(torch.zeros(4, 8)), ids, reference=Given(far))
    assert back.mean_kl == pytest.approx(math.log(8)) and back.reference_perplexity == math.inf


def test_models_of_two_vocabularies_are_refused():
    with pytest.raises(ModelError, match=r"small has a vocabulary of 50 tokens, the reference one of 97"):
        measure_qualities({"small": Table(1, 50)}, torch.arange(20), reference=Table(1))


@pytest.mark.parametrize("bad", [VOCABULARY, 5000, -1])
def test_a_token_that_the_model_does_not_know_is_refused(reference, bad):
    ids = torch.tensor([1, 2, bad, 3])
    with pytest.raises(ConfigError, match=rf"holds token {bad}.*0 to 96 for the model.*tokenizer"):
        measure_quality(reference, ids)
    with pytest.raises(ConfigError, match=rf"holds token {bad}"):
        measure_quality(Table(1, 10_000), torch.tensor([1, 2, bad, 3]), reference=reference)


def test_a_window_beyond_the_positions_of_the_model_is_refused(reference):
    ids = some_ids(100)
    with pytest.raises(ConfigError, match=r"window=65 with the model.*2 to 64 tokens"):
        measure_quality(reference, ids, window=65)
    with pytest.raises(ConfigError, match=r"window=100 with the model.*2 to 64 tokens"):
        measure_quality(reference, ids)
    assert measure_quality(reference, some_ids(64)).windows == 1


def test_what_is_no_causal_model_is_refused():
    with pytest.raises(ModelError, match=r"the model is an encoder with a decoder.*causal language model"):
        measure_quality(make("t5"), some_ids())
    with pytest.raises(ModelError, match=r"the model gives no logits \[1, 50, vocabulary\].*causal"):
        measure_quality(make("qwen2").model, some_ids())
    with pytest.raises(ModelError, match=r"gives no logits \[1, 20, vocabulary\]"):
        measure_quality(Given(torch.zeros(3, VOCABULARY)), some_ids(20))
    with pytest.raises(ConfigError, match="the reference is a str"):
        measure_quality(Table(1), some_ids(), reference="demo")
    with pytest.raises(ConfigError, match="no model"):
        measure_qualities({}, some_ids())


@pytest.mark.parametrize("family", ["qwen2", "llama_odd", "gpt2", "opt", "mixtral"])
def test_every_causal_family_is_measured(family):
    model = make(family)
    found = measure_quality(model, some_ids(), window=16)
    tokens = flat(slow_tokens(model, some_ids(), 16))
    assert found.nats_per_token == pytest.approx(mean([nats for nats, _, _ in tokens]), rel=1e-5)


def test_sums_without_a_reference_say_nothing_of_one():
    assert token_sums(torch.zeros(2, 4), torch.tensor([0, 1])) == TokenSums(2, pytest.approx(2 * math.log(4)))


# --- text -------------------------------------------------------------------------------------------------------------


def words(text, verbose):
    """A tokenizer of one token a word."""
    assert verbose is False
    return {"input_ids": [len(word) for word in text.split()]}


def test_text_becomes_ids():
    ids = text_ids("one three fifteen", words)
    assert ids.dtype == torch.int64 and ids.tolist() == [3, 5, 7]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"The text is ''\..*at least 2 tokens.*a page at least"),
        (" \n\t", r"The text is ' \\n\\t'\..*at least 2 tokens"),
        (None, r"The text is None\."),
        ("one", r"The text 'one' has 1 token\..*at least 2 tokens.*a page at least"),
    ],
)
def test_text_without_a_prediction_is_refused(text, message):
    with pytest.raises(ConfigError, match=message):
        text_ids(text, words)


def test_text_without_a_tokenizer_is_refused():
    with pytest.raises(ConfigError, match=r"no tokenizer.*pass the model's own"):
        text_ids("some text", None)


# --- the record -------------------------------------------------------------------------------------------------------


def test_a_quality_says_itself_in_a_line(reference, int4):
    found = measure_quality(int4, some_ids(49), reference=reference, window=16)
    line = str(found)
    assert "\n" not in line and f"perplexity {found.perplexity:.3f} (reference" in line
    assert f"mean KL {found.mean_kl:.5f} (95%: " in line and "45 tokens in 3 windows of 16" in line
    assert line.endswith("1 token at the end left out")
    alone = str(measure_quality(int4, some_ids(48), window=16))
    assert "KL" not in alone and "left out" not in alone
