"""Calibration text and moments; calibrated models, checkpoints and reports, end to end on tiny models."""

from __future__ import annotations

import contextlib
import json
import threading

import pytest
import torch
import transformers
from torch import nn

import workbench as wb
from tests.calibrated_models import VOCABULARY, Letters, hand_made, inputs_of
from tests.tiny_models import logits, make, saved
from workbench.calibration import Calibration, MomentRun, as_calibration, layer_moments
from workbench.checkpoint.save import iter_write_quantized
from workbench.coverage.preflight import preflight_source
from workbench.errors import Cancelled, ConfigError, ModelError
from workbench.hf.loading import load_checkpoint, load_model
from workbench.hf.skeleton import open_source
from workbench.options import CalibratedOptions
from workbench.recipe.recipe import Choice, Recipe, Rule, as_recipe
from workbench.sequential import iter_sequential
from workbench.solvers import InputMoments
from workbench.solving import iter_quantize
from workbench.sources import ModelSource

G32 = wb.Int4WeightOnlyConfig(group_size=32)
FAST = CalibratedOptions(candidates=1, sweeps=0)
TEXT = "The module provides some words, and then the same words again. " * 20


@pytest.fixture(autouse=True)
def several_batches(monkeypatch):
    monkeypatch.setattr("workbench.calibration._BATCH_TOKENS", {"cpu": 100})


def ids_of(sequences=12, length=32, seed=0):
    return torch.randint(2, VOCABULARY, (sequences, length), generator=torch.Generator().manual_seed(seed))


def linears(model):
    return [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]


def calibrated(model, calibration, **settings):
    settings = {"solver": "calibrated", "options": FAST, **settings}
    return wb.quantize_(model, G32, calibration=calibration, **settings)


def int4_state(model):
    return {
        name: module.quantized_weight() for name, module in model.named_modules() if isinstance(module, wb.Int4Linear)
    }


def assert_same_bits(one, other):
    ours, theirs = int4_state(one), int4_state(other)
    assert list(ours) == list(theirs) and ours
    for name, weight in ours.items():
        assert torch.equal(weight.codes, theirs[name].codes), name
        assert torch.equal(weight.scale, theirs[name].scale) and torch.equal(weight.zero, theirs[name].zero)
        assert weight.solved_by == theirs[name].solved_by


# --- text ---------------------------------------------------------------------------------------------------------


def test_a_text_is_cut_into_sequences_from_its_beginning():
    letters = Letters()(TEXT)["input_ids"]
    cut = Calibration.from_text(TEXT, Letters(), sequence_length=50, max_sequences=3)
    assert cut.ids.dtype == torch.int64 and cut.ids.shape == (3, 50) and cut.tokens == 150
    assert cut.ids.flatten().tolist() == letters[:150]
    assert cut.notes == (f"150 of the text's {len(letters)} tokens are used: 3 sequences of 50",)
    assert repr(cut) == "Calibration(3 sequences of 50 tokens)"


@pytest.mark.parametrize(
    "ids",
    [
        torch.zeros(4, dtype=torch.int64),
        torch.zeros(2, 8),
        torch.zeros(0, 8).long(),
        torch.zeros(2, 1).long(),
        [[1, 2]],
    ],
)
def test_ids_of_another_shape_or_dtype_are_refused(ids):
    with pytest.raises(ConfigError, match=r"Calibration ids are .*int64 \[sequences, tokens\]"):
        Calibration(ids)


def test_a_text_needs_a_tokenizer():
    with pytest.raises(ConfigError, match="without a tokenizer"):
        Calibration.from_text(TEXT, None)
    with pytest.raises(ConfigError, match="without a tokenizer"):
        calibrated(make("qwen2"), TEXT)


def test_what_a_calibration_can_be_made_of():
    ready = Calibration(ids_of())
    assert as_calibration(None) is None and as_calibration(ready) is ready
    assert torch.equal(as_calibration(ids_of()).ids, ready.ids)
    assert torch.equal(as_calibration([TEXT], Letters()).ids, as_calibration(TEXT, Letters()).ids)
    with pytest.raises(ConfigError, match="calibration=5"):
        as_calibration(5)


