"""Layers under accelerate's hooks: weights read from where they are kept, hooks that stay when layers change."""

from __future__ import annotations

import accelerate
import pytest
import torch
from accelerate.hooks import AlignDevicesHook, ModelHook, SequentialHook, add_hook_to_module
from torch import nn

import workbench as wb
from tests.tiny_models import hushed, logits, make
from workbench.layers import model_device, swap_layer, weight_as_used
from workbench.offload import execution_device, follow_hook, layer_device, offload_note, offloaded_values

G32 = wb.Int4WeightOnlyConfig(group_size=32)
Q = "model.layers.0.self_attn.q_proj"


@pytest.fixture(autouse=True)
def _hushed():
    with hushed():
        yield


def disk_map(*blocks, model):
    """A map that puts some blocks on disk and the rest of a small decoder in memory."""
    names = ["model.embed_tokens", "model.norm", "model.rotary_emb", "lm_head"]
    names += [f"model.layers.{index}" for index in range(model.config.num_hidden_layers)]
    return {name: "disk" if name in blocks else "cpu" for name in names}


def offloaded(folder, *blocks, family="qwen2"):
    model = make(family)
    return accelerate.dispatch_model(model, disk_map(*blocks, model=model), offload_dir=folder)


class Counting(ModelHook):
    """A hook of a person's own."""

    calls = 0

    def pre_forward(self, module, *args, **kwargs):
        self.calls += 1
        return args, kwargs


def test_values_come_from_where_they_are_kept(tmp_path):
    dense = make("qwen2").get_submodule(Q)
    layer = offloaded(tmp_path, "model.layers.0").get_submodule(Q)
    assert layer.weight.is_meta and layer.bias.is_meta
    for name in ("weight", "bias"):
        assert torch.equal(offloaded_values(layer, name), getattr(dense, name))
    assert layer.weight.is_meta  # and it stays there
    assert offloaded_values(layer, "nothing") is None
    assert offloaded_values(dense, "weight") is dense.weight
    assert offloaded_values(dense.to("meta"), "weight").is_meta


def test_a_value_that_nobody_keeps_stays_on_the_meta_device(tmp_path):
    layer = offloaded(tmp_path, "model.layers.0").get_submodule(Q)
    layer.extra = nn.Parameter(torch.empty(3, device="meta"))
    assert offloaded_values(layer, "extra").is_meta


def test_a_stored_value_has_the_dtype_of_its_parameter():
    layer = nn.Linear(4, 3)
    kept = {name: value.detach().double() for name, value in layer.named_parameters()}
    add_hook_to_module(layer, AlignDevicesHook("cpu", offload=True, weights_map=kept))
    assert layer.weight.is_meta and offloaded_values(layer, "weight").dtype == torch.float32


@pytest.mark.parametrize(("device", "want"), [("cpu", "cpu"), (1, "cuda:1"), (torch.device("cuda", 0), "cuda:0")])
def test_the_device_that_runs_it(device, want):
    layer = nn.Linear(4, 3)
    layer._hf_hook = AlignDevicesHook(device, offload=True, weights_map={})
    assert execution_device(layer) == torch.device(want)
    layer._hf_hook = SequentialHook(Counting(), layer._hf_hook)
    assert execution_device(layer) == torch.device(want)


def test_only_an_offloaded_module_has_a_device_of_its_own():
    layer = nn.Linear(4, 3)
    assert execution_device(layer) is None
    for hook in (AlignDevicesHook("cpu"), Counting()):
        add_hook_to_module(layer, hook)
        assert execution_device(layer) is None


def test_a_stack_of_experts_is_where_its_module_is(tmp_path):
    model = offloaded(tmp_path, "model.layers.1", family="mixtral")
    assert layer_device(model, "model.layers.1.mlp.experts.gate_up_proj") == torch.device("cpu")
    assert layer_device(model, "model.layers.0.mlp.experts.gate_up_proj") is None
    assert layer_device(model, Q) is None and layer_device(model, "no.such.layer") is None
    dense = make("mixtral").model.layers[1].mlp.experts.gate_up_proj
    assert torch.equal(weight_as_used(model, "model.layers.1.mlp.experts.gate_up_proj"), dense)


def test_a_look_at_an_offloaded_model_reads_nothing(tmp_path, monkeypatch):
    model = offloaded(tmp_path, "model.layers.0", family="mixtral")
    monkeypatch.setattr(accelerate.utils.OffloadedWeightsLoader, "__getitem__", lambda *_: pytest.fail("read"))
    coverage = wb.preflight(model, G32)
    assert [row.decision for row in coverage.rows] == [row.decision for row in wb.preflight(make("mixtral"), G32).rows]
    assert weight_as_used(model, Q, read=False).is_meta


def test_a_model_whose_first_weight_is_offloaded_runs_where_accelerate_runs_it(tmp_path):
    assert model_device(offloaded(tmp_path, "model.embed_tokens", "lm_head")) == torch.device("cpu")
    assert model_device(make("qwen2").to("meta")) == torch.device("meta")


