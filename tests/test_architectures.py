"""Every architecture: how much becomes int4, what the int4 model computes, and that it survives saving."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
import transformers
from torch import Tensor
from transformers.utils import ModelOutput

import workbench as wb
from scripts.architecture_table import END, START, numberless, share, table, watched
from tests.architectures import MATRIX
from tests.more_architectures import ALL
from tests.readme_table import README
from tests.readme_table import shown as shown_in_readme
from tests.routing import picks
from tests.tiny_models import hushed
from workbench.checkpoint.save import iter_write_quantized
from workbench.coverage.preflight import preflight_source
from workbench.experts import Int4Experts
from workbench.hf.skeleton import open_source
from workbench.layers import weight_as_used
from workbench.linear import Int4Linear
from workbench.recipe.recipe import as_recipe
from workbench.safetensors_folder import SafetensorsFolder

G32 = wb.Int4WeightOnlyConfig(group_size=32)
ROUTER_OR_ATTENTION = "a matrix whose module is no linear layer"
# Shares below 99 %: a pooling attention of torch's own, which reads its weights itself.
BELOW = {"SigLIP": (0.98, "vision_model.head.attention.in_proj_weight")}


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """Models this small only wait for a second thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module", params=ALL)
def made(request):
    """One architecture: dense, int4, and its inputs; in bfloat16, as `from_pretrained` makes it."""
    architecture = ALL[request.param]
    dense = architecture.build(torch.bfloat16)
    inputs = in_dtype(architecture.inputs(), torch.bfloat16)
    model = copy.deepcopy(dense)
    coverage = wb.preflight(model, G32)
    wb.quantize_(model, G32)
    yield SimpleNamespace(architecture=architecture, dense=dense, inputs=inputs, model=model, coverage=coverage)


def in_dtype(inputs, dtype):
    """The inputs with floating ones in a dtype."""
    return {name: value.to(dtype) if value.is_floating_point() else value for name, value in inputs.items()}


def outputs(model, inputs):
    """Every tensor that a forward returns, those of its parts too, in one row."""
    with torch.no_grad():
        return torch.cat([value.double().flatten() for value in tensors(model(**inputs))])


def tensors(output):
    for value in output.to_tuple():
        if isinstance(value, ModelOutput):
            yield from tensors(value)
        elif isinstance(value, Tensor):
            yield value


def dequantized(made):
    """The dense model with the weights that the int4 model stands for."""
    model = copy.deepcopy(made.dense)
    for name, layer in made.model.named_modules():
        if isinstance(layer, Int4Experts):
            model.get_parameter(name).data.copy_(layer.dequantize())
        elif isinstance(layer, Int4Linear):
            weight_as_used(model, name).copy_(layer.weight)
    return model


def distance(left, right):
    return float((left - right).norm() / right.norm())


# --- coverage -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
def test_the_share_of_the_public_shape(name):
    found = share(name)
    if name not in BELOW:
        assert found.value >= 0.99
        return
    least, stays = BELOW[name]
    assert least <= found.value < 0.99
    assert found.left[stays][1] == f"parameter: {ROUTER_OR_ATTENTION}"


def test_only_architectures_outside_the_matrix_may_be_below():
    assert not {architecture.name for architecture in MATRIX} & set(BELOW)


def test_nothing_that_is_multiplied_stays_without_its_reason(made):
    rows = {row.name: row for row in made.coverage.rows}
    parameters = dict(made.dense.named_parameters(remove_duplicate=False))
    assert len(rows) == len(parameters)
    assert all(row.reason for row in rows.values())
    head = getattr(made.dense.get_output_embeddings(), "weight", None) if hasattr(made.dense, "lm_head") else None
    for name in watched(made.architecture.name):
        row = rows.get(name) or rows[name.removesuffix(".weight")]
        apart = row.kind in ("output_head", "embedding") or parameters[name] is head
        assert row.decision == "int4" or apart or row.reason.endswith(ROUTER_OR_ATTENTION), name