# --- moments ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["llama_odd", "opt", "t5", "mixture", "repeated", "by name"])
def test_moments_are_those_of_the_model_as_it_is(name):
    model = make(name) if name in ("llama_odd", "opt", "t5") else hand_made(name)
    shares = []
    found = layer_moments(model, linears(model), Calibration(ids_of()), progress=shares.append)
    inputs = inputs_of(model, linears(model), ids_of())
    for layer in linears(model):
        exact = inputs[layer].t() @ inputs[layer]
        assert found[layer].tokens == len(inputs[layer])
        torch.testing.assert_close(found[layer].total.double(), exact, rtol=0, atol=float(1e-5 * exact.max()))
    assert shares == sorted(set(shares)) and len(shares) == 4 and shares[-1] == 1


def test_layers_with_the_same_input_share_their_moments():
    found = layer_moments(make("qwen2"), linears(make("qwen2")), Calibration(ids_of()))
    prefix = "model.layers.1.self_attn"
    assert found[f"{prefix}.q_proj"] is found[f"{prefix}.k_proj"] is found[f"{prefix}.v_proj"]
    assert found[f"{prefix}.q_proj"] is not found[f"{prefix}.o_proj"]


def test_a_layer_that_is_not_reached_has_no_tokens():
    model = hand_made("mixture", starve=True)
    found = layer_moments(model, ["layers.0.experts.3.w1", "layers.0.experts.0.w1"], Calibration(ids_of()))
    assert found["layers.0.experts.3.w1"].tokens == 0 < found["layers.0.experts.0.w1"].tokens


def test_an_expert_that_only_a_later_sequence_reaches_is_seen():
    model = hand_made("mixture")
    calibration, names = Calibration(ids_of(30)), [name for name in linears(model) if "experts" in name]
    first = inputs_of(model, names, calibration.ids[:1, :2])
    assert len(first) < len(names)
    calibration = Calibration(torch.cat((calibration.ids[:1, :2].repeat(1, 16), calibration.ids)))
    found, inputs = layer_moments(model, names, calibration), inputs_of(model, names, calibration.ids)
    assert {name: found[name].tokens for name in names} == {name: len(inputs.get(name, ())) for name in names}


def test_dropout_is_off_and_flags_come_back():
    model = make("opt").train()
    found = layer_moments(model, ["model.decoder.layers.1.fc2"], Calibration(ids_of()))
    again = layer_moments(model.eval(), ["model.decoder.layers.1.fc2"], Calibration(ids_of()))
    assert all(torch.equal(found[name].total, again[name].total) for name in found)
    model.train()
    layer_moments(model, ["model.decoder.layers.1.fc2"], Calibration(ids_of()))
    assert all(module.training for module in model.modules())


def test_cancelled_no_hook_is_left():
    model, cancel = make("llama_odd"), threading.Event()
    steps = MomentRun(model, linears(model), Calibration(ids_of())).steps(cancel)
    next(steps)
    cancel.set()
    with pytest.raises(Cancelled):
        next(steps)
    assert not any(module._forward_pre_hooks for module in model.modules())


class StopsAt(threading.Event):
    """An event that is found set the `place`-th time somebody looks at it."""

    def __init__(self, place):
        super().__init__()
        self.place, self.looks = place, 0

    def is_set(self):
        self.looks += 1
        return self.looks >= self.place


def looks_of(model, names, calibration):
    never = StopsAt(10**9)
    list(MomentRun(model, names, calibration).steps(never))
    return never.looks


