"""Tokens per second: what is timed, in which order, and what is made of it; no test looks at a real time."""

from __future__ import annotations

import json
import threading

import pytest
import torch
from torch import nn
from torch.testing._internal.two_tensor import TwoTensor

from tests import tiny_models
from workbench import Int4Linear, Int4WeightOnlyConfig, quantize_
from workbench.errors import Cancelled, ConfigError, ModelError
from workbench.measure import throughput
from workbench.measure.throughput import iter_throughput, measure_throughput, weight_bytes
from workbench.measure.throughput_report import ModelThroughput, ThroughputReport
from workbench.measure.timing import environment


@pytest.fixture(autouse=True)
def now(monkeypatch):
    """A clock that only the tests' models move, in seconds."""
    clock = [0.0]
    monkeypatch.setattr(throughput.time, "perf_counter", lambda: clock[0])
    return clock


class Writer(nn.Module):
    """Generates like a model of transformers, in times that it is told: prefill, then each step of every call."""

    def __init__(self, now, prefill=3.0, step=0.5, log=None):
        super().__init__()
        self.embedding = nn.Embedding(50, 4)
        self.now, self.prefill, self.step, self.log = now, prefill, step, [] if log is None else log
        self.calls, self.trained = [], []

    def get_input_embeddings(self):
        return self.embedding

    def generate(self, *, input_ids, streamer, max_new_tokens, **others):
        self.calls.append({"input_ids": input_ids, "max_new_tokens": max_new_tokens, **others})
        self.trained.append(self.training)
        self.log.append(self)
        self.now[0] += 100  # what comes before the prompt is handed over is not timed
        streamer.put(input_ids)
        for token in range(max_new_tokens):
            self.now[0] += self.step * len(self.calls) if token else self.prefill * len(self.calls)
            streamer.put(torch.tensor([token]))
        self.now[0] += 100
        streamer.end()


def llama(**changes):
    sizes = {"tie_word_embeddings": True, "num_hidden_layers": 1, **changes}
    return tiny_models.make("qwen2", **sizes)


# --- what is timed ----------------------------------------------------------------------------------------------------


def test_prefill_and_decode_are_kept_apart_and_the_first_turn_is_not_counted(now):
    found = measure_throughput(Writer(now), prompt_tokens=12, new_tokens=2, rounds=3)
    (one,) = found.models
    assert (one.name, one.prefill_runs, one.decode_runs) == ("the model", 3, 6)
    # Turn i takes 3 i seconds and 0.5 i a step; turn 1 warms up, so 2, 3 and 4 count.
    assert (one.prefill_ms, one.prefill_p10_ms, one.prefill_p90_ms) == (9000, 6000, 12000)
    assert (one.decode_ms, one.decode_p10_ms, one.decode_p90_ms) == (1500, 1000, 2000)
    assert one.prefill_tokens_per_s == pytest.approx(12 / 9)
    assert one.decode_tokens_per_s == pytest.approx(1 / 1.5)
    assert one.weight_bytes == 50 * 4 * 4
    assert (found.prompt_tokens, found.new_tokens, found.environment) == (12, 2, environment())


def test_models_take_turns_and_the_order_is_reversed_every_round(now):
    log = []
    models = {name: Writer(now, log=log) for name in "abc"}
    measure_throughput(models, prompt_tokens=2, new_tokens=1, rounds=3)
    names = {id(model): name for name, model in models.items()}
    assert "".join(names[id(model)] for model in log) == "abc" + "cba" + "abc" + "cba"


def test_the_prompt_is_the_same_for_all_and_known_to_all(now):
    small, large = Writer(now), Writer(now)
    small.embedding, large.embedding = nn.Embedding(7, 4), nn.Embedding(1000, 4)
    state = torch.get_rng_state()
    measure_throughput({"small": small, "large": large}, prompt_tokens=40, new_tokens=3, rounds=1)
    assert torch.equal(torch.get_rng_state(), state)
    prompts = [call["input_ids"] for model in (small, large) for call in model.calls]
    assert len(prompts) == 4 and all(torch.equal(prompt, prompts[0]) for prompt in prompts)
    assert prompts[0].shape == (1, 40) and prompts[0].dtype == torch.int64
    assert prompts[0].min() >= 0 and prompts[0].max() < 7 and len(prompts[0].unique()) > 1
    assert all(call["max_new_tokens"] == call["min_new_tokens"] == 4 for call in small.calls)
    assert all(call["use_cache"] and not call["do_sample"] for call in small.calls)


