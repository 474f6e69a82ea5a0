"""The recipe as a whole: rules moved and renamed, text with lines, files, pins, and the way back."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import workbench as wb
from workbench.errors import ConfigError, PatternError, WorkbenchError
from workbench.hf.loading import demo_model
from workbench.recipe.recipe import Choice, Recipe, Rule
from workbench.session import open_session
from workbench.session.recipe import line_of

ROOT = Path(__file__).parents[2]
G32 = Choice(wb.Int4WeightOnlyConfig(group_size=32))
G64 = Choice(wb.Int4WeightOnlyConfig(group_size=64))
TWO = Recipe(G64, (Rule("q_proj", None), Rule("mlp", G32)))


@pytest.fixture
def session(demo):
    return demo


@pytest.fixture
def two(session):
    session.set_recipe(TWO)
    return session


def patterns(session):
    return [rule.pattern for rule in session.recipe.rules]


def test_rules_are_moved_removed_and_renamed_and_each_is_undone(two):
    two.recipes.move(1, -1)
    assert patterns(two) == ["mlp", "q_proj"]
    two.recipes.rename(0, " down_proj ")
    assert two.recipe.rules == (Rule("down_proj", G32), Rule("q_proj", None))
    two.recipes.remove(1)
    assert patterns(two) == ["down_proj"]
    for want in (["down_proj", "q_proj"], ["mlp", "q_proj"], ["q_proj", "mlp"]):
        assert two.undo() and patterns(two) == want


@pytest.mark.parametrize(("place", "by"), [(0, -1), (1, 1), (2, -1), (-1, 1)])
def test_no_rule_goes_where_there_is_no_place(two, place, by):
    with pytest.raises(ConfigError, match="There is no rule"):
        two.recipes.move(place, by)
    assert two.recipe == TWO


def test_a_pattern_that_matches_nothing_is_refused_and_the_rule_stays(two):
    with pytest.raises(PatternError, match="did you mean"):
        two.recipes.rename(0, "q_prj")
    with pytest.raises(PatternError, match="Empty pattern"):
        two.recipes.rename(0, "  ")
    assert two.recipe == TWO


def test_a_rule_is_added_before_the_others_dense_or_with_the_settings_on_show(two):
    two.recipes.add("k_proj", dense=True)
    two.recipes.add("v_proj", dense=False)
    assert two.recipe.rules[:2] == (Rule("v_proj", two.choice()), Rule("k_proj", None))
    assert two.recipe.rules[2:] == TWO.rules


def test_the_output_head_and_presets(session):
    session.recipes.set_output_head(True)
    assert session.recipe.output_head
    session.recipes.take_preset("small")
    assert session.recipe == Recipe.preset("small")
    with pytest.raises(ConfigError, match="There is no preset 'smal'"):
        session.recipes.take_preset("smal")


def test_its_text_is_that_of_its_file_and_applies_as_it_is(two, tmp_path):
    TWO.save(tmp_path / "two.json")
    assert two.recipes.text == (tmp_path / "two.json").read_text()
    assert two.recipes.read(two.recipes.text) == TWO
    two.recipes.apply(two.recipes.text.replace('"group_size": 32', '"group_size": 256'))
    assert two.recipe.rules[1].choice.config.group_size == 256


@pytest.mark.parametrize(
    ("old", "new", "line", "said"),
    [
        ('"q_proj"', "q_proj", 6, "not JSON"),
        ('"group_size": 32', '"group_size": 48', 7, "group_size=48"),
        ('"group_size": 64', '"group_sise": 64', 3, "group_size"),
        ('"mlp"', '"mpl"', 7, "did you mean"),
        ('"mlp"', '"re:("', 7, "not a regular expression"),
        ('"format_version": 1', '"format_version": 9', 2, "format_version 9"),
    ],
)
def test_a_text_that_is_wrong_is_refused_with_its_line_and_nothing_is_applied(two, old, new, line, said):
    text = two.recipes.text.replace(old, new)
    assert text != two.recipes.text
    with pytest.raises(WorkbenchError, match=said) as raised:
        two.recipes.apply(text)
    assert line_of(raised.value) == line
    assert two.recipe == TWO


def test_an_error_that_is_about_no_line_has_none():
    assert line_of(ConfigError("There is no preset 'smal'.")) is None


def test_a_file_is_loaded_saved_and_never_written_over_unsaid(two, tmp_path):
    path = tmp_path / "recipe.json"
    assert two.recipes.save(path) == f"saved to {path}"
    assert two.recipes.save(path) == f"already in {path}"
    assert Recipe.load(path) == TWO and two.recipes.file == path
    two.recipes.remove(0)
    assert two.recipes.file is None
    with pytest.raises(ConfigError, match="holds something else"):
        two.recipes.save(path)
    assert Recipe.load(path) == TWO
    assert two.recipes.save(path, replace=True) == f"replaced {path}"
    assert Recipe.load(path) == two.recipe
    two.undo()
    two.recipes.load(str(path))
    assert patterns(two) == ["mlp"] and two.recipes.path == path


@pytest.mark.parametrize("path", ["", "  "])
def test_no_file_is_named(session, path):
    for act in (session.recipes.load, session.recipes.save):
        with pytest.raises(ConfigError, match="No file is named"):
            act(path)


def test_a_file_that_cannot_be_taken_changes_nothing(two, tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        two.recipes.load(tmp_path / "missing.json")
    (tmp_path / "bad.json").write_text('{"format_version": 1,\n "rules": [{"pattern": "q_prj", "dense": true}]}')
    with pytest.raises(PatternError, match=r"bad.json, line 2: .*did you mean 'q_proj'"):
        two.recipes.load(tmp_path / "bad.json")
    with pytest.raises(ConfigError, match="cannot be written"):
        two.recipes.save(tmp_path / "no" / "such" / "folder.json")
    assert two.recipe == TWO and two.recipes.filed is None


def test_what_changed_against_the_one_before_the_pinned_and_the_file(two, tmp_path):
    two.recipes.pin()
    two.recipes.save(tmp_path / "two.json")
    two.recipes.remove(0)
    two.configure(group_size=128, scope="all")
    assert two.recipes.diff("previous").said() == "2 lines added, 2 lines removed"
    assert two.recipes.diff("pinned") == two.recipes.diff("file")
    assert two.recipes.diff("pinned").removed == 3
    with pytest.raises(ConfigError, match="against='last'"):
        two.recipes.diff("last")


def test_without_another_recipe_there_is_nothing_to_compare_with(session):
    assert session.recipes.other("previous") is None
    with pytest.raises(ConfigError, match="There is no pinned recipe"):
        session.recipes.diff("pinned")


def test_the_history_is_walked_and_what_listens_hears_of_it(two, tmp_path):
    heard = []
    two.listen(lambda event: heard.append(event.kind))
    two.recipes.remove(0)
    assert two.recipes.history.steps()[0].text == "q_proj: rule removed"
    assert two.go_to(0) and two.recipe != TWO and two.can_redo and not two.can_undo
    assert not two.go_to(0)
    assert two.go_to(2) and patterns(two) == ["mlp"]
    with pytest.raises(ConfigError, match="no recipe 3 in the history"):
        two.go_to(3)
    heard.clear()
    two.recipes.pin()
    two.recipes.save(tmp_path / "a.json")
    assert heard.count("recipe") == 2


def test_a_preset_and_a_saved_recipe_are_named_on_the_command_line(session, tmp_path):
    session.recipes.take_preset("small")
    assert session.as_command("out") == "workbench quantize demo --recipe small --out out\n"
    session.set_recipe(TWO)
    session.recipes.save(tmp_path / "my recipe.json")
    words = shlex.split(session.as_command("out dir"))
    assert words == ["workbench", "quantize", "demo", "--recipe", str(tmp_path / "my recipe.json"), "--out", "out dir"]


def test_a_calibration_text_of_ones_own_is_a_file_on_the_command_line(session, tmp_path):
    session.recipes.take_preset("calibrated")
    assert "--calibration" not in session.as_command(tmp_path / "out")
    session.calibration.set_text("some text of my own")
    words = shlex.split(session.as_command(tmp_path / "out"))
    assert Path(words[words.index("--calibration") + 1]).read_text() == "some text of my own"


def test_a_model_in_memory_has_no_name_on_the_command_line():
    model, tokenizer = demo_model()
    model.name_or_path = model.config._name_or_path = ""
    session = open_session(model, tokenizer)
    with pytest.raises(ConfigError, match="save_pretrained"):
        session.as_command()
    session.cancel()


@pytest.mark.skipif(os.name == "nt", reason="the command is for a POSIX shell")
def test_the_command_line_run_alone_gives_the_same_codes(two, tmp_path):
    two.export(tmp_path / "here", verify=False).wait(120)
    script = two.as_command(tmp_path / "alone").replace("workbench", f"{sys.executable} -m workbench", 1)
    assert "<<'RECIPE'" in script
    done = subprocess.run(
        ["sh", "-c", script], env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    here, alone = (load_file(tmp_path / name / "model.safetensors") for name in ("here", "alone"))
    assert here.keys() == alone.keys() and all(torch.equal(here[name], alone[name]) for name in here)
