"""A model that is int4 already, live or on disk: looked at, timed and converted as it is, and never chosen anew."""

from __future__ import annotations

import threading

import pytest
import torch

import workbench as wb
from tests.session.stand_ins import TIMEOUT_S, Heard, toy
from tests.tiny_models import make
from workbench.conversion import opened_int4
from workbench.errors import CheckpointError, ConfigError, ModelError
from workbench.exporting import ExportResult, iter_write
from workbench.hf.reverse_names import NamedContents
from workbench.int4_source import Int4Source
from workbench.kinds import INT4
from workbench.recipe.recipe import Recipe
from workbench.session import open_session
from workbench.session.given import given_of
from workbench.session.stored import STORED_METRICS
from workbench.sizes import size
from workbench.sources import ModelSource
from workbench.targets import NATIVE, TARGETS

pytestmark = pytest.mark.usefixtures("quick_roofline")
INT = wb.Int4WeightOnlyConfig(group_size=32, zero_point_domain=wb.ZeroPointDomain.INT)
FOREIGN = ("compressed-tensors", "gptq", "awq")
Q_PROJ = "model.layers.0.self_attn.q_proj"


@pytest.fixture(scope="module")
def model():
    model = make("qwen2", tied=False)
    wb.quantize_(model, INT)
    return model


@pytest.fixture(scope="module")
def folders(model, tmp_path_factory):
    place = tmp_path_factory.mktemp("int4")
    for name in (NATIVE, *FOREIGN):
        wb.export(model, place / name, name)
    wb.export("demo", place / "gguf", "gguf", recipe=INT)  # which carries a tokenizer
    return place


def closed(session):
    session.cancel()
    assert session.wait(TIMEOUT_S)


@pytest.fixture(params=["live", NATIVE])
def session(request, model, folders):
    session = open_session(model if request.param == "live" else folders / NATIVE)
    yield session
    closed(session)


def codes_of(contents):
    return {part.name: part.weight.codes for part in contents.parts() if part.weight is not None}


def exported(session, place, target):
    heard = Heard(session)
    job = session.export(place, format=target)
    assert session.wait(TIMEOUT_S)
    assert job.state == "done", job.details
    assert heard.of("export") == [session.exported] and session.exported.verified
    return opened_int4(place)


# --- opening --------------------------------------------------------------------------------------------------------


def test_it_opens_on_its_first_int4_layer_and_says_what_it_came_with(session):
    assert session.current == Q_PROJ and session.selection == [Q_PROJ]
    assert session.row(Q_PROJ).kind == INT4 and session.row(Q_PROJ).reason == "int4 already: g32 int"
    assert session.row("lm_head").reason == "dense in this model"
    assert session.coverage.configs == {}
    assert session.given.said() in ("in memory, g32 int", "native, g32 int")
    assert (session.resolved().group_size, session.resolved().domain) == (32, "int")
    assert session.given.recipe is not None and session.given.recipe.default is not None
    assert "14 of" in session.coverage.verdict() and "int4 already" in session.coverage.verdict()
    assert "none: int4 already" in session._repr_html_()
    assert not any("only part" in note for note in session.coverage.notes)
    assert f"{Q_PROJ} " in str(session.coverage) and "dense: int4 already" not in str(session.coverage)


@pytest.mark.parametrize("name", [*FOREIGN, "gguf"])
def test_a_checkpoint_of_another_library_opens_as_its_import_reads_it(folders, name, tmp_path):
    session = open_session(str(folders / name))
    assert session.given.said() == f"{name}, g32 {'float' if name == 'gguf' else 'int'}"
    assert any(note.startswith(f"{name} stores ") for note in session.coverage.notes)
    sizes = f"{size(session.source.stored_bytes)} as {name}, {size(session.coverage.before_bytes)} as native"
    assert session.verdict.line().startswith(f"{sizes} · ") and sizes in session._repr_html_()
    again = exported(session, tmp_path / "out", NATIVE)
    wanted = codes_of(opened_int4(folders / name))
    assert all(torch.equal(codes, wanted[layer]) for layer, codes in codes_of(again).items())
    closed(session)