@pytest.mark.parametrize("name", ["qwen2", "mixture", "repeated"])
def test_stopped_anywhere_a_run_goes_on_to_the_same_bits(name, monkeypatch):
    monkeypatch.setattr("workbench.solvers.panels.LEAST_PANEL", 16)
    model = make(name) if name == "qwen2" else hand_made(name)
    names, calibration = linears(model), Calibration(ids_of())
    whole, looks = layer_moments(model, names, calibration), looks_of(model, names, calibration)
    for place in range(2, looks, looks // 7):
        run = MomentRun(model, names, calibration)
        with pytest.raises(Cancelled):
            list(run.steps(StopsAt(place)))
        rest = StopsAt(10**9)
        assert list(run.steps(rest))[-1] == run.share == 1 and rest.looks <= looks
        found = run.moments()
        assert all(torch.equal(found[layer].total, whole[layer].total) for layer in names), place
        assert all(found[layer].tokens == whole[layer].tokens for layer in names)


def test_stopped_again_and_again_a_run_comes_to_its_end(monkeypatch):
    monkeypatch.setattr("workbench.solvers.panels.LEAST_PANEL", 16)
    model, calibration, passes = make("qwen2"), Calibration(ids_of()), []
    handle = model.register_forward_pre_hook(lambda *_: passes.append(1))
    run, shares = MomentRun(model, linears(model), calibration), []
    while run.share < 1:
        shares.append(run.share)
        with contextlib.suppress(Cancelled):
            list(run.steps(StopsAt(100)))
    handle.remove()
    whole = layer_moments(model, linears(model), calibration)
    assert all(torch.equal(found.total, whole[name].total) for name, found in run.moments().items())
    assert len(set(shares)) < len(shares) == len(passes) - 4  # a probe and four batches, and one more for each stop


@pytest.mark.parametrize("how", ["as it is", "in order"])
def test_a_pass_stops_at_the_next_layer_whichever_layers_are_watched(how):
    model, cancel, after = make("qwen2"), threading.Event(), []
    layers = [model.get_submodule(name) for name in linears(model)]
    handles = [layer.register_forward_hook(lambda *_: after.append(1) if cancel.is_set() else None) for layer in layers]
    handles.append(layers[0].register_forward_hook(lambda *_: cancel.set()))
    last = ["model.layers.1.mlp.down_proj"]
    with pytest.raises(Cancelled):
        if how == "as it is":
            layer_moments(model, last, Calibration(ids_of()), cancel=cancel)
        else:
            solve = lambda name, moments: pytest.fail("the pass went on")  # noqa: E731
            list(iter_sequential(model, last, {last[0]: True}, Calibration(ids_of()), solve, cancel=cancel))
    assert after == []
    for handle in handles:
        handle.remove()


def test_another_thread_adds_nothing():
    model, calibration = make("llama_odd"), Calibration(ids_of())
    expected = layer_moments(model, linears(model), calibration)

    def elsewhere(_share):
        other = threading.Thread(target=logits, args=(model,))
        other.start()
        other.join()

    found = layer_moments(model, linears(model), calibration, progress=elsewhere)
    assert all(found[name].tokens == expected[name].tokens for name in expected)
    assert all(torch.equal(found[name].total, expected[name].total) for name in expected)


def test_memory_is_forecast_before_the_model_is_run():
    model = make("llama_odd")
    model.forward = lambda **_: pytest.fail("the model was run")
    small = Calibration(ids_of(), memory_limit=5 * InputMoments.size_bytes(77))
    with pytest.raises(ConfigError, match=r"77 input features takes .* MB, more than .* MB.*raise memory_limit"):
        layer_moments(model, linears(model), small)
    with pytest.raises(ConfigError, match="77 input features"):
        calibrated(model, small)


# --- quantize_ ----------------------------------------------------------------------------------------------------


def test_text_ids_and_calibration_give_the_same_bits():
    cut = Calibration.from_text(TEXT, Letters(), sequence_length=40)
    models = [make("qwen2") for _ in range(4)]
    calibrated(models[0], cut)
    calibrated(models[1], cut.ids)
    calibrated(models[2], Calibration(cut.ids, memory_limit=6 * InputMoments.size_bytes(96)))
    with pytest.raises(ConfigError, match=r"sequences of 512 tokens.*at most 64"):
        calibrated(models[3], Calibration.from_text(TEXT, Letters()))
    calibrated(models[3], Calibration.from_text([TEXT], Letters(), sequence_length=40))
    for model in models[1:]:
        assert_same_bits(model, models[0])


def test_a_text_is_cut_to_what_the_model_takes_and_the_report_says_so():
    models, positions = [make("qwen2") for _ in range(2)], 64
    report = calibrated(models[0], TEXT, tokenizer=Letters())
    assert report.notes[0] == "sequences of 64 tokens instead of 512: the model has no more positions"
    assert f"note: {report.notes[0]}" in str(report)
    calibrated(models[1], Calibration.from_text(TEXT, Letters(), sequence_length=positions))
    assert_same_bits(*models)


def test_an_export_says_how_the_text_was_cut(tmp_path):
    folder = saved("qwen2", tmp_path)
    settings = {"solver": "calibrated", "options": FAST, "calibration": TEXT, "tokenizer": Letters()}
    report = wb.export(folder, tmp_path / "out", "native", recipe=G32, **settings)
    said = "sequences of 64 tokens instead of 512: the model has no more positions"
    assert f"note: {said}" in str(report) and said in (tmp_path / "out" / "README.md").read_text()


def test_a_short_text_with_its_tokenizer_gives_the_bits_of_its_ids():
    one, other, text = make("qwen2"), make("qwen2"), TEXT[:60]
    report = calibrated(one, text, tokenizer=Letters(), options=CalibratedOptions(candidates=1, sweeps=0, min_tokens=8))
    calibrated(
        other,
        torch.tensor([Letters()(text)["input_ids"]]),
        options=CalibratedOptions(candidates=1, sweeps=0, min_tokens=8),
    )
    assert_same_bits(one, other)
    assert "the text has 60 tokens, fewer than a sequence of 512: one shorter sequence" in str(report)


def test_calibrated_layers_are_nearer_in_what_the_model_says():
    dense, ids = make("qwen2"), ids_of(40)
    say = {}
    for solver in ("refined", "calibrated"):
        model = make("qwen2")
        options = CalibratedOptions() if solver == "calibrated" else None
        calibration = ids if solver == "calibrated" else None
        report = wb.quantize_(model, G32, solver=solver, calibration=calibration, options=options)
        assert {layer.solver for layer in report.layers} == {solver}
        with torch.no_grad():
            say[solver] = float((model(input_ids=ids).logits - dense(input_ids=ids).logits).square().mean())
    assert say["calibrated"] < 0.8 * say["refined"]


@pytest.mark.parametrize("name", ["llama_odd", "opt", "t5", "mixtral"])
def test_families_are_calibrated_and_the_report_says_how(name):
    model = make(name)
    report = calibrated(model, ids_of())
    names = [row.name for row in report.coverage.int4_rows]
    stacks = {row.name for row in report.coverage.int4_rows if row.kind == "experts"}
    assert sorted(layer.name for layer in report.layers) == sorted(names)
    assert sorted(int4_state(model)) == sorted(set(names) - stacks)
    for layer in report.layers:
        if layer.name in stacks:
            assert layer.solver == "refined"
            continue
        assert layer.solver == "calibrated" and layer.objective == "mean squared output error"
        assert layer.error <= layer.rtn_error
    assert {weight.solved_by for weight in int4_state(model).values()} == {"calibrated/2"}
    assert torch.isfinite(logits(model)).all()


def test_experts_that_are_rarely_reached_are_named_in_the_report():
    model = hand_made("mixture", starve=True)
    report = calibrated(model, ids_of(30))
    layers = {layer.name: layer for layer in report.layers}
    starved = layers["layers.0.experts.3.w1"]
    assert starved.solver == "refined" and starved.objective == "mean squared error"
    reason = "solved with refined instead of calibrated: 0 tokens of the calibration text reached it, fewer than 128"
    assert starved.notes == (reason,)
    told = [line for line in str(report).splitlines() if reason in line]
    assert len(told) == 1 and "layers.0.experts.3.w1" in told[0] and "layers.0.experts.3.w2" in told[0]
    assert model.get_submodule("layers.0.experts.3.w1").quantized_weight().solved_by == "refined/1"
    assert layers["layers.0.experts.1.w1"].solver == "calibrated"


def test_a_mixed_recipe_solves_each_layer_as_it_says():
    model = make("qwen2")
    recipe = Recipe(
        Choice(G32, "calibrated", options=FAST),
        (
            Rule("v_proj", Choice(wb.Int4WeightOnlyConfig(group_size=32, use_hqq=True))),
            Rule("layers.0.mlp.down_proj", None),
            Rule("up_proj", Choice(G32, "refined", "int")),
        ),
    )
    report = wb.quantize_(model, recipe, calibration=ids_of())
    solvers = {layer.name.rsplit(".", 1)[1]: layer.solver for layer in report.layers}
    assert (solvers["v_proj"], solvers["up_proj"], solvers["q_proj"]) == ("hqq", "refined", "calibrated")
    assert isinstance(model.model.layers[0].mlp.down_proj, nn.Linear)
    alone = wb.quantize_weight(make("qwen2").model.layers[1].mlp.up_proj.weight, G32, "refined", "int")
    assert torch.equal(model.model.layers[1].mlp.up_proj.quantized_weight().codes, alone.codes)


@pytest.mark.parametrize("after", [1, 8])
def test_cancelling_leaves_the_model_as_it_was(after):
    model, cancel, seen = make("qwen2"), threading.Event(), []
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    def count(step):
        seen.append(step.label)
        if len(seen) == after:
            cancel.set()

    with pytest.raises(Cancelled):
        calibrated(model, ids_of(), progress=count, cancel=cancel)
    assert len(seen) == after and not int4_state(model)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not any("forward" in vars(module) or module._forward_pre_hooks for module in model.modules())


def test_progress_reaches_all_layers_in_the_order_of_the_model():
    model, seen = make("qwen2"), []
    report = calibrated(model, ids_of(), progress=seen.append)
    assert [step.label for step in seen] == [layer.name for layer in report.layers]
    assert seen[-1].done == seen[-1].total
    first = [layer.name for layer in report.layers[:7]]
    assert all("layers.0" in name for name in first) and first[-1].endswith("down_proj")


# --- what is refused ----------------------------------------------------------------------------------------------


def test_calibration_and_calibrated_go_together():
    with pytest.raises(ConfigError, match="no layer that is to be calibrated"):
        wb.quantize_(make("qwen2"), G32, calibration=ids_of())
    with pytest.raises(ConfigError, match=r"is to be calibrated, and there is no calibration text.*solver='refined'"):
        wb.quantize_(make("qwen2"), G32, solver="calibrated")


def test_a_folder_needs_its_model_to_be_calibrated(tmp_path):
    source = open_source(saved("qwen2", tmp_path))
    coverage = preflight_source(source, as_recipe(G32, solver="calibrated"))
    with pytest.raises(ConfigError, match="pass model="):
        next(iter(iter_quantize(source, coverage, calibration=Calibration(ids_of()))))


def test_a_model_of_images_is_refused_with_the_mend():
    config = transformers.ViTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48, image_size=16, patch_size=8
    )
    model = transformers.ViTForImageClassification(config)
    with pytest.raises(ModelError, match=r"cannot be run on calibration text.*use solver='refined'"):
        calibrated(model, ids_of())
    assert not int4_state(model)


