"""Settings of layers, in each scope and by name: what changes, what stays, and how few rules it takes."""

import pytest
import torch

import workbench as wb
from tests.session.stand_ins import EMBEDDING, GATE, TIMEOUT_S, UP, Heard, Toy, toy
from workbench.errors import ConfigError
from workbench.recipe import patterns
from workbench.session import Session


def test_configure_in_each_scope(demo):
    demo.select([GATE, UP], current=UP)
    demo.configure(group_size=32, scope="layer")
    assert {name for name, config in demo.coverage.configs.items() if config.group_size == 32} == {UP}
    demo.configure(group_size=128, scope="selection")
    assert {name for name, config in demo.coverage.configs.items() if config.group_size == 128} == {GATE, UP}
    demo.configure(group_size=256, scope="all")
    assert {config.group_size for config in demo.coverage.configs.values()} == {256}
    assert len(demo.coverage.configs) == 42


def test_configure_leaves_every_layer_what_was_not_given(demo):
    demo.select([GATE])
    demo.configure(domain="int", scope="layer")
    demo.configure(solver="hqq", group_size=32, scope="all")
    configs = demo.coverage.configs
    assert (configs[GATE].domain, configs[GATE].solver, configs[GATE].group_size) == ("int", "hqq", 32)
    assert (configs[UP].domain, configs[UP].solver, configs[UP].group_size) == ("float", "hqq", 32)
    demo.select([GATE, UP])
    demo.configure(inner_k_tiles=2, scope="selection")
    configs = demo.coverage.configs
    assert (configs[GATE].domain, configs[GATE].inner_k_tiles) == ("int", 2)
    assert (configs[UP].domain, configs[UP].inner_k_tiles) == ("float", 2)


@pytest.mark.parametrize("preserve_zero", [True, False, "auto"])
def test_preserve_zero_and_back_to_auto(demo, preserve_zero):
    demo.configure(preserve_zero=preserve_zero)
    assert demo.choice().config.preserve_zero is {"auto": None}.get(preserve_zero, preserve_zero)
    demo.configure(preserve_zero="auto")
    assert demo.choice().config.preserve_zero is None


@pytest.mark.parametrize(
    "settings",
    [
        {"group_size": 48},
        {"domain": "hexagonal"},
        {"inner_k_tiles": 3},
        {"domain": "symmetric", "solver": "hqq"},
        {"scope": "everything"},
        {"solver": "hqq", "preserve_zero": True},
    ],
)
def test_settings_that_cannot_work_change_nothing(demo, settings):
    before, heard = demo.recipe, Heard(demo)
    with pytest.raises(ConfigError):
        demo.configure(**settings)
    assert demo.recipe == before
    assert heard.events == []
    assert not demo.undo()


def test_a_change_that_one_layer_cannot_take_names_it(demo):
    demo.select([GATE])
    demo.configure(domain="symmetric", scope="layer")
    with pytest.raises(ConfigError, match=GATE.replace(".", r"\.")):
        demo.configure(solver="hqq", scope="all")
    assert demo.coverage.configs[UP].solver == "rtn"


def test_options_of_the_solver_on_show_change_and_other_solvers_keep_theirs(demo):
    demo.configure(solver="hqq")
    demo.select([GATE])
    demo.configure(solver="refined", scope="layer")
    demo.configure(options={"iters": 1})
    assert demo.coverage.configs[GATE].options == wb.RefinedOptions(iters=1)
    assert demo.coverage.configs[UP].options == wb.HqqOptions()
    demo.select([UP])
    demo.configure(options={"iters": 2, "lp_norm": 0.5})
    assert demo.coverage.configs[UP].options == wb.HqqOptions(iters=2, lp_norm=0.5)
    assert demo.coverage.configs[GATE].options == wb.RefinedOptions(iters=1)
    before = demo.recipe
    for options in ({"iters": -1}, {"damping": 0.1}, {"iters": "many"}):
        with pytest.raises(ConfigError):
            demo.configure(options=options)
    assert demo.recipe == before
    demo.undo()
    assert demo.coverage.configs[UP].options == wb.HqqOptions()


