"""Compiling with the settings that the configuration asks for: they hold while a graph is compiled, and only then."""

from __future__ import annotations

import inspect
import shutil

import pytest
import torch
import torch._inductor.compile_fx as compile_fx
import torch._inductor.config as inductor
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch._functorch.aot_autograd import make_boxed_func

from workbench import Int4WeightOnlyConfig, Recipe, quantize_
from workbench.compiling import compile_model, mode_options
from workbench.errors import ConfigError, ModelError
from workbench.recipe.recipe import Choice


def settings():
    return {**inductor.get_config_copy(), "precision": torch.get_float32_matmul_precision()}


@pytest.fixture(autouse=True)
def _fresh():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.fixture
def compiled(monkeypatch):
    """The settings at each graph that inductor is given; it is not compiled but run as it is."""
    seen = []

    def run_as_it_is(graph, example_inputs, **others):
        seen.append(settings())
        return make_boxed_func(graph.forward)

    monkeypatch.setattr(compile_fx, "compile_fx_inner", run_as_it_is)
    with inductor.patch(force_disable_caches=True):
        yield seen


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(64, 96), nn.Linear(96, 64)

    def forward(self, x):
        return x + self.down(nn.functional.silu(self.up(x)))


def int4_model(recipe=None):
    torch.manual_seed(0)
    model = Block()
    quantize_(model, recipe or Int4WeightOnlyConfig(group_size=32))
    return model


def is_recommended(seen):
    return seen["coordinate_descent_tuning"] and seen["fx_graph_cache"] and seen["precision"] == "high"


def test_the_settings_hold_at_every_graph_however_late_and_never_between(compiled):
    before = settings()
    assert not is_recommended(before)
    model, eager = int4_model(), int4_model()
    assert compile_model(model) is model and compiled == [] and settings() == before
    for place, batch in enumerate((2, 3, 5), start=1):  # the first size, then any size, then nothing new
        x = torch.randn(batch, 64)
        with torch.no_grad():
            assert torch.allclose(model(x), eager(x), atol=1e-3)
        assert len(compiled) == min(place, 2) and settings() == before
    x = torch.randn(4, 64, requires_grad=True)
    result = model(x)
    assert settings() == before
    result.sum().backward()  # the graph of the gradient may wait until here
    assert len(compiled) == 4 and settings() == before and x.grad.abs().sum() > 0
    assert all(map(is_recommended, compiled))


def test_an_error_of_the_compiler_restores_them(monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError("no compiler")

    monkeypatch.setattr(compile_fx, "compile_fx_inner", fail)
    before, model = settings(), compile_model(int4_model())
    caches = inductor.patch(force_disable_caches=True)
    with caches, pytest.raises(Exception, match="no compiler"), torch.no_grad():
        model(torch.randn(2, 64))
    assert settings() == before


OFF = Choice(Int4WeightOnlyConfig(group_size=32, set_inductor_config=False))
ON = Choice(Int4WeightOnlyConfig(group_size=32))


@pytest.mark.parametrize(
    ("recipe", "asked", "recommended"),
    [
        (Recipe(ON), None, True),
        (Recipe(OFF), None, False),
        (Recipe(ON).with_rule("up", OFF), None, False),
        (Recipe(ON).with_rule("up", None), None, True),
        (Recipe(None).with_rule("up", ON), None, True),
        (Recipe(OFF), True, True),
        (Recipe(ON), False, False),
    ],
)
def test_the_configuration_decides_unless_it_is_overruled(compiled, recipe, asked, recommended):
    model = compile_model(int4_model(recipe), set_inductor_config=asked)
    with torch.no_grad():
        model(torch.randn(2, 64))
    assert [is_recommended(seen) for seen in compiled] == [recommended]


def test_a_model_without_a_recipe_gets_them(compiled):
    with torch.no_grad():
        compile_model(Block())(torch.randn(2, 64))
    assert is_recommended(compiled[0])


def test_a_mode_is_added_to_them(compiled):
    model = compile_model(int4_model(), mode="max-autotune-no-cudagraphs")
    with torch.no_grad():
        model(torch.randn(2, 64))
    assert compiled[0]["max_autotune"] and is_recommended(compiled[0]) and not settings()["max_autotune"]
    assert mode_options(None) == mode_options("default") == {}
    assert mode_options("reduce-overhead") == {"triton.cudagraphs": True}


def test_other_backends_and_arguments_of_torch_compile():
    counter = CompileCounterWithBackend("eager")
    model, before = compile_model(int4_model(), backend=counter, fullgraph=True, dynamic=True), settings()
    with torch.no_grad():
        for batch in (2, 3, 5):
            model(torch.randn(batch, 64))
    assert counter.frame_count == 1 and settings() == before

    class Breaks(nn.Module):
        def forward(self, x):
            torch._dynamo.graph_break()
            return x + 1

    with pytest.raises(torch._dynamo.exc.Unsupported):
        compile_model(Breaks(), backend="eager", fullgraph=True)(torch.zeros(2))
    torch.compiler.reset()
    assert compile_model(Breaks(), backend="eager")(torch.zeros(2)).sum() == 2


@pytest.mark.skipif("isolate_recompiles" not in inspect.signature(torch.compile).parameters, reason="an older torch")
def test_the_models_of_a_comparison_do_not_use_up_each_other_s_limit():
    counter, x = CompileCounterWithBackend("eager"), torch.randn(2, 64)
    with torch._dynamo.config.patch(recompile_limit=1), torch.no_grad():
        for model in (int4_model(), Block(), int4_model()):
            compile_model(model, backend=counter, fullgraph=True)(x)
    assert counter.frame_count == 3


def test_bad_arguments_are_refused():
    with pytest.raises(ModelError, match="A function cannot be compiled"):
        compile_model(lambda x: x)
    with pytest.raises(ConfigError, match=r"mode='fastest'.*max-autotune"):
        compile_model(nn.Linear(2, 2), mode="fastest")
    with pytest.raises(ConfigError, match="mode='max-autotune' with backend='eager'"):
        compile_model(nn.Linear(2, 2), mode="max-autotune", backend="eager")


@pytest.mark.skipif(not shutil.which("c++"), reason="inductor compiles C++")
def test_inductor_itself_gives_the_results_of_eager_mode():
    model, eager, before = compile_model(int4_model(), fullgraph=True), int4_model(), settings()
    with torch.no_grad():
        for batch in (2, 3):
            x = torch.randn(batch, 64)
            assert torch.allclose(model(x), eager(x), rtol=0.01, atol=1e-3)
    assert settings() == before