def test_the_note_counts_what_was_offloaded(tmp_path):
    model = offloaded(tmp_path, "model.layers.0")
    names = [Q, Q.replace("q_proj", "k_proj"), Q.replace("layers.0", "layers.1")]
    assert offload_note(model, names) == (
        f"2 layers were offloaded, first {Q}: in int4 they stay in the memory of cpu",
    )
    assert offload_note(model, names[2:]) == offload_note(make("qwen2"), names) == ()


def test_a_hook_goes_with_the_place_and_the_old_layer_can_be_put_back(tmp_path):
    model = offloaded(tmp_path, "model.layers.0")
    want = logits(model)
    old = model.get_submodule(Q)
    new = nn.Linear(64, 64)
    swap_layer(model, Q, new)
    assert isinstance(new._hf_hook, AlignDevicesHook) and not new._hf_hook.offload
    assert not new.weight.is_meta and new(torch.zeros(1, 64)).shape == (1, 64)
    before = old._hf_hook
    swap_layer(model, Q, old)
    assert old._hf_hook is before
    assert torch.equal(logits(model), want)


def test_hooks_of_ones_own_go_along():
    own, old, new = Counting(), nn.Linear(4, 3), nn.Linear(4, 3)
    add_hook_to_module(old, AlignDevicesHook("cpu", io_same_device=True, skip_keys=["cache"]))
    add_hook_to_module(old, own, append=True)
    follow_hook(old, new)
    new(torch.zeros(1, 4))
    assert own.calls == 1
    align = new._hf_hook.hooks[0]
    assert (align.execution_device, align.io_same_device, align.skip_keys) == ("cpu", True, ["cache"])


def test_a_layer_without_a_hook_gives_none():
    new = nn.Linear(4, 3)
    follow_hook(nn.Linear(4, 3), new)
    assert not hasattr(new, "_hf_hook")


# --- whole models ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["qwen2", "mixtral"])
@pytest.mark.parametrize("blocks", [["model.layers.1"], ["model.embed_tokens", "lm_head", "model.layers.0"]], ids=str)
def test_an_offloaded_model_becomes_int4_as_one_in_memory(family, blocks, tmp_path):
    whole = make(family)
    wb.quantize_(whole, G32)
    model = offloaded(tmp_path / "away", *blocks, family=family)
    hooked = {name for name, module in model.named_modules() if hasattr(module, "_hf_hook")}
    report = wb.quantize_(model, G32)
    assert "layers were offloaded, first model.layers." in str(report)
    assert hooked == {name for name, module in model.named_modules() if hasattr(module, "_hf_hook")}
    assert torch.equal(logits(model), logits(whole))
    wb.save_checkpoint(model, tmp_path / "int4")
    assert torch.equal(logits(wb.load_checkpoint(tmp_path / "int4")[0]), logits(whole))


def test_calibration_of_an_offloaded_model(tmp_path):
    ids = torch.randint(2, 97, (4, 16), generator=torch.Generator().manual_seed(0))
    whole = make("qwen2")
    wb.quantize_(whole, G32, solver="calibrated", calibration=ids)
    model = offloaded(tmp_path, "model.layers.0", "model.embed_tokens")
    wb.quantize_(model, G32, solver="calibrated", calibration=ids)
    assert torch.equal(logits(model), logits(whole))


@pytest.mark.parametrize("family", ["qwen2", "mixtral"])
@pytest.mark.parametrize("how", ["dispatch", "disk", "cpu_offload", "disk_offload", "buffers_too"])
def test_an_int4_model_is_dispatched_and_offloaded(family, how, tmp_path):
    model = make(family)
    wb.quantize_(model, G32)
    want = logits(model)
    if how == "dispatch":
        accelerate.dispatch_model(model, {"": "cpu"}, force_hooks=True)
    elif how == "disk":
        accelerate.dispatch_model(model, disk_map("model.layers.0", model=model), offload_dir=tmp_path)
    elif how == "disk_offload":
        accelerate.disk_offload(model, tmp_path, execution_device="cpu")
    else:
        accelerate.cpu_offload(model, execution_device="cpu", offload_buffers=how == "buffers_too")
    assert torch.equal(logits(model), want)
    assert torch.equal(logits(model), want)
    wb.save_checkpoint(model, tmp_path / "int4")
    assert torch.equal(logits(wb.load_checkpoint(tmp_path / "int4")[0]), want)
    accelerate.hooks.remove_hook_from_submodules(model)
    assert torch.equal(logits(model), want)


def test_a_map_is_inferred_for_an_int4_model():
    model = make("qwen2")
    wb.quantize_(model, G32)
    found = accelerate.infer_auto_device_map(model, max_memory={"cpu": 40_000, "disk": 10**9})
    assert set(found.values()) == {"cpu", "disk"}
