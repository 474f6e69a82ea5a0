"""Before any work every weight has a row, a decision and a reason."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import workbench as wb
from tests.tiny_models import QUANTIZABLE, make
from workbench.config import GROUP_SIZES
from workbench.errors import ConfigError, PatternError
from workbench.recipe.recipe import Choice, Recipe, Rule

G32 = wb.Int4WeightOnlyConfig(group_size=32)


def row_of(coverage, name):
    return next(row for row in coverage.rows if row.name == name)


@pytest.mark.parametrize("name", QUANTIZABLE)
def test_every_weight_has_one_row_and_the_bytes_add_up(name):
    model = make(name)
    coverage = wb.preflight(model, G32)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    assert len(coverage.rows) == len(parameters)
    assert coverage.before_bytes == sum(parameter.nbytes for parameter in model.parameters())
    assert all(row.reason for row in coverage.rows)
    linear = [n for n, m in model.named_modules() if isinstance(m, nn.Linear) and n != "lm_head"]
    stacks = [n for n, p in parameters.items() if p.ndim == 3]
    assert sorted(row.name for row in coverage.int4_rows) == sorted(linear + stacks)


def test_conv1d_is_int4_in_its_shape_as_used():
    coverage = wb.preflight(make("gpt2"), G32)
    row = row_of(coverage, "transformer.h.0.mlp.c_fc")
    assert (row.kind, row.shape, row.decision) == ("conv1d", (256, 64), "int4")
    assert coverage.linear_share == 1


def test_fused_experts_are_one_row_with_their_number():
    coverage = wb.preflight(make("mixtral"), G32)
    row = row_of(coverage, "model.layers.0.mlp.experts.gate_up_proj")
    assert (row.kind, row.shape, row.decision) == ("experts", (4, 192, 64), "int4")
    assert row.after_bytes == 4 * 192 * (64 // 2 + 2 * 4)


def test_experts_are_not_calibrated_and_it_is_said():
    coverage = wb.preflight(make("mixtral"), G32, solver="calibrated")
    name = "model.layers.0.mlp.experts.down_proj"
    assert coverage.configs[name].solver == "refined"
    assert coverage.configs["model.layers.0.self_attn.q_proj"].solver == "calibrated"
    assert any("solver: calibrated → refined (for experts" in note for note in coverage.notes)


class Stacked(nn.Module):
    """Matrices in one parameter that no registry knows."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 64, 64))


