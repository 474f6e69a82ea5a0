"""What may be given as a model, and the device that it is opened for."""

from pathlib import Path

import pytest
import torch

import workbench as wb
from tests.session.stand_ins import GATE, TIMEOUT_S, toy
from workbench.demo import demo_path
from workbench.errors import ModelError
from workbench.recipe.recipe import Choice, Recipe
from workbench.session import default_device, open_session
from workbench.sources import ModelSource


def test_a_folder_a_path_a_name_and_a_live_model_open_alike(demo_source, pair):
    expected = {row.name: row.decision for row in open_session(demo_source).coverage.rows}
    for given in ("demo", demo_path(), str(demo_path()), pair[0], ModelSource(pair[0])):
        session = open_session(given)
        assert {row.name: row.decision for row in session.coverage.rows} == expected
        assert session.selection == [session.current] == ["model.layers.0.self_attn.q_proj"]


@pytest.mark.parametrize("given", [None, 3, {"a": 1}, Path("no/such/folder")])
def test_what_is_no_model_is_refused(given):
    with pytest.raises(ModelError):
        open_session(given)


def test_the_device_follows_a_live_model_and_says_why(pair, monkeypatch):
    session = open_session(pair[0])
    assert (session.device, session.device_reason) == ("cpu", "where the model is")
    assert "device: cpu, where the model is" in session.coverage.notes
    asked = open_session(pair[0], device="xpu")
    assert (asked.device, asked.device_reason) == ("xpu", "")
    assert {config.domain for config in asked.coverage.configs.values()} == {"int"}
    for available, expected in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda available=available: available)
        assert default_device(ModelSource(pair[0]))[0] == "cpu"
        assert default_device(toy("a"))[0] == expected


def test_settings_of_a_session_can_be_given_when_it_opens(demo_source):
    recipe = Recipe(Choice(wb.Int4WeightOnlyConfig(group_size=256)))
    session = open_session(demo_source, recipe=recipe, current=GATE, scope="layer")
    assert session.coverage.configs[GATE].group_size == 256
    assert session.targets() == [GATE]


def test_the_app_hands_model_tokenizer_and_device_to_its_session(pair):
    model, tokenizer = pair
    app = wb.Workbench(model, tokenizer, device="xpu")
    try:
        assert app.session.tokenizer is tokenizer
        assert app.session.source.model is model
        assert app.session.device == "xpu"
        assert app.wait(TIMEOUT_S)
    finally:
        app.close()
