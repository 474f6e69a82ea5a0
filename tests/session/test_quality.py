"""Quality in a session: against plain forward passes in float64, and never stale."""

from __future__ import annotations

import math
import threading

import pytest
import torch
import transformers
from torch import nn

import workbench as wb
import workbench.views.int4_layers as int4_layers
from tests.session.stand_ins import Heard
from tests.tiny_models import make
from workbench.demo import demo_calibration_text, demo_eval_text
from workbench.errors import ConfigError, ModelError
from workbench.experts import Int4Experts
from workbench.measure.intervals import mean_interval
from workbench.session import open_session
from workbench.session.prompt import PROMPT_LABEL
from workbench.session.quality import MEASURE_LABEL
from workbench.session.quality_text import DEMO_ORIGIN
from workbench.session.tokenized_text import TYPED_ORIGIN

TIMEOUT_S = 120
Q = "model.layers.0.self_attn.q_proj"
TEXT = demo_eval_text()[:9000]
PROMPT = "The function returns"


@pytest.fixture
def session(session):
    session.quality.set_text(TEXT)
    session.quality.configure(windows=3)
    return session


def measured(session):
    job = session.quality.measure()
    assert session.wait(TIMEOUT_S)
    assert job is None or job.state == "done", (job.state, job.error, job.details)
    assert session.quality.state.problem is None
    return session.quality.state.measured


def int4_of(recipe):
    model, tokenizer = wb.demo_model()
    wb.quantize_(model, recipe)
    return model, tokenizer


# --- the oracle -------------------------------------------------------------------------------------------------------


def slow_windows(original, int4, ids, window, count):
    """(tokens, nats of the original, nats of int4, KL, agreements) of each window, in float64."""
    found = []
    for part in ids.split(window)[:count]:
        with torch.no_grad():
            p, q = (model(input_ids=part[None], use_cache=False).logits[0, :-1].double() for model in (original, int4))
        log_p, log_q = p.log_softmax(-1), q.log_softmax(-1)
        places = torch.arange(len(part) - 1)
        kl = (log_p.exp() * (log_p - log_q)).sum()
        agree = int((p.argmax(-1) == q.argmax(-1)).sum())
        nats = [-float(log[places, part[1:]].sum()) for log in (log_p, log_q)]
        found.append((len(part) - 1, *nats, float(kl), agree))
    return found