def test_models_do_without_dropout_and_are_put_back(now):
    training, evaluating = Writer(now).train(), Writer(now).eval()
    measure_throughput({"a": training, "b": evaluating}, prompt_tokens=2, new_tokens=1, rounds=1)
    assert training.trained == [False, False]
    assert training.training and training.embedding.training and not evaluating.training


def test_each_step_says_where_the_work_stands(now):
    seen = []
    steps = list(iter_throughput({"a": Writer(now), "b": Writer(now)}, prompt_tokens=2, new_tokens=1, rounds=2))
    found = measure_throughput(Writer(now), prompt_tokens=2, new_tokens=1, rounds=2, progress=seen.append)
    assert [(step.progress.done, step.progress.total, step.progress.label) for step in steps] == [
        *((1, 6, "a"), (2, 6, "b"), (3, 6, "b"), (4, 6, "a"), (5, 6, "a"), (6, 6, "b"))
    ]
    assert [step.report is not None for step in steps] == [False] * 3 + [True] * 3
    assert [one.decode_runs for one in steps[-1].report.models] == [2, 2]
    assert [progress.done for progress in seen] == [1, 2, 3] and found.models[0].decode_runs == 2


@pytest.mark.parametrize("after", [0, 1, 5, 6, 11])
def test_cancel_stops_before_the_next_token(now, after):
    cancel, model = threading.Event(), Writer(now)
    tokens = []
    put = throughput._Clock.put

    def counting(self, token):
        if len(tokens) == after:
            cancel.set()
        tokens.append(token)
        put(self, token)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(throughput._Clock, "put", counting)
        with pytest.raises(Cancelled, match="the models are as they were"):
            measure_throughput(model.train(), prompt_tokens=2, new_tokens=2, rounds=4, cancel=cancel)
    assert len(tokens) == after + 1 and model.training


# --- models of transformers -------------------------------------------------------------------------------------------


def ticking(monkeypatch):
    """Every look at the clock is a second after the one before."""
    ticks = iter(range(10**6))
    monkeypatch.setattr(throughput.time, "perf_counter", lambda: float(next(ticks)))


def test_a_model_of_transformers_dense_and_int4(monkeypatch):
    ticking(monkeypatch)
    dense, int4 = llama(), llama()
    quantize_(int4, Int4WeightOnlyConfig(group_size=32))
    found = measure_throughput({"dense": dense, "int4": int4}, prompt_tokens=9, new_tokens=4, rounds=2)
    assert [(one.prefill_ms, one.prefill_runs, one.decode_ms, one.decode_runs) for one in found.models] == [
        (1000, 2, 1000, 8)
    ] * 2
    assert found["int4"].weight_bytes < found["dense"].weight_bytes


def test_the_prefill_reads_the_whole_prompt_at_once_and_a_step_one_token(monkeypatch):
    ticking(monkeypatch)
    model, shapes = llama(), []
    model.model.register_forward_pre_hook(
        lambda module, args, kwargs: shapes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    measure_throughput(model, prompt_tokens=9, new_tokens=3, rounds=1)
    assert shapes == [(1, 9), (1, 1), (1, 1), (1, 1)] * 2


def test_the_end_of_a_text_stops_nothing_and_no_setting_of_the_model_counts(monkeypatch, recwarn):
    ticking(monkeypatch)
    model = llama()
    with torch.no_grad():
        model.get_input_embeddings().weight[1] = 100  # the head is tied to it: token 1, the end, is what comes next
    settings = {"do_sample": True, "temperature": 0.6, "top_p": 0.9, "top_k": 5, "num_beams": 3, "use_cache": False}
    for name, value in settings.items():
        setattr(model.generation_config, name, value)
    found = measure_throughput(model, prompt_tokens=4, new_tokens=5, rounds=1)
    assert found.models[0].decode_runs == 5
    assert {name: getattr(model.generation_config, name) for name in settings} == settings
    assert not recwarn.list


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt_tokens": 0}, "prompt_tokens=0.*1 or more"),
        ({"new_tokens": 1.5}, r"new_tokens=1\.5"),
        ({"rounds": True}, "rounds=True"),
        ({"prompt_tokens": 60, "new_tokens": 4}, "prompt_tokens=60 and new_tokens=4 with the model.*63 together"),
    ],
)
def test_sizes_that_cannot_be_measured_are_refused_before_any_work(change, message):
    model = llama()  # 64 positions
    model.generate = lambda **others: pytest.fail("it ran")
    with pytest.raises(ConfigError, match=message):
        measure_throughput(model, **{"prompt_tokens": 4, "new_tokens": 2, "rounds": 1, **change})