def test_nothing_becomes_int4_that_is_not_multiplied(made):
    linear_like = {numberless(name) for name in watched(made.architecture.name)}
    names = set(dict(made.dense.named_parameters(remove_duplicate=False)))
    for row in made.coverage.int4_rows:
        name = row.name if row.name in names else f"{row.name}.weight"
        assert numberless(name) in linear_like


# --- forward --------------------------------------------------------------------------------------------------------


def test_the_forward_agrees_with_the_dequantized_model(made):
    reference = dequantized(made)
    with picks() as chosen:
        got = outputs(made.model, made.inputs)
    with picks(chosen):
        wanted = outputs(reference, made.inputs)
    with picks(chosen):
        exact = outputs(reference.float(), in_dtype(made.inputs, torch.float32))
    # All three multiply the same weights. The dense model rounds its steps to bfloat16, and so does the int4 one, at
    # other places: its distance from the computation in float32 is of the same size.
    assert distance(got, exact) < 2.5 * distance(wanted, exact)
    assert distance(got, wanted) < distance(got, outputs(made.dense, made.inputs)) / 3


# --- saving ---------------------------------------------------------------------------------------------------------


def test_saved_and_loaded_it_is_the_same_model(made, tmp_path):
    wanted = outputs(made.model, made.inputs)
    auto = getattr(transformers, made.architecture.auto)
    wb.save_checkpoint(made.model, tmp_path / "native")
    with hushed():
        loaded, tokenizer = wb.load_checkpoint(tmp_path / "native")
        assert (type(loaded), tokenizer) == (type(made.dense), None)
        assert torch.equal(outputs(loaded, made.inputs), wanted)
        by_auto = auto.from_pretrained(tmp_path / "native")
        assert type(by_auto) is type(made.dense)
        assert torch.equal(outputs(by_auto, made.inputs), wanted)
        loaded.save_pretrained(tmp_path / "again")
        again = auto.from_pretrained(tmp_path / "again")
    assert torch.equal(outputs(again, made.inputs), wanted)
    assert [row.kind for row in wb.preflight(again, G32).rows].count("int4_linear") == len(made.coverage.int4_rows)
    if made.architecture.generates:
        given = {name: value for name, value in made.inputs.items() if name != "decoder_input_ids"}
        texts = [model.generate(**given, max_new_tokens=4, do_sample=False) for model in (made.model, again)]
        assert torch.equal(*texts)


def test_streamed_from_a_folder_it_is_the_same_checkpoint(made, tmp_path):
    with hushed():
        made.architecture.build(torch.bfloat16).save_pretrained(tmp_path / "dense")  # one that no forward has changed
    source, recipe = open_source(tmp_path / "dense"), as_recipe(G32)
    coverage = preflight_source(source, recipe)
    assert coverage.rows == made.coverage.rows
    for _ in iter_write_quantized(source, coverage, recipe, tmp_path / "streamed"):
        pass
    wb.save_checkpoint(made.model, tmp_path / "native")
    streamed, native = SafetensorsFolder(tmp_path / "streamed"), SafetensorsFolder(tmp_path / "native")
    assert sorted(streamed.names()) == sorted(native.names())
    assert all(torch.equal(streamed.read(name), native.read(name)) for name in native.names())


# --- README ---------------------------------------------------------------------------------------------------------


def shares(text):
    """The table's cells in percent by architecture, without the empty ones that fill it up."""
    cells = [cell.strip() for line in text.splitlines()[2:] for cell in line.strip("|").split("|")]
    return {name: float(cell.strip(" %")) for name, cell in zip(cells[::2], cells[1::2], strict=True) if name}


def test_the_readme_shows_the_table():
    shown, made = shown_in_readme(START, END), table()
    pins = (README.parent / "constraints.txt").read_text(encoding="utf-8").splitlines()
    if f"transformers=={transformers.__version__}" in pins:
        assert shown == made
    else:  # a router may be an nn.Linear in one release and a module of its own in another
        assert shares(shown) == pytest.approx(shares(made), abs=0.15)