def test_dense_layers_stay_dense_unless_the_scope_holds_no_other(demo):
    demo.select([GATE, UP], current=GATE)
    demo.keep_dense("layer")
    demo.configure(group_size=32, scope="selection")
    assert GATE not in demo.coverage.configs
    assert demo.coverage.configs[UP].group_size == 32
    demo.configure(group_size=128, scope="all")
    assert GATE not in demo.coverage.configs
    demo.configure(group_size=256, scope="layer")
    assert demo.coverage.configs[GATE].group_size == 256


def test_keep_dense_and_make_int4_in_each_scope(demo):
    linear = len(demo.layer_rows())
    demo.keep_dense("all")
    assert demo.coverage.configs == {}
    assert len(demo.recipe.rules) <= 2
    demo.make_int4("all")
    assert len(demo.coverage.configs) == 42
    demo.select([GATE, UP], current=UP)
    demo.keep_dense("layer")
    assert UP not in demo.coverage.configs and GATE in demo.coverage.configs
    demo.keep_dense("selection")
    assert len(demo.coverage.configs) == 40
    demo.make_int4("selection")
    assert len(demo.coverage.configs) == 42
    demo.select(["lm_head"])
    demo.make_int4("layer")
    assert len(demo.coverage.configs) == 43 == linear


def test_an_embedding_has_no_settings_to_change(demo):
    demo.select([EMBEDDING])
    for scope in ("layer", "selection"):
        with pytest.raises(ConfigError, match="no linear layer"):
            demo.configure(group_size=32, scope=scope)
    assert demo.targets("layer") == []
    assert demo.choice() == demo.recipe.default


def test_rules_are_as_plain_as_will_do(demo):
    gates = [name for name in demo.targets("all") if name.endswith(".gate_proj")]
    demo.select(gates)
    demo.configure(group_size=32, scope="selection")
    assert [rule.pattern for rule in demo.recipe.rules] == ["gate_proj"]
    assert {name for name, config in demo.coverage.configs.items() if config.group_size == 32} == set(gates)
    demo.select([name for name in demo.targets("all") if name.startswith("model.layers.1.")])
    demo.keep_dense("selection")
    assert [rule.pattern for rule in demo.recipe.rules] == ["layers.1", "gate_proj"]
    demo.select([GATE])
    demo.configure(group_size=128, scope="layer")
    assert [rule.pattern for rule in demo.recipe.rules] == [GATE, "layers.1", "gate_proj"]
    demo.select(gates)
    demo.configure(group_size=256, scope="selection")
    assert {demo.coverage.configs[name].group_size for name in gates if name in demo.coverage.configs} == {256}
    assert "model.layers.1.mlp.gate_proj" not in demo.coverage.configs


def test_names_that_look_like_patterns_or_hold_each_other_are_told_apart():
    names = ["head", "decoder.head", "a[0]", "a*", "a.b", "a?b"]
    for name in names:
        session = Session(toy(*names))
        session.select([name])
        session.keep_dense("layer")
        assert {row.name for row in session.coverage.rows if row.decision == "dense"} == {name}
        session.wait(TIMEOUT_S)


def test_two_thousand_layers_take_few_rules_and_no_quadratic_work():
    parts = ("self_attn.q_proj", "self_attn.k_proj", "mlp.gate_proj", "mlp.down_proj")
    names = [f"model.layers.{i}.{part}" for i in range(500) for part in parts]
    session = Session(Toy(dict.fromkeys(names, torch.ones(2, 128))))
    patterns_tried = []
    real = patterns.matches
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(patterns, "matches", lambda *a: patterns_tried.append(a) or real(*a))
        session.select(names[::2])
        session.configure(group_size=32, scope="selection")
        assert [rule.pattern for rule in session.recipe.rules] == ["mlp.gate_proj", "q_proj"] or {
            rule.pattern for rule in session.recipe.rules
        } == {"gate_proj", "q_proj"}
        session.select(names[::3])
        session.configure(group_size=128, scope="selection")
    assert patterns_tried == []
    assert {name for name, config in session.coverage.configs.items() if config.group_size == 128} == set(names[::3])
    assert session.wait(TIMEOUT_S)
