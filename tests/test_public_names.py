"""The public face: each name is there, explains itself, and does what the first page shows, typed as a person would."""

from __future__ import annotations

import inspect
import re

import pytest
import torch

import workbench as wb
from workbench.errors import EnvironmentProblem

pytestmark = pytest.mark.usefixtures("quick_roofline")


@pytest.mark.parametrize("name", wb.__all__)
def test_every_name_resolves_and_explains_itself(name):
    value = getattr(wb, name)
    assert name in dir(wb)
    if name != "__version__":
        assert inspect.getdoc(value).strip()


@pytest.mark.parametrize("name", [name for name in wb.__all__ if inspect.isfunction(getattr(wb, name))])
def test_every_function_explains_what_it_takes(name):
    function = getattr(wb, name)
    text = inspect.getdoc(function)
    parameters = [parameter for parameter in inspect.signature(function).parameters.values()]
    assert "Raises:" in text or name == "demo_model"
    assert not parameters or ("Args:" in text and all(f"{one.name}:" in text for one in parameters)), name


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="quantise_"):
        wb.quantise_  # noqa: B018


def test_a_module_never_hides_a_name():
    import workbench.checkpoint.save
    import workbench.coverage.coverage
    import workbench.quantize  # noqa: F401

    assert all(not inspect.ismodule(getattr(wb, name)) for name in wb.__all__)


def test_the_first_page_works_as_it_is_typed(tmp_path, capsys):
    cfg = wb.Int4WeightOnlyConfig(group_size=64, use_hqq=True, zero_point_domain=wb.ZeroPointDomain.FLOAT)
    model, tokenizer = wb.demo_model()
    print(wb.preflight(model, cfg))
    print(wb.quantize_(model, cfg))
    assert capsys.readouterr().out.count("become int4: ") == 2

    directory = tmp_path / "dir"
    assert wb.save_checkpoint(model, directory, tokenizer=tokenizer) == directory
    loaded, tokenizer = wb.load_checkpoint(directory)
    tokens = tokenizer("The module provides", return_tensors="pt")
    with torch.inference_mode():
        text = tokenizer.decode(loaded.generate(**tokens, max_new_tokens=12)[0])
    assert text.startswith("The module provides") and len(text) > 25


def test_one_weight_and_one_layer():
    cfg = wb.Int4WeightOnlyConfig(group_size=64)
    weight = torch.randn(48, 200) * 0.02
    qw = wb.quantize_weight(weight, cfg)
    assert qw.codes.shape == weight.shape and qw.scale.shape == qw.zero.shape == (48, 4)
    assert (qw.dequantize() - weight).abs().max() < 0.01
    for solver in ("rtn", "hqq"):
        assert wb.quantize_weight(weight, cfg, solver=solver).codes.max() <= 15
    assert wb.quantize_weight(weight, cfg, domain="symmetric").zero is None

    linear = torch.nn.Linear(200, 48)
    layer = wb.Int4Linear.from_linear(linear, cfg)
    x = torch.randn(3, 200)
    assert torch.nn.functional.cosine_similarity(layer(x), linear(x)).min() > 0.98


def test_a_benchmark_prints_and_compares():
    report = wb.bench_linear(64, 64, wb.Int4WeightOnlyConfig(group_size=32), batch_sizes=(1, 4))
    assert set(report.speedups()) == {1, 4}
    assert "int4" in str(report) and "dense" in str(report)


def test_tokens_per_second_are_measured_side_by_side():
    model, _ = wb.demo_model()
    before, _ = wb.demo_model()
    wb.quantize_(model, wb.Int4WeightOnlyConfig(group_size=64))
    found = wb.measure_throughput({"int4": model, "bf16": before}, prompt_tokens=8, new_tokens=2, rounds=1)
    assert set(found.speedups("bf16")) == {"int4"}
    assert "tokens/s" in str(found)


def test_a_compiled_model_generates_the_same_text():
    model, tokenizer = wb.demo_model()
    del model.model.layers[1:]
    wb.quantize_(model, wb.Int4WeightOnlyConfig(group_size=64))
    tokens = tokenizer("The module provides", return_tensors="pt")
    eager = model.generate(**tokens, max_new_tokens=4)
    assert wb.compile_model(model, backend="eager") is model
    assert torch.equal(model.generate(**tokens, max_new_tokens=4), eager)


def test_quality_is_measured_against_the_model_before():
    model, _ = wb.demo_model()
    before, _ = wb.demo_model()
    wb.quantize_(model, wb.Int4WeightOnlyConfig(group_size=64))
    found = wb.measure_quality(model, torch.arange(1000, 1400), reference=before, window=128)
    assert found.perplexity > 1 and 0 < found.mean_kl < 1
    assert "mean KL" in str(found)


def test_the_primitives_of_torchao_go_round():
    weight, block = torch.randn(8, 64), (1, 32)
    scale, zero = wb.choose_qparams_affine(weight, wb.MappingType.ASYMMETRIC, block, torch.uint8, 0, 15)
    codes = wb.quantize_affine(weight, block, scale, zero, torch.uint8, 0, 15)
    back = wb.dequantize_affine(codes, block, scale, zero, torch.uint8, 0, 15)
    assert (back - weight).abs().max() <= scale.max() * 0.51


def test_a_recipe_is_written_by_hand_and_read_back(tmp_path):
    recipe = wb.Recipe().with_rule("down_proj", None)
    recipe.save(tmp_path / "recipe.json")
    assert wb.Recipe.load(tmp_path / "recipe.json") == recipe
    coverage = wb.preflight("demo", recipe)
    assert {row.name for row in coverage.rows if "left out by" in row.reason} == {
        row.name for row in coverage.rows if row.name.endswith("down_proj")
    }


def test_without_the_notebooks_packages_the_app_says_how_they_are_installed_and_the_rest_completes(monkeypatch):
    monkeypatch.setattr(wb, "_missing", lambda: ["ipywidgets"])
    monkeypatch.delitem(vars(wb), "Workbench", raising=False)
    with pytest.raises(EnvironmentProblem, match=r'wb.Workbench needs ipywidgets.*"int4-workbench\[notebook\]"'):
        wb.Workbench  # noqa: B018
    assert set(wb.__all__) - set(dir(wb)) == {"Workbench", "PreflightTable"}


def test_the_packages_own_text_names_what_there_is():
    names = re.findall(r"\w+", wb.__doc__.partition("by task:")[2].partition("Names are")[0])
    public = set(wb.__all__) - {"__version__"}
    told = {name for name in names if name in public}
    assert public - told <= {
        *("MappingType", "QuantizedWeight", "TensorCoreTiledLayout", "WorkbenchError", "ZeroPointDomain"),
        *("choose_qparams_affine", "quantize_affine", "dequantize_affine", "demo_calibration_text"),
    }