def slow_greedy(model, ids, count):
    ids = list(ids)
    for _ in range(count):
        with torch.no_grad():
            ids.append(int(model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
    return ids[-count:]


@pytest.mark.parametrize(("window", "count"), [(512, 3), (2048, 2)])
def test_perplexity_and_divergence_are_those_of_two_forward_passes(session, pair, window, count):
    session.quality.configure(window=window, windows=count)
    result = measured(session)
    int4, tokenizer = int4_of(session.recipe)
    ids = torch.tensor(tokenizer(TEXT, verbose=False)["input_ids"])
    windows = slow_windows(pair[0], int4, ids, window, count)
    counts = [one[0] for one in windows]
    tokens = sum(counts)
    found = result.comparison
    assert (found.tokens, len(found.windows), result.available) == (tokens, count, -(-len(ids) // window))
    means = [math.fsum(one[at] for one in windows) / tokens for at in (1, 2, 3, 4)]
    assert found.reference_perplexity == pytest.approx(math.exp(means[0]), rel=1e-5)
    assert found.perplexity == pytest.approx(math.exp(means[1]), rel=1e-5)
    assert found.mean_kl.value == pytest.approx(means[2], rel=1e-3)
    assert found.agreement == pytest.approx(means[3])
    differences = mean_interval([one[2] - one[1] for one in windows], counts)
    ratio = found.perplexity_ratio
    assert ratio.value == pytest.approx(math.exp(means[1] - means[0]), rel=1e-5)
    assert (ratio.low, ratio.high) == pytest.approx(tuple(map(math.exp, differences)), rel=1e-4)
    kl = mean_interval([one[3] for one in windows], counts)
    assert (found.mean_kl.low, found.mean_kl.high) == pytest.approx(kl, rel=1e-3)


def test_the_answers_are_the_most_likely_tokens(session, pair):
    job = session.quality.prompt.ask(PROMPT, 12)
    assert session.wait(TIMEOUT_S)
    int4, tokenizer = int4_of(session.recipe)
    ids = tokenizer(PROMPT)["input_ids"]
    expected = [slow_greedy(model, ids, 12) for model in (pair[0], int4)]
    answers = session.quality.prompt.answers
    assert [list(tokens) for tokens in answers.tokens] == expected
    assert (answers.original, answers.int4) == tuple(map(tokenizer.decode, expected))
    at = next(place for place in range(12) if expected[0][place] != expected[1][place])
    assert answers.agreed == at
    assert [text for text, _ in answers.parted] == [tokenizer.decode([one[at]]) for one in expected]
    assert answers.done and job.label == PROMPT_LABEL


# --- progressive, never stale -----------------------------------------------------------------------------------------


def test_a_first_answer_comes_before_the_whole_one(session):
    heard = Heard(session)
    session.quality.configure(windows="all")
    result = measured(session)
    counts = [len(state.measured.comparison.windows) for state in heard.of("quality") if state.measured]
    assert counts == sorted(set(counts)) and len(counts) > 1
    assert counts[-1] == result.wanted == result.available and result.complete
    jobs = [job for job in heard.of("job") if job.label == MEASURE_LABEL]
    assert jobs[-1].state == "done" and (jobs[-1].progress.done, jobs[-1].progress.total) == (counts[-1], counts[-1])


def test_more_windows_go_on_where_the_first_ones_ended(session):
    first = measured(session).comparison
    heard = Heard(session)
    session.quality.configure(windows=5)
    assert session.wait(TIMEOUT_S)
    states = [state.measured.comparison.windows for state in heard.of("quality")]
    assert len(states[0]) == 3 and len(states[-1]) == 5
    assert states[-1][:3] == first.windows
    session.quality.configure(windows=2)
    assert session.quality.measure() is None, "it is known"


def test_a_layer_that_is_toggled_is_measured_again_and_no_other_is_solved(session, monkeypatch):
    solved = []
    iter_quantize = int4_layers.iter_quantize

    def counting(*args, **kwargs):
        for step in iter_quantize(*args, **kwargs):
            solved.append(step.result.name)
            yield step

    monkeypatch.setattr(int4_layers, "iter_quantize", counting)
    before = measured(session)
    assert len(solved) >= len(session.coverage.int4_rows) - 1, "the layer on show was solved already"
    solved.clear()
    session.select([Q])
    session.keep_dense("layer")
    assert session.wait(TIMEOUT_S)
    after = session.quality.state
    assert solved == [] and after.measured.plan != before.plan
    assert after.before == before.label
    pairs = list(zip(before.comparison.windows, after.measured.comparison.windows, strict=True))
    tokens = sum(old.tokens for old, _ in pairs)
    assert after.change.mean_kl.value == pytest.approx(math.fsum(new.kl - old.kl for old, new in pairs) / tokens)
    assert after.change.windows == 3 and after.change.verdict in ("better", "worse", "the same")
    session.configure(group_size=32, scope="all")
    assert session.wait(TIMEOUT_S)
    assert session.quality.state.change.verdict == "better", "smaller groups are nearer to the original"
    solved.clear()
    session.select([Q])
    session.make_int4("layer")
    assert session.wait(TIMEOUT_S)
    assert set(solved) <= {Q}
    session.undo(), session.undo()
    assert session.quality.state.measured.comparison == after.measured.comparison, "what is known is shown at once"
    assert session.wait(TIMEOUT_S)


def test_what_is_stale_is_dropped_at_once(session):
    measured(session)
    session.quality.configure(follow=False)
    heard = Heard(session)
    session.keep_dense("layer")
    assert session.quality.state.measured is None and heard.of("quality")[-1].measured is None
    assert session.wait(TIMEOUT_S) and session.quality.state.measured is None, "nothing follows unasked"
    assert len(session.quality.state.history) == 1
    session.undo()
    assert session.quality.state.measured is not None
    session.quality.set_text(TEXT[:3000])
    assert session.quality.state.measured is None and session.quality.state.history == ()


def test_a_result_that_comes_late_is_not_shown(session):
    entered, gate = threading.Event(), threading.Event()
    take = session.quality._on_measured

    def late(plan, job, item):
        entered.set()
        assert gate.wait(TIMEOUT_S)
        take(plan, job, item)

    session.quality._on_measured = late
    session.quality.measure()
    assert entered.wait(TIMEOUT_S)
    session.quality._on_measured = take
    session.quality.configure(follow=False)
    session.keep_dense("all")
    gate.set()
    assert session.wait(TIMEOUT_S)
    assert session.quality.state.measured is None and session.quality.state.history == ()


def test_answers_follow_the_recipe(session):
    session.quality.prompt.ask(PROMPT, 4)
    assert session.wait(TIMEOUT_S)
    heard, label = Heard(session), session.quality.prompt.answers.label
    session.keep_dense("all")
    assert session.wait(TIMEOUT_S)
    answers = session.quality.prompt.answers
    assert heard.of("answers")[0] is None and answers.label != label
    assert answers.original == answers.int4 and answers.parted is None and answers.agreed == 4
    session.quality.configure(follow=False)
    session.undo()
    assert session.quality.prompt.answers is None
    assert session.wait(TIMEOUT_S) and session.quality.prompt.answers is None


def test_cancel_stops_both(session):
    session.quality.configure(windows="all")
    first, go_on = threading.Event(), threading.Event()

    def hold(event):
        if event.kind == "answers" and event.data:
            first.set()
            assert go_on.wait(TIMEOUT_S)

    session.listen(hold)
    jobs = [session.quality.prompt.ask(PROMPT, 512)]
    assert first.wait(TIMEOUT_S)
    jobs.append(session.quality.measure())  # neither is near its end now
    session.cancel()
    go_on.set()
    assert all(job.state in ("cancelling", "cancelled") for job in jobs)
    assert session.wait(TIMEOUT_S)
    assert {job.state for job in jobs} == {"cancelled"}
    assert not session.quality.prompt.answers.done


def test_the_original_stays_as_it_is_and_nothing_is_copied(pair):
    model = make("qwen2").train()
    session = open_session(model, pair[1])
    modes = {name: module.training for name, module in model.named_modules()}
    before = {name: (p.data_ptr(), p._version) for name, p in model.named_parameters()}
    original, int4 = finished(session.quality._pair.make(session.coverage, threading.Event()))
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert {name: (p.data_ptr(), p._version) for name, p in model.named_parameters()} == before
    own = {p.data_ptr() for p in model.parameters()}
    assert {p.data_ptr() for p in original.parameters()} <= own
    dense = {name: p for name, p in int4.named_parameters() if not name.endswith("bias")}
    assert {p.data_ptr() for p in dense.values()} <= own
    assert len([m for m in int4.modules() if isinstance(m, wb.Int4Linear)]) == len(session.coverage.int4_rows)
    assert not any(isinstance(m, wb.Int4Linear) for m in model.modules())
    assert model.config.tie_word_embeddings


def finished(steps):
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


def test_a_weight_that_is_trained_is_measured_anew(pair):
    model, tokenizer = wb.demo_model()
    session = open_session(model, tokenizer)
    session.quality.set_text(TEXT[:3000])
    before = measured(session)
    with torch.no_grad():
        model.get_submodule(Q).weight.mul_(1.5)
    after = measured(session)
    assert after.plan != before.plan
    assert after.comparison.reference_perplexity != before.comparison.reference_perplexity


# --- other models -----------------------------------------------------------------------------------------------------


def test_a_folder_gives_what_its_live_model_gives(session):
    folder = open_session("demo")
    folder.quality.set_text(TEXT)
    folder.quality.configure(windows=3)
    assert folder.quality.state.loads_bytes > 0
    assert measured(folder).comparison == measured(session).comparison


def test_calibrated_layers_are_those_of_an_export(session, pair):
    session.calibration.set_text(demo_calibration_text()[:4000])
    session.configure(solver="calibrated", scope="layer")
    assert session.wait(TIMEOUT_S)
    steps = session.quality._pair.make(session.coverage, threading.Event())
    _, int4 = finished(steps)
    model, tokenizer = wb.demo_model()
    wb.quantize_(model, session.recipe, calibration=session.calibration.text, tokenizer=tokenizer)
    for name in (row.name for row in session.coverage.int4_rows):
        ours, theirs = (one.get_submodule(name).quantized_weight() for one in (int4, model))
        assert torch.equal(ours.codes, theirs.codes), name


def test_experts_run_in_the_twin_and_not_in_the_model(pair):
    model = make("mixtral")
    session = open_session(model, pair[1])
    session.configure(group_size=32)
    original, int4 = finished(session.quality._pair.make(session.coverage, threading.Event()))
    assert any(isinstance(module, Int4Experts) for module in int4.modules())
    ids = torch.arange(2, 14)[None]
    with torch.no_grad():
        assert torch.equal(original(input_ids=ids).logits, model(input_ids=ids).logits)
        wb.quantize_(model, session.recipe)
        assert torch.equal(int4(input_ids=ids).logits, model(input_ids=ids).logits)


def test_windows_are_cut_to_what_the_model_takes(pair):
    model = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=4096,
            hidden_size=64,
            intermediate_size=96,
            num_hidden_layers=1,
            num_attention_heads=4,
            max_position_embeddings=64,
        )
    )
    session = open_session(model, pair[1])
    session.quality.set_text(TEXT)
    session.quality.configure(window=2048, windows=4)
    result = measured(session)
    assert result.window == 64 and "64 tokens instead of 2,048" in result.notes[0]
    session.quality.prompt.ask(PROMPT, 512)
    assert session.wait(TIMEOUT_S)
    answers = session.quality.prompt.answers
    assert answers.wanted == 64 - len(pair[1](PROMPT)["input_ids"]) and "no more positions" in answers.notes[0]
    session.quality.prompt.ask(TEXT[:2000])
    assert session.wait(TIMEOUT_S)


def test_a_short_text_says_that_it_has_no_interval(session):
    session.quality.set_text("A text of a few words only.")
    result = measured(session)
    assert result.comparison.mean_kl.low is None and "fill one window" in result.notes[0]


def test_models_that_predict_no_next_token_are_refused_in_words(pair):
    bert = transformers.BertConfig(
        vocab_size=4096, hidden_size=64, num_hidden_layers=1, num_attention_heads=4, intermediate_size=96
    )
    cases = {
        "looks at the tokens to come": transformers.BertForMaskedLM(bert).eval(),
        "gives no logits": transformers.BertModel(bert).eval(),
        "is an encoder with a decoder": make("t5"),
        "cannot be run on tokens": nn.Sequential(nn.Linear(64, 64)),
    }
    for said, model in cases.items():
        session = open_session(model, pair[1])
        session.quality.set_text(TEXT)
        session.quality.measure()
        assert session.wait(TIMEOUT_S)
        problem = session.quality.state.problem
        assert isinstance(problem, ModelError) and said in str(problem), said
        assert "a causal language model" in str(problem)


def test_a_model_without_a_tokenizer_says_so(pair):
    session = open_session(pair[0])
    heard = Heard(session)
    session.quality.measure()
    assert session.wait(TIMEOUT_S)
    assert "wb.Workbench(model, tokenizer)" in str(session.quality.state.problem)
    assert [type(problem) for problem in heard.of("problem")] == [ConfigError]


def test_a_tokenizer_of_another_model_is_refused_in_words_by_text_and_prompt(pair):
    session = open_session(make("llama_odd"), pair[1])
    session.quality.set_text(TEXT)
    heard = Heard(session)
    session.quality.measure()
    session.quality.prompt.ask(PROMPT)
    assert session.wait(TIMEOUT_S)
    told = [str(problem) for problem in heard.of("problem")]
    assert len(told) == 2 and all("Allowed: 0 to 96" in one and "the model's own tokenizer" in one for one in told)


def test_a_weight_that_is_nan_is_refused_in_words_by_text_and_prompt(pair):
    model = make("qwen2")
    model.model.layers[0].mlp.up_proj.weight.data[3, 5] = math.nan
    session = open_session(model, lambda text, **_: {"input_ids": [5, 9, 11] * 9})
    session.keep_dense()  # the layer cannot become int4 either
    session.quality.set_text(TEXT)
    heard = Heard(session)
    session.quality.measure()
    session.quality.prompt.ask(PROMPT)
    assert session.wait(TIMEOUT_S)
    told = [problem for problem in heard.of("problem") if isinstance(problem, ModelError)]
    assert len(told) == 2 and all("the text hold nan" in str(one) for one in told)


def test_what_follows_a_change_and_fails_as_before_is_shown_and_not_told_again(pair):
    session = open_session(pair[0])
    session.quality.set_text(TEXT)
    heard = Heard(session)
    session.quality.measure()
    session.quality.prompt.ask(PROMPT)
    assert session.wait(TIMEOUT_S)
    told = heard.of("problem")
    assert [str(problem) for problem in told] == [str(session.quality.state.problem)] * 2
    session.configure(group_size=32)
    assert session.wait(TIMEOUT_S)
    assert heard.of("problem") == told and "tokenizer" in str(session.quality.state.problem)
    session.quality.measure()  # asked for: told
    assert session.wait(TIMEOUT_S)
    assert len(heard.of("problem")) == 3
    session.calibration.tokenizer = pair[1]
    session.configure(group_size=64)
    assert session.wait(TIMEOUT_S)
    assert session.quality.state.problem is None and session.quality.state.measured is not None
    assert session.quality.prompt.answers is not None and session.quality.prompt.answers.done


# --- the text ---------------------------------------------------------------------------------------------------------


def test_the_demo_model_begins_with_its_held_out_text_and_others_with_none(pair, session):
    assert session.quality.state.origin == TYPED_ORIGIN
    session.quality.use_demo_text()
    assert (session.quality.text.text, session.quality.state.origin) == (demo_eval_text(), DEMO_ORIGIN)
    bare = open_session(nn.Sequential(nn.Linear(64, 64)))
    assert bare.quality.state.origin == ""
    with pytest.raises(ConfigError, match="no text to measure on"):
        bare.quality.measure()
    with pytest.raises(ConfigError, match="comes with no text"):
        bare.quality.use_demo_text()


def test_a_file_is_read_and_named_and_a_bad_one_changes_nothing(session, tmp_path, monkeypatch):
    path = tmp_path / "wiki.test.raw"
    path.write_text(" = Title = \n" + TEXT[:4000], encoding="utf-8")
    session.quality.load_file(path)
    assert session.quality.state.path == path and session.quality.state.characters == 4012
    with pytest.raises(ConfigError, match="cannot be read"):
        session.quality.load_file(tmp_path / "none.txt")
    blank = tmp_path / "blank.txt"
    blank.write_text(" \n\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"blank\.txt' holds no word"):
        session.quality.load_file(blank)
    monkeypatch.setattr("workbench.session.quality_text.MAX_CHARACTERS", 100)
    with pytest.raises(ConfigError, match=r"up to 100.*head -c"):
        session.quality.load_file(path)
    with pytest.raises(ConfigError, match="half of a pair"):
        session.quality.set_text("ab\ud83d c")
    assert session.quality.state.path == path


@pytest.mark.parametrize("wrong", [{"window": 100}, {"windows": 0}, {"windows": "some"}, {"windows": True}])
def test_settings_out_of_range_are_refused(session, wrong):
    before = session.quality.state
    with pytest.raises(ConfigError, match="Allowed"):
        session.quality.configure(**wrong)
    assert session.quality.state == before


@pytest.mark.parametrize(("prompt", "tokens"), [("", 4), (" \n", 4), (PROMPT, 0), (PROMPT, 513), (PROMPT, 1.5)])
def test_prompts_that_cannot_be_answered_are_refused(session, prompt, tokens):
    with pytest.raises(ConfigError):
        session.quality.prompt.ask(prompt, tokens)
    assert session.quality.prompt.answers is None and not session.quality.prompt.lane.busy


# --- what flatters, and where it is measured --------------------------------------------------------------------------


def test_the_calibration_text_is_not_taken_for_a_held_out_one(session):
    state = lambda: session.quality.state  # noqa: E731
    session.quality.set_text(session.calibration.text)
    assert not state().calibrated_on  # no layer looks at it
    session.configure(solver="calibrated", scope="layer")
    assert state().calibrated_on
    session.quality.set_text(TEXT)
    assert not state().calibrated_on
    session.calibration.set_text("before " + TEXT + " after")
    assert state().calibrated_on  # a part of it flatters too
    session.configure(solver="rtn", scope="layer")
    assert not state().calibrated_on


def test_a_folder_that_is_to_run_on_cuda_is_measured_on_the_cpu_and_says_so(pair):
    assert open_session("demo", device="cpu").quality.state.device_note == ""
    assert open_session(*pair, device="cuda").quality.state.device_note == ""  # a model is measured where it is
    note = open_session("demo", device="cuda").quality.state.device_note
    assert note.startswith("measured on the CPU") and "device='cuda'" in note
