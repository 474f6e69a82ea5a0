"""Whole quantized models through torch.compile and torch.export: one graph, any batch size, logits as in eager mode."""

from __future__ import annotations

import io
import shutil

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from torch.export import Dim

from tests import tiny_models
from workbench import Int4Linear, Int4WeightOnlyConfig, compile_model, quantize_

FAMILIES = [("qwen2", torch.bfloat16), ("llama_odd", torch.float32), ("opt", torch.bfloat16), ("t5", torch.float32)]


@pytest.fixture(autouse=True)
def _fresh():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def int4_model(family="qwen2", dtype=torch.bfloat16, **changes):
    model = tiny_models.make(family, **changes).to(dtype)
    quantize_(model, Int4WeightOnlyConfig(group_size=32))
    return model.requires_grad_(False)


def inputs(model, batch, length=7):
    ids = torch.arange(batch * length).view(batch, length) % 90 + 2
    return {"input_ids": ids, **({"decoder_input_ids": ids[:, :5]} if model.config.is_encoder_decoder else {})}


def int4_layers(model):
    return [module for module in model.modules() if isinstance(module, Int4Linear)]


def int4_calls(graph):
    return [node for node in graph.nodes if "workbench.int4_linear" in str(node.target)]


@pytest.mark.parametrize(("family", "dtype"), FAMILIES)
def test_one_graph_serves_every_batch_size_and_gives_the_logits_of_eager_mode(family, dtype):
    model = int4_model(family, dtype, **({"num_hidden_layers": 1} if family != "t5" else {}))
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(model, backend=counter, fullgraph=True, dynamic=True)
    with torch.no_grad():
        compiled(**inputs(model, 3), use_cache=False)
        with torch.compiler.set_stance("fail_on_recompile"):
            for batch in (2, 5, 17, 70):  # among them those where another path of the kernel is faster
                result = compiled(**inputs(model, batch), use_cache=False).logits
                assert torch.equal(result, model(**inputs(model, batch), use_cache=False).logits)
    (graph,) = counter.graphs[-1:]
    assert len(int4_calls(graph.graph)) == len(int4_layers(model))


def test_sizes_become_dynamic_by_themselves_at_the_second_one():
    model = int4_model(num_hidden_layers=1)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        for batch, length in ((2, 7), (3, 8)):
            compiled(**inputs(model, batch, length), use_cache=False)
        with torch.compiler.set_stance("fail_on_recompile"):
            for batch, length in ((4, 9), (2, 7), (9, 33)):
                result = compiled(**inputs(model, batch, length), use_cache=False).logits
                assert torch.equal(result, model(**inputs(model, batch, length), use_cache=False).logits)


def test_generating_with_a_static_cache_compiles_once_for_prompts_and_once_for_steps():
    model, eager = (int4_model(num_hidden_layers=1) for _ in range(2))
    counter = CompileCounterWithBackend("aot_eager")
    compile_model(model, backend=counter, fullgraph=True)
    given = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False, "cache_implementation": "static"}
    ids = inputs(model, 1)["input_ids"]
    expected = eager.generate(ids, **given)
    assert torch.equal(model.generate(ids, **given), expected)
    assert counter.frame_count == 2
    with torch.compiler.set_stance("fail_on_recompile"):
        assert torch.equal(model.generate(ids, **given), expected)


def test_gradients_go_through_one_graph_of_any_batch_size():
    model = int4_model(dtype=torch.float32, num_hidden_layers=1)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True, dynamic=True)

    def gradient(run, batch):
        x = model.get_input_embeddings()(inputs(model, batch)["input_ids"]).detach().requires_grad_()
        run(inputs_embeds=x, use_cache=False).logits.square().sum().backward()
        return x.grad

    gradient(compiled, 3)
    with torch.compiler.set_stance("fail_on_recompile"):
        for batch in (2, 5):
            ours, theirs = gradient(compiled, batch), gradient(model, batch)
            assert torch.allclose(ours, theirs, rtol=1e-3, atol=1e-4) and ours.abs().max() > 0


@pytest.mark.skipif(not shutil.which("c++"), reason="inductor compiles C++")
def test_inductor_compiles_the_whole_model():
    model, eager = (int4_model(num_hidden_layers=1) for _ in range(2))
    compile_model(model, fullgraph=True, dynamic=True)
    with torch.no_grad():
        model(**inputs(model, 3), use_cache=False)
        with torch.compiler.set_stance("fail_on_recompile"):
            for batch in (2, 5):
                result = model(**inputs(model, batch), use_cache=False).logits.float()
                expected = eager(**inputs(model, batch), use_cache=False).logits.float()
                assert (result - expected).norm() < 0.02 * expected.norm()  # it rounds to bfloat16 less often


# --- torch.export -----------------------------------------------------------------------------------------------------


def reloaded(program):
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    return torch.export.load(file)


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("family", ["qwen2", "llama_odd"])
def test_an_mlp_is_exported_with_a_dynamic_batch(family, strict):
    mlp = int4_model(family, torch.float32).model.layers[0].mlp
    width = mlp.gate_proj.in_features
    program = torch.export.export(mlp, (torch.randn(3, width),), dynamic_shapes=({0: Dim("batch")},), strict=strict)
    assert len(int4_calls(program.graph)) == 3
    for one in (program, reloaded(program), program.run_decompositions()):
        for batch in (2, 40):
            x = torch.randn(batch, width)
            assert torch.equal(one.module()(x), mlp(x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_model_is_exported_with_a_dynamic_batch(dtype):
    model = int4_model(dtype=dtype, num_hidden_layers=1)
    shapes = {"input_ids": {0: Dim("batch", max=64)}, "use_cache": None}
    program = torch.export.export(model, (), {**inputs(model, 3), "use_cache": False}, dynamic_shapes=shapes)
    assert len(int4_calls(program.graph)) == len(int4_layers(model)) == 7
    for one in (program, reloaded(program)):
        for batch in (2, 9):
            given = {**inputs(model, batch), "use_cache": False}
            assert torch.equal(one.module()(**given).logits, model(**given).logits)