# --- checkpoints --------------------------------------------------------------------------------------------------


def test_writing_a_folder_gives_the_bits_of_the_live_model(tmp_path):
    folder, calibration = saved("qwen2", tmp_path), Calibration(ids_of())
    model, source = load_model(folder)[0], open_source(folder)
    recipe = as_recipe(G32, solver="calibrated", options=FAST)
    steps = iter_write_quantized(
        source, preflight_source(source, recipe), recipe, tmp_path / "out", calibration=calibration, model=model
    )
    order = [step.result.name for step in steps]
    assert not int4_state(model)
    report = calibrated(model, calibration)
    assert [layer.name for layer in report.layers] == order
    loaded, _ = load_checkpoint(tmp_path / "out")
    assert_same_bits(loaded, model)
    assert torch.equal(logits(loaded), logits(model))


def test_a_checkpoint_says_what_solved_each_layer(tmp_path):
    model = make("qwen2")
    recipe = Recipe(Choice(G32, "calibrated", options=FAST), (Rule("v_proj", Choice(G32, "refined")),))
    wb.quantize_(model, recipe, calibration=ids_of())
    forms = {name: weight.solved_by for name, weight in int4_state(model).items()}
    assert set(forms.values()) == {"calibrated/2", "refined/1"}
    written = json.loads((wb.save_checkpoint(model, tmp_path / "one") / "config.json").read_text())
    settings = json.dumps(written["quantization_config"])
    assert "calibrated/2" in settings and "refined/1" in settings
    loaded, _ = wb.load_checkpoint(tmp_path / "one")
    assert_same_bits(loaded, model)
    again, _ = wb.load_checkpoint(wb.save_checkpoint(loaded, tmp_path / "two"))
    assert {name: weight.solved_by for name, weight in int4_state(again).items()} == forms


def test_a_live_source_needs_no_second_model():
    model = make("llama_odd")
    source = ModelSource(model)
    coverage = preflight_source(source, as_recipe(G32, solver="calibrated", options=FAST))
    steps = list(iter_quantize(source, coverage, calibration=Calibration(ids_of())))
    assert len(steps) == len(coverage.int4_rows)
    calibrated(model, ids_of())
    for step in steps:
        assert torch.equal(step.weight.codes, model.get_submodule(step.result.name).quantized_weight().codes)
