"""What a person does in the workbench, on a model that lives on the GPU."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("transformers")

import workbench as wb
from tests.session.stand_ins import closing
from workbench.demo import demo_eval_text
from workbench.hf.loading import load_checkpoint
from workbench.session import open_session

TIMEOUT_S = 120
Q = "model.layers.0.self_attn.q_proj"
GATE = "model.layers.1.mlp.gate_proj"
TEXT = demo_eval_text()[:9000]


@pytest.fixture
def pair(device):
    model, tokenizer = wb.demo_model()
    return model.to(device), tokenizer


@pytest.fixture
def session(pair):
    with closing(open_session(*pair)) as session:
        yield session


def test_the_errors_are_those_that_the_cpu_finds(session, device):
    assert session.device.split(":")[0] == device
    other = open_session(*wb.demo_model(), device="cpu")
    for solver in ("rtn", "hqq"):
        for one in (session, other):
            one.select([GATE])
            one.configure(solver=solver)
            one.refresh()
            assert one.wait(TIMEOUT_S)
        found, expected = (one.errors[GATE].summary.relative_rmse for one in (session, other))
        assert found == pytest.approx(expected, rel=0.02)


def test_the_verdict_is_measured_on_the_device(session, device):
    session.refresh()
    assert session.wait(TIMEOUT_S)
    session.verdict.follow()
    assert session.wait(TIMEOUT_S)
    speed = session.verdict.speed
    assert speed is not None, session.verdict.line()
    assert speed.device == device
    assert "decoding" in session.verdict.line()


def test_speed_is_measured_on_every_device_present(session, device):
    session.select([GATE])
    session.speed.measure(batch_sizes=(1, 16), budget_s=0.01)
    assert session.wait(TIMEOUT_S)
    devices = {"cpu", device}
    assert {point.device for point in session.speed.points} == devices
    assert set(session.speed.rooflines) == devices
    assert all(point.time_ms > 0 for point in session.speed.points)


def test_quality_is_measured_where_the_model_is(session):
    found = []
    for one in (session, open_session(*wb.demo_model(), device="cpu")):
        one.quality.set_text(TEXT)
        one.quality.configure(windows=2)
        one.quality.measure()
        assert one.wait(TIMEOUT_S)
        assert one.quality.state.problem is None
        found.append(one.quality.state.measured.comparison)
    there, here = found
    assert there.reference_perplexity == pytest.approx(here.reference_perplexity, rel=0.01)
    assert there.mean_kl.value == pytest.approx(here.mean_kl.value, rel=0.05)


def test_a_prompt_is_answered_by_both(session):
    session.quality.prompt.ask("The function returns", 8)
    assert session.wait(TIMEOUT_S)
    answers = session.quality.prompt.answers
    assert answers.done and [len(tokens) for tokens in answers.tokens] == [8, 8]


def test_calibrated_layers_are_solved_and_exported(session, pair, tmp_path):
    session.calibration.use_demo_text()
    session.select([Q])
    session.configure(solver="calibrated", scope="layer")
    assert session.wait(TIMEOUT_S)
    session.export(tmp_path / "out")
    assert session.wait(TIMEOUT_S)
    loaded, _ = load_checkpoint(tmp_path / "out", device="cpu")
    moved, _ = load_checkpoint(tmp_path / "out", device=pair[0].device)
    ids = torch.tensor([pair[1](TEXT, verbose=False)["input_ids"][:128]])
    with torch.no_grad():
        there = moved(input_ids=ids.to(moved.device)).logits.float().cpu()
        here = loaded(input_ids=ids).logits.float()
    assert float((there - here).norm() / here.norm()) < 0.02
    assert there[0].argmax(-1).eq(here[0].argmax(-1)).float().mean() > 0.95