def test_all_positions_of_a_model_can_be_used(monkeypatch):
    ticking(monkeypatch)
    assert measure_throughput(llama(), prompt_tokens=60, new_tokens=3, rounds=1).models


def test_models_that_do_not_generate_text_are_refused():
    for model, message in (
        (nn.Linear(4, 4), "the model does not generate text.*of transformers"),
        (tiny_models.make("t5"), "the model is an encoder with a decoder"),
        (torch.compile(llama()), "what torch.compile returned, whose generate runs uncompiled.*compile_model"),
    ):
        with pytest.raises(ModelError, match=message):
            measure_throughput(model, prompt_tokens=4, new_tokens=2)
    with pytest.raises(ConfigError, match="b is a str"):
        measure_throughput({"a": llama(), "b": "demo"}, prompt_tokens=4, new_tokens=2)
    with pytest.raises(ConfigError, match="no model to measure"):
        measure_throughput({})


def test_models_of_two_devices_are_not_compared():
    with pytest.raises(ConfigError, match="on cpu and meta"):
        measure_throughput({"a": llama(), "b": llama().to("meta")}, prompt_tokens=4, new_tokens=2)


# --- what is made of it -----------------------------------------------------------------------------------------------


def record(name, prefill_ms, decode_ms):
    rates = {"prefill_tokens_per_s": 1e3 / prefill_ms, "decode_tokens_per_s": 1e3 / decode_ms}
    spread = {f"{one}_{p}_ms": 1.0 for one in ("prefill", "decode") for p in ("p10", "p90")}
    times = {"prefill_ms": prefill_ms, "decode_ms": decode_ms, "prefill_runs": 1, "decode_runs": 1}
    return ModelThroughput(name=name, weight_bytes=2_000_000, **rates, **spread, **times)


REPORT = ThroughputReport((record("dense", 100.0, 50.0), record("int4", 80.0, 20.0)), 256, 32, environment())


def test_speedups_are_over_the_model_that_is_named():
    assert REPORT.speedups("dense") == {"int4": (1.25, 2.5)}
    assert REPORT.speedups("int4") == {"dense": (0.8, 0.4)}
    with pytest.raises(ConfigError, match=r"'bf16'.*dense, int4"):
        REPORT.speedups("bf16")


def test_a_report_goes_to_json_and_prints_as_a_table():
    data = json.loads(json.dumps(REPORT.to_json()))
    assert tuple(ModelThroughput.from_json(one) for one in data["models"]) == REPORT.models
    assert (data["prompt_tokens"], data["new_tokens"]) == (256, 32)
    assert data["environment"]["torch_version"] == torch.__version__
    lines = str(REPORT).splitlines()
    assert torch.__version__ in lines[0] and "prefill of 256" in lines[1] and len(lines) == 4
    assert lines[3].split()[:4] == ["int4", "50.0", "tokens/s", "20"] and lines[3].endswith("2 MB")


def test_weights_are_counted_once_and_inside_wrapping_tensors():
    tied, untied = llama(), llama(tie_word_embeddings=False)
    assert weight_bytes(untied) - weight_bytes(tied) == 97 * 64 * 4
    assert weight_bytes(nn.Linear(8, 4, bias=False, dtype=torch.bfloat16)) == 64
    layer = Int4Linear.from_linear(nn.Linear(64, 64, bias=False), Int4WeightOnlyConfig(group_size=32))
    assert weight_bytes(layer) == layer.size_bytes
    wrapping = nn.Module()
    wrapping.weight = nn.Parameter(TwoTensor(torch.zeros(3, 2), torch.zeros(3, 2)), requires_grad=False)
    assert weight_bytes(wrapping) == 48