def test_what_is_dense_came_with_nothing():
    assert given_of(toy("a")) is None
    assert given_of(ModelSource(make("qwen2"))) is None


def test_a_damaged_one_says_so_when_it_opens(folders, tmp_path):
    wb.export(folders / NATIVE, tmp_path / "out")
    shard = next((tmp_path / "out").glob("*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-8])
    with pytest.raises(CheckpointError):
        open_session(tmp_path / "out")


def test_where_only_part_is_int4_it_says_what_is_not_and_how_it_becomes_so(tmp_path):
    partly = make("qwen2", tied=False)
    wb.quantize_(partly, INT, include=["q_proj"])
    wb.save_checkpoint(partly, tmp_path / "native")
    wb.export(partly, tmp_path / "gptq", "gptq")
    how = {"native": "= wb.load_checkpoint(", "gptq": "export it as native, ", None: "then open the app again"}
    for name, said in how.items():
        session = open_session(partly if name is None else tmp_path / name)
        [note] = [note for note in session.coverage.notes if "only part is int4" in note]
        assert "12 linear layers are dense" in note and "beside 2 in int4" in note
        assert said in note and "wb.quantize_(model, config) makes the rest int4 too" in note
        assert "2 layers in int4 already and 12 dense, " in session.verdict.line()
        assert "output_head=True" in session.given.how_more(head=True)


def test_with_a_recipe_it_is_opened_for_what_is_dense_still(model, tmp_path):
    session = open_session(model, recipe=Recipe(output_head=True))
    assert session.given is None and list(session.coverage.configs) == ["lm_head"]
    with pytest.raises(ModelError, match="int4 already"):
        session.export(tmp_path / "out")


# --- converting -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", [NATIVE, "compressed-tensors", "awq"])
def test_every_code_of_an_export_is_its_own(session, model, tmp_path, target):
    wanted = codes_of(session.given.contents())
    found = codes_of(exported(session, tmp_path / "out", target))
    assert found.keys() == wanted.keys() and len(found) == 14
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_formats_answer_before_anything_runs_and_the_speed_is_measured(session):
    heard = Heard(session)
    assert session.exports.some
    session.refresh()
    assert session.wait(TIMEOUT_S)
    [table] = heard.of("targets")
    assert list(table.fits) == [NATIVE, *TARGETS] and heard.of("problem") == []
    assert session.verdict.line().startswith(f"{session.verdict.line().split(' · ')[0]} · 14 layers in int4 already, ")
    assert "dense on this CPU" in session.verdict.line()
    assert (session.verdict.target().group_size, session.verdict.target().dtype) in [(32, "float32"), (32, "bfloat16")]


def test_a_format_that_cannot_hold_it_offers_no_change_of_settings(tmp_path):
    model = make("qwen2")
    wb.quantize_(model, wb.Int4WeightOnlyConfig(group_size=32, zero_point_domain=wb.ZeroPointDomain.FLOAT))
    session = open_session(model)
    fit = session.exports.targets().fit("awq")
    assert fit.state == "refused" and fit.change == {} and "open the model that it was made from" in fit.mend
    with pytest.raises(ConfigError, match="awq cannot hold"):
        session.exports.fit("awq")
    with pytest.raises(CheckpointError, match="awq cannot hold"):
        session.export(tmp_path / "out", format="awq")


def test_the_folder_that_is_read_is_not_written(folders):
    session = open_session(folders / NATIVE)
    with pytest.raises(CheckpointError, match="holds the model that is read"):
        session.export(folders / NATIVE, overwrite=True)


def test_progress_grows_to_its_end_and_a_cancel_leaves_nothing(folders, tmp_path):
    contents = open_session(folders / "awq").given.contents()
    steps = list(iter_write(contents, tmp_path / "whole", target="gptq"))
    done = [step.done for step in steps if not isinstance(step, ExportResult)]
    assert done == sorted(done) and done[-1] == steps[0].total and len(done) == 15
    cancel = threading.Event()
    steps = iter_write(contents, tmp_path / "none", target="gptq", cancel=cancel)
    next(steps)
    cancel.set()
    with pytest.raises(wb.errors.Cancelled):
        list(steps)
    assert [path.name for path in tmp_path.iterdir()] == ["whole"]


def test_the_cell_and_the_command_say_the_same(folders, model, tmp_path, monkeypatch, capsys):
    session = open_session(folders / "awq")
    monkeypatch.chdir(tmp_path)
    exec(session.as_python("out", "gptq"), {})
    assert "wrote out (gptq)" in capsys.readouterr().out
    assert session.as_command("out", "gptq") == f"workbench export {folders / 'awq'} --format gptq --out out\n"
    live = open_session(model)
    assert "wb.export(model, 'out', 'gptq', tokenizer=tokenizer)" in live.as_python("out", "gptq")
    with pytest.raises(ConfigError, match="in memory"):
        live.as_command("out", "gptq")


# --- what takes the original ----------------------------------------------------------------------------------------


def test_nothing_is_chosen_or_measured_that_takes_the_original(session):
    before = session.recipe
    for choose in (
        lambda: session.set_recipe(Recipe()),
        lambda: session.configure(group_size=64),
        session.make_int4,
        session.improve,
        session.sweep_errors,
        lambda: session.quality.set_text("Some text.") or session.quality.measure(),
        lambda: session.quality.prompt.ask("Once"),
        session.details.measure_output,
        session.microscope.look_at_worst,
    ):
        with pytest.raises(ConfigError, match="int4 already"):
            choose()
    assert session.recipe == before and not session.can_undo


def test_no_layer_on_show_is_a_problem_dense_ones_neither(session):
    heard = Heard(session)
    for name in (Q_PROJ, "lm_head", "model.embed_tokens"):
        session.select([name])
        assert session.refresh() is None
        assert session.wait(TIMEOUT_S)
    assert heard.of("problem") == [] and heard.of("view") == []


def test_the_speed_of_an_int4_layer_is_that_of_its_shape_and_groups(session):
    session.select([Q_PROJ])
    session.speed.measure(batch_sizes=(1,), budget_s=0.001)
    assert session.wait(TIMEOUT_S)
    assert {(point.n, point.k, point.group_size) for point in session.speed.points} == {(64, 64, 32)}


def test_the_report_says_what_is_known(session, tmp_path):
    session.report(tmp_path / "report.html")
    assert session.wait(TIMEOUT_S)
    page = (tmp_path / "report.html").read_text()
    assert "wb.export(" in page and "int4 already" in page


# --- what is stored -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", STORED_METRICS)
def test_what_is_stored_of_a_layer_is_pictured(session, metric):
    weight = session.given.read(Q_PROJ)
    session.stored.show(metric)
    assert session.wait(TIMEOUT_S)
    found = session.stored.latest
    assert (found.name, found.metric, found.form) == (Q_PROJ, metric, session.given.forms[Q_PROJ])
    assert (found.map.total_rows, found.map.total_cols) == (64, 64 if metric == "dequantized" else 2)
    assert list(found.codes) == [int((weight.codes == code).sum()) for code in range(16)]
    if metric == "scale":
        assert found.map.hi == pytest.approx(float(weight.scale.max()))
    with pytest.raises(ConfigError, match="metric='original'"):
        session.stored.show("original")


@pytest.mark.parametrize("name", [NATIVE, *FOREIGN, "gguf"])
def test_a_layer_on_disk_is_read_alone(folders, name, monkeypatch):
    session = open_session(folders / name)
    wanted = {part.name: part.weight for part in session.given.contents().parts() if part.weight is not None}
    monkeypatch.setattr(type(session.given.contents()), "parts", None)
    for layer in session.given.forms:
        assert torch.equal(session.given.read(layer).dequantize(), wanted[layer].dequantize())


def test_a_format_that_is_read_as_a_whole_says_what_to_do(folders):
    session = open_session(folders / NATIVE)
    whole = Int4Source(NamedContents(session.given.contents()), folders / NATIVE, name="x", method="gguf")
    with pytest.raises(CheckpointError, match=r"gguf is read as a whole only.*export it as native"):
        whole.quantized(Q_PROJ)
