"""The perplexity of a model that came int4: that of the model alone, on the session's text."""

from __future__ import annotations

import math

import pytest
import torch

import workbench as wb
from tests.session.stand_ins import TIMEOUT_S, Heard, closing
from workbench.demo import demo_eval_text
from workbench.errors import ConfigError
from workbench.measure.quality import measure_quality, text_ids
from workbench.session import open_session

pytestmark = pytest.mark.usefixtures("quick_roofline")
TEXT = demo_eval_text()[:4000]
INT = wb.Int4WeightOnlyConfig(group_size=64, zero_point_domain=wb.ZeroPointDomain.INT)


@pytest.fixture(scope="module")
def pair():
    model, tokenizer = wb.demo_model()
    wb.quantize_(model, INT)
    return model, tokenizer


@pytest.fixture(scope="module")
def folder(pair, tmp_path_factory):
    place = tmp_path_factory.mktemp("int4")
    wb.save_checkpoint(pair[0], place / "native", tokenizer=pair[1])
    return place


@pytest.fixture(params=["live", "folder"])
def session(request, pair, folder):
    with closing(open_session(*(pair if request.param == "live" else [folder / "native"]))) as session:
        session.quality.set_text(TEXT)
        yield session


def test_it_is_what_the_public_call_measures(session, pair):
    heard = Heard(session)
    job = session.perplexity.measure()
    assert session.wait(TIMEOUT_S) and job.state == "done", job.details
    found = session.perplexity.latest
    assert heard.of("perplexity")[-1] is found
    assert not any("CPU" in note for note in found.notes)
    wanted = measure_quality(pair[0], text_ids(TEXT, pair[1]), window=512)
    assert found.quality.windows == wanted.windows == found.available
    assert found.quality.nats_per_token == pytest.approx(wanted.nats_per_token, rel=1e-4)
    assert found.quality.perplexity == pytest.approx(math.exp(wanted.nats_per_token), rel=1e-3)


@pytest.mark.skipif(torch.cuda.is_available(), reason="the device is here")
def test_on_a_device_that_is_not_here_it_says_that_the_cpu_measured(folder):
    session = open_session(folder / "native", device="cuda")
    session.quality.set_text(TEXT)
    session.quality.configure(windows=1)
    job = session.perplexity.measure()
    assert session.wait(TIMEOUT_S) and job.state == "done", job.details
    assert session.perplexity.latest.notes[0].startswith("measured on the CPU, and not on cuda, which this machine")


def test_of_another_text_or_window_nothing_is_known(session):
    session.quality.configure(windows=1)
    session.perplexity.measure()
    assert session.wait(TIMEOUT_S) and session.perplexity.latest.quality.windows == 1
    session.quality.configure(windows=8)
    assert session.perplexity.latest is None
    session.quality.configure(windows=1)
    assert session.perplexity.latest is not None
    session.quality.set_text(TEXT[:2000])
    assert session.perplexity.latest is None


def test_a_cancelled_measurement_keeps_no_thread_and_no_result(session):
    session.perplexity.measure()
    session.cancel()
    assert session.wait(TIMEOUT_S)
    assert session.perplexity.lane.latest.state in ("cancelled", "done")


def test_what_cannot_be_measured_says_why(folder, pair):
    wb.export(pair[0], folder / "gptq", "gptq", tokenizer=pair[1])
    foreign = open_session(folder / "gptq")
    foreign.quality.set_text(TEXT)
    with pytest.raises(ConfigError, match=r"gptq does not run here.*export it as native"):
        foreign.perplexity.measure()
    blank = open_session(*pair)
    blank.quality.set_text("")
    with pytest.raises(ConfigError, match="no text to measure on"):
        blank.perplexity.measure()
    with pytest.raises(ConfigError, match="has an original"):
        open_session("demo").perplexity.measure()


def test_without_a_tokenizer_the_job_says_so(pair):
    session = open_session(pair[0])
    session.quality.set_text(TEXT)
    job = session.perplexity.measure()
    assert session.wait(TIMEOUT_S)
    assert isinstance(job.error, ConfigError) and "tokenizer" in str(job.error)
