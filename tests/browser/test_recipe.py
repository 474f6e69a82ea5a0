"""The recipe panel in a real JupyterLab: rules by mouse and keyboard, text with its errors, history, files, code."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from notebook_page import NotebookPage
from playwright.sync_api import Locator, expect
from readable import expect_readable
from shared_lab import SharedLab

CELL = """
import workbench as wb
from workbench.session import open_session
from workbench.widgets.recipe_panel import RecipePanel
session = open_session("demo")
session.select([])
faults = []
panel = RecipePanel(session, lambda error, where: faults.append(f"{where}: {error}"))
forget = session.listen(panel.on_event)
panel
"""


@pytest.fixture(scope="module")
def lab(shared_lab: SharedLab) -> Iterator[NotebookPage]:
    """A cell with the panel; the tests below walk through it in their order."""
    with shared_lab.lend([CELL], 1280, 1000) as lab:
        expect(lab.page.locator(".wb-recipe")).to_be_visible()
        yield lab
        lab.expect_output("print(faults)", "[]")


def rule(lab: NotebookPage, pattern: str) -> Locator:
    return lab.page.locator(f".wb-rule[data-pattern='{pattern}']")


def patterns(lab: NotebookPage) -> str:
    return lab.run_code("print([rule.pattern for rule in session.recipe.rules])")


def pane(lab: NotebookPage, name: str) -> Locator:
    lab.page.get_by_role("tab", name=name, exact=True).click()
    return lab.page.get_by_role("tabpanel", name=name, exact=True)


def press(lab: NotebookPage, name: str) -> None:
    lab.page.get_by_role("button", name=name, exact=True).click()


def test_a_preset_is_taken_and_marked(lab: NotebookPage) -> None:
    preset = lab.page.get_by_role("button", name="small the smallest files")
    expect(preset).to_have_attribute("aria-pressed", "false")
    preset.click()
    expect(preset).to_have_attribute("aria-pressed", "true")
    expect(rule(lab, "all other layers")).to_contain_text("int4, group size 256, refined")
    expect(rule(lab, "all other layers").locator(".wb-rule-count")).to_contain_text("42 layers")


def test_rules_are_added_moved_and_renamed_with_the_keyboard(lab: NotebookPage) -> None:
    field, keyboard = lab.page.get_by_label("Pattern of a new rule"), lab.page.keyboard
    for pattern in ("mlp", "q_proj"):
        field.fill(pattern)
        field.press("Tab")
        keyboard.press("Enter")  # Leave dense
        expect(rule(lab, pattern)).to_contain_text("dense")
    lab.page.get_by_label("Move down q_proj").focus()
    keyboard.press("Enter")
    expect(lab.page.get_by_label("Pattern of rule 1")).to_have_value("mlp")
    expect(lab.page.get_by_label("Move up q_proj")).to_be_focused()  # it cannot go further down
    name = lab.page.get_by_label("Pattern of rule 2")
    name.fill("k_prj")
    name.press("Enter")
    expect(rule(lab, "q_proj").get_by_role("alert")).to_contain_text("did you mean 'k_proj'")
    expect(lab.page.get_by_label("Pattern of rule 2")).to_have_attribute("aria-invalid", "true")
    lab.page.get_by_label("Pattern of rule 2").fill("k_proj")
    lab.page.get_by_label("Pattern of rule 2").press("Enter")
    expect(rule(lab, "k_proj").locator(".wb-rule-count")).to_contain_text("6 layers")
    assert patterns(lab) == "['mlp', 'k_proj']"


def test_a_count_selects_its_layers(lab: NotebookPage) -> None:
    rule(lab, "k_proj").locator(".wb-rule-count").click()
    expect(lab.page.locator(".wb-rules-said")).to_have_text("6 layers selected")
    lab.expect_output("print(len(session.selection))", "6")


def test_what_changed_is_shown_in_words_and_signs(lab: NotebookPage) -> None:
    changes = pane(lab, "Changes")
    expect(changes.locator(".wb-diff-said")).to_have_text("1 line added, 1 line removed")
    added = changes.locator(".wb-diff-line[data-kind=added]")
    expect(added).to_contain_text("added: ")
    expect(added).to_contain_text('"k_proj"')
    expect(changes.get_by_role("radio", name="the pinned one")).to_be_disabled()
    press(lab, "Pin this recipe")
    changes.get_by_role("radio", name="the pinned one").check()
    expect(changes.locator(".wb-diff-said")).to_have_text("no difference")
    lab.page.get_by_label("Remove mlp").click()
    expect(changes.locator(".wb-diff-line[data-kind=removed]")).to_contain_text('"mlp"')


def test_the_history_is_walked_by_clicks(lab: NotebookPage) -> None:
    history = pane(lab, "History")
    expect(history.locator(".wb-step").first).to_contain_text("mlp: rule removed")
    press(lab, "Undo")
    expect(history.locator(".wb-step").first).to_have_attribute("data-state", "undone")
    expect(rule(lab, "mlp")).to_be_visible()
    history.locator(".wb-step", has_text="the recipe at the start").click()
    expect(history.locator(".wb-step[aria-current=step]")).to_contain_text("the recipe at the start")
    assert patterns(lab) == "[]"
    history.locator(".wb-step", has_text="mlp: rule removed").click()
    expect(rule(lab, "k_proj")).to_be_visible()
    assert patterns(lab) == "['k_proj']"


def test_json_is_checked_while_typed_and_applied_only_when_right(lab: NotebookPage) -> None:
    body = pane(lab, "JSON")
    area = lab.page.get_by_label("Recipe as JSON")
    expect(area).to_have_value(lab.run_code("print(session.recipes.text)") + "\n")
    text = area.input_value()
    area.fill(text.replace("256", "48"))
    expect(body.locator(".wb-json-said")).to_contain_text("line 3")
    expect(body.locator(".wb-line-numbers [data-bad]")).to_have_text("▸ 3")
    expect(body.get_by_role("button", name="Apply")).to_be_disabled()
    body.get_by_role("button", name="Go to the line").click()
    assert area.evaluate("one => one.value.slice(one.selectionStart, one.selectionEnd)").startswith('  "default"')
    area.fill(text.replace("256", "32"))
    expect(body.locator(".wb-json-said")).to_contain_text("Right, and not applied yet: 1 rule over int4, group size 32")
    lab.expect_output("print(session.recipe.default.config.group_size)", "256")
    lab.run_code("session.recipes.set_output_head(True)")
    expect(body.locator(".wb-json-said")).to_contain_text("changed meanwhile")
    body.get_by_role("button", name="Revert").click()
    expect(area).to_have_value(lab.run_code("print(session.recipes.text)") + "\n")
    area.fill(area.input_value().replace("256", "32"))
    area.press("Control+Enter")
    expect(body.locator(".wb-json-said")).to_have_text("Applied.")
    lab.expect_output("print(session.recipe.default.config.group_size)", "32")


def test_a_file_is_saved_loaded_and_never_replaced_unsaid(lab: NotebookPage) -> None:
    body = pane(lab, "Files and code")
    path = body.get_by_label("Recipe file")
    path.fill("mine.json")
    press(lab, "Save")
    expect(body.locator(".wb-file-said").first).to_contain_text("saved to ")
    expect(body.get_by_role("button", name="Replace it")).to_be_hidden()
    lab.page.get_by_label("Remove k_proj").click()
    expect(rule(lab, "k_proj")).to_have_count(0)
    press(lab, "Save")
    expect(body.locator(".wb-file-said").first).to_contain_text("holds something else")
    press(lab, "Load")
    expect(rule(lab, "k_proj")).to_be_visible()
    path.fill("nowhere.json")
    press(lab, "Load")
    expect(body.locator(".wb-file-said").first).to_contain_text("cannot be read: No such file")


def test_code_is_copied_and_goes_when_the_recipe_changes(lab: NotebookPage) -> None:
    body = pane(lab, "Files and code")
    press(lab, "Copy as Python")
    expect(body.get_by_text("Copied.")).to_be_visible()
    assert lab.page.evaluate("() => navigator.clipboard.readText()").startswith("import workbench as wb")
    press(lab, "Copy as command line")
    expect(body.locator(".wb-code")).to_contain_text("workbench quantize demo --recipe")
    lab.run_code("session.undo()")
    expect(body.locator(".wb-code")).to_be_hidden()


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [800, 1280, 2560])
def test_it_is_readable_at_every_width(lab: NotebookPage, theme: str, width: int) -> None:
    lab.page.set_viewport_size({"width": width, "height": 1300})
    lab.set_theme(theme)
    pane(lab, "Changes")
    expect_readable(lab.page.locator(".wb-recipe"), theme)
    lab.screenshot(f"recipe-{width}-{theme}", ".wb-recipe")