class Parallel(nn.Module):
    """One stack, whose sides it names."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 96, 64))
        self.output_size, self.input_size = 96, 64


def test_a_stack_outside_the_registry_says_how_it_is_multiplied():
    row = row_of(wb.preflight(nn.Sequential(Parallel()), G32), "0.weight")
    assert (row.kind, row.shape, row.decision) == ("stack", (4, 96, 64), "int4")
    assert "a stand-in for the parameter" in row.reason


def test_stacked_matrices_that_no_registry_knows_stay_and_are_said():
    coverage = wb.preflight(nn.Sequential(nn.Linear(64, 64), Stacked()), G32)
    assert "outside transformers' registry" in row_of(coverage, "1").reason
    assert any(note.startswith("1 weights with 65.54 kB stay dense") for note in coverage.notes)


class Stacks(nn.Module):
    """A stack that no registry knows, a router, a probe, and one linear layer."""

    def __init__(self):
        super().__init__()
        self.stack = nn.Parameter(torch.zeros(4, 64, 32))
        self.router = nn.Parameter(torch.zeros(4, 64))
        self.probe = nn.Parameter(torch.zeros(1, 1, 64))
        self.up = nn.Linear(64, 64)
        self.normed = nn.utils.parametrizations.weight_norm(nn.Conv1d(8, 8, 4))


def test_what_may_be_a_product_is_told_from_what_is_none():
    coverage = wb.preflight(Stacks(), G32)
    reasons = {row.name: row.reason for row in coverage.rows if row.decision == "dense"}
    assert reasons["stack"] == "parameter: stacked matrices outside transformers' registry of experts"
    assert reasons["router"] == "parameter: a matrix whose module is no linear layer"
    assert reasons["probe"] == "parameter: not a linear layer"
    assert reasons["normed.parametrizations.weight.original1"] == "parametrization: not a linear layer"


def test_stacks_that_stay_count_against_the_least_coverage():
    coverage = wb.preflight(Stacks(), G32)
    assert coverage.linear_share == pytest.approx(64 * 64 / (64 * 64 + 4 * 64 * 32))
    with pytest.raises(ConfigError, match=r"Only 33\.3% .* Largest left out: stack \("):
        wb.preflight(Stacks(), G32, min_coverage=0.9)


def test_the_output_head_waits_to_be_named():
    model = make("qwen2", tied=False)
    assert "output head" in row_of(wb.preflight(model, G32), "lm_head").reason
    assert row_of(wb.preflight(model, G32, include=["lm_head", "mlp"]), "lm_head").decision == "int4"
    whole = Recipe(default=Choice(G32), output_head=True)
    assert row_of(wb.preflight(model, whole), "lm_head").decision == "int4"


def test_a_tied_head_that_is_named_is_untied_and_said():
    coverage = wb.preflight(make("qwen2"), G32, include="lm_head")
    row = row_of(coverage, "lm_head")
    assert (row.decision, row.before_bytes) == ("int4", 0)
    assert row.after_bytes > 0
    assert "lm_head is untied: model.embed_tokens keeps its dense weight beside the int4 copy" in coverage.notes


def test_include_and_exclude():
    model = make("qwen2")
    only = wb.preflight(model, G32, include="mlp", exclude="re:.*layers.1.*")
    assert [row.name.split(".")[-1] for row in only.int4_rows] == ["gate_proj", "up_proj", "down_proj"]
    assert row_of(only, "model.layers.1.mlp.up_proj").reason == "left out by pattern 're:.*layers.1.*'"
    assert row_of(only, "model.layers.0.self_attn.q_proj").reason == "matched by no include pattern"


@pytest.mark.parametrize("pattern", ["q_prj", "model.layers.9.*", "re:nothing.*"])
def test_a_pattern_that_matches_nothing_is_refused(pattern):
    with pytest.raises(PatternError, match=r"matches none of the 27 weights.*did you mean"):
        wb.preflight(make("qwen2"), include=pattern)
    with pytest.raises(PatternError, match="matches none"):
        wb.preflight(make("qwen2"), exclude=pattern)


def test_a_pattern_that_matches_no_linear_layer_is_refused():
    with pytest.raises(PatternError, match="matches no linear layer, only: norm"):
        wb.preflight(make("qwen2"), include="model.norm")


def test_the_least_coverage_is_held():
    model = make("llama_wide")
    share = wb.preflight(model, G32).linear_share
    wb.preflight(model, G32, min_coverage=share)
    with pytest.raises(ConfigError, match=r"Only 9\d\.\d% .* less than 99\.0%\. Largest left out: lm_head"):
        wb.preflight(model, G32, min_coverage=0.99)
    for bad in (-0.1, 1.1, float("nan")):
        with pytest.raises(ConfigError, match="min_coverage"):
            wb.preflight(model, G32, min_coverage=bad)


def test_a_layer_that_would_not_shrink_stays_dense():
    model = nn.Sequential(nn.Linear(1, 8).bfloat16(), nn.Linear(64, 8).bfloat16())
    coverage = wb.preflight(model, G32)
    assert row_of(coverage, "0").reason == "int4 with its scales would not be smaller"
    assert row_of(coverage, "1").decision == "int4"


def test_layers_that_are_int4_already_are_said():
    model = make("qwen2")
    wb.quantize_(model, G32, include="mlp")
    coverage = wb.preflight(model, G32)
    assert row_of(coverage, "model.layers.0.mlp.up_proj").reason == "int4 already: g32 float"
    assert len(coverage.int4_rows) == 8


def test_what_auto_became_and_the_device_are_noted():
    notes = "\n".join(wb.preflight(make("qwen2")).notes)
    assert "zero_point_domain: NONE (auto) → float" in notes
    assert "kernel: int4 op of cpu" in notes
    assert any(
        note.startswith("kernel: ") and "cuda" in note for note in wb.preflight(make("qwen2"), device="cuda").notes
    )


def test_padding_and_a_short_last_group_are_said_with_what_they_cost():
    row = row_of(wb.preflight(make("llama_odd"), G32, domain="float"), "model.layers.0.mlp.down_proj")
    assert row.shape == (56, 77)
    stored = (39 * 8 + 3 * 32) / 77  # 39 bytes of codes and 3 groups of two bfloat16 for each row of 77
    assert row.bits_per_weight == pytest.approx(stored)
    assert row.reason == f"default: g32 float rtn, last group of 13 (+{stored - 5:.2f} bits)"
    held = 64 * 96 * (4 + 32 / 32) / (56 * 77)
    assert row.padding == f"N 56→64, K 77→96 (+{held - (4 + 3 * 32 / 77):.2f} bits in memory)"


@pytest.mark.parametrize("group_size", GROUP_SIZES)
@pytest.mark.parametrize("shape", [(16, 256), (17, 256), (10, 77), (33, 300), (1, 511), (512, 40)])
def test_the_cost_of_padding_is_that_of_the_layer(shape, group_size):
    model = nn.Sequential(nn.Linear(shape[1], shape[0], bias=False))
    config = wb.Int4WeightOnlyConfig(group_size=group_size)
    row = row_of(wb.preflight(model, config, domain="float"), "0")
    wb.quantize_(model, config, domain="float")
    n, k = shape
    without = n * k / 2 + n * -(-k // group_size) * 4  # bytes: half a code's, and two bfloat16 for each group
    extra = 8 * (model[0].size_bytes - without) / (n * k)
    assert ("bits in memory" in row.padding) == (extra > 0)
    assert row.padding == "" or row.padding.endswith(f" (+{extra:.2f} bits in memory)")


def test_short_groups_cost_nothing_where_k_divides():
    reasons = [row.reason for row in wb.preflight(make("qwen2"), G32).int4_rows]
    assert not any("last group" in reason for reason in reasons)


@pytest.mark.parametrize(
    ("shape", "decision"), [((8, 1), "dense"), ((8, 2), "int4"), ((1, 1), "dense"), ((1, 40), "int4"), ((3, 7), "int4")]
)
def test_tiny_layers_are_left_only_where_nothing_is_won(shape, decision):
    model = nn.Sequential(nn.Linear(shape[1], shape[0], bias=False).bfloat16())
    row = row_of(wb.preflight(model, G32, domain="float"), "0")
    n, k = shape
    int4_bytes = n * ((k + 1) // 2 + 4)
    assert ("int4" if int4_bytes < 2 * n * k else "dense") == row.decision
    assert row.decision == "int4" or row.reason == "int4 with its scales would not be smaller"


def test_rules_decide_in_order():
    recipe = Recipe(default=None, rules=(Rule("layers.0", Choice(G32)), Rule("q_proj", None), Rule("mlp", Choice(G32))))
    coverage = wb.preflight(make("qwen2"), recipe)
    assert row_of(coverage, "model.layers.0.self_attn.q_proj").decision == "int4"
    assert row_of(coverage, "model.layers.1.self_attn.q_proj").decision == "dense"
    assert row_of(coverage, "model.layers.1.mlp.up_proj").decision == "int4"
