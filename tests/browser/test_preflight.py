"""The preflight in a real JupyterLab: the module tree, sorting, filtering, the keyboard, and choices of one click."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from notebook_page import NotebookPage
from playwright.sync_api import Locator, expect
from readable import expect_readable
from shared_lab import SharedLab

PREFLIGHT = """
import workbench as wb
cfg = wb.Int4WeightOnlyConfig(group_size=64)
table = wb.PreflightTable("demo", cfg)
table
"""
PLAIN = """
wb.preflight("demo", cfg)
"""
LARGE = """
from workbench.widgets.layer_table import LayerTable
made, errors = [], []
large = LayerTable(tree=True, group_sizes=[64, 32], on_error=lambda error, where: errors.append(error))
names = [f"model.layers.{i}.{leaf}" for i in range(400) for leaf in ("mlp.up_proj", "mlp.down_proj", "q_proj", "norm")]
kinds = ["norm" if name.endswith("norm") else "linear" for name in names]
dense = [kind == "norm" or name.startswith("model.layers.7.mlp") for name, kind in zip(names, kinds)]
large.show({
    "name": names, "kind": kinds, "shape": [[64, 64]] * 1600, "parameters": [4096] * 1600,
    "decision": ["dense" if each else "int4" for each in dense],
    "reason": [f"{kind}: not a linear layer" if kind == "norm" else "left out by pattern 'layers.7'" if each
               else "default: g64" for each, kind in zip(dense, kinds)],
    "before_bytes": [8192] * 1600, "after_bytes": [8192 if each else 2304 for each in dense],
})
large.on_choose(lambda choice: made.append(choice) or f"{len(choice.names)} chosen")
large
"""


@pytest.fixture(scope="module")
def lab(shared_lab: SharedLab) -> Iterator[NotebookPage]:
    """One notebook; the tests below share it in their order."""
    with shared_lab.lend([PREFLIGHT, PLAIN, LARGE], 1480, 2300) as lab:
        expect(lab.page.locator(".wb-layers .wb-rows [role=row]").first).to_be_visible()
        yield lab
        lab.expect_output("print(errors, table.status.problems)", "[] []")


@pytest.fixture
def tree(lab: NotebookPage) -> Locator:
    return lab.page.locator(".wb-layers").nth(0)


@pytest.fixture
def large(lab: NotebookPage) -> Locator:
    return lab.page.locator(".wb-layers").nth(1)


def line(table: Locator, path: str) -> Locator:
    """The row of a weight or of a node."""
    return table.locator(f".wb-rows [data-name='{path}']")


def cell(table: Locator, path: str, column: str) -> Locator:
    """A cell of a row, by its column's header."""
    headers = [text.strip(" ▲▼\n") for text in table.get_by_role("columnheader").all_inner_texts()]
    return line(table, path).get_by_role("gridcell").nth(headers.index(column))


def labels(table: Locator) -> list[str]:
    return table.locator(".wb-rows .wb-leaf").all_inner_texts()


def rules(lab: NotebookPage) -> str:
    """Pattern and group size of each rule in the kernel, once the page shows what came of the last choice."""
    size = "rule.choice and rule.choice.config.group_size"
    return lab.run_code(f"print([(rule.pattern, {size}) for rule in table.recipe.rules])")


class TestTree:
    def test_alike_layers_are_one_node_with_their_sums(self, tree: Locator) -> None:
        grid = tree.get_by_role("treegrid", name="Layers")
        expect(grid).to_be_visible()
        layers = line(tree, "model.layers.*")
        expect(layers).to_have_attribute("aria-level", "2")
        expect(layers).to_have_attribute("aria-expanded", "true")
        expect(layers.locator(".wb-times")).to_have_text("×6")
        expect(cell(tree, "model.layers.*", "Weights")).to_have_text("54")
        expect(cell(tree, "model.layers.*", "Before")).to_have_text("9.44 MB")
        expect(cell(tree, "model.layers.*", "In int4")).to_have_text("99%")
        expect(cell(tree, "model.layers.*", "Decision")).to_have_text("int4")
        expect(cell(tree, "model.layers.*.self_attn.q_proj", "Shape")).to_have_text("256 × 256")
        expect(cell(tree, "model.layers.*.self_attn.q_proj", "Reason")).to_have_text(re.compile("default: g64"))
        expect(cell(tree, "model.embed_tokens", "Reason")).to_have_text("embedding: not a linear layer")

    def test_the_sums_and_what_stays_dense_are_in_view(self, tree: Locator) -> None:
        expect(tree.locator(".wb-totals")).to_contain_text("int4 covers 81.8% of bytes")
        expect(tree.locator(".wb-dense-group")).to_have_text(
            ["1 embedding", "13 norms", "1 output head because tied to model.embed_tokens"]
        )

    def test_nodes_open_and_close_by_their_twisty_and_by_a_double_click(self, tree: Locator) -> None:
        line(tree, "model.layers.*.self_attn").locator(".wb-twisty").click()
        expect(line(tree, "model.layers.*.self_attn")).to_have_attribute("aria-expanded", "false")
        expect(line(tree, "model.layers.*.self_attn.q_proj")).to_have_count(0)
        line(tree, "model.layers.*.mlp").dblclick()
        expect(line(tree, "model.layers.*.mlp.up_proj")).to_be_visible()
        line(tree, "model.layers.*.mlp.up_proj").locator(".wb-twisty").click()
        single = line(tree, "model.layers.3.mlp.up_proj")
        expect(single).to_have_attribute("aria-level", "5")
        expect(single.locator(".wb-leaf")).to_have_text("layers.3")
        single.click()
        about = tree.locator(".wb-about")
        expect(about).to_contain_text("model.layers.3.mlp.up_proj linear 768 × 256 · int4: default: g64 float rtn")
        expect(about).to_contain_text("4.50 bits per weight")

    def test_arrows_open_go_in_go_out_and_close(self, tree: Locator) -> None:
        grid = tree.get_by_role("treegrid")
        line(tree, "model.layers.*.mlp.up_proj").click()
        current = tree.locator(".wb-rows [data-current=true]")
        for key, path, opened in (
            ("ArrowLeft", "model.layers.*.mlp.up_proj", "false"),
            ("ArrowLeft", "model.layers.*.mlp", "true"),
            ("ArrowLeft", "model.layers.*.mlp", "false"),
            ("ArrowUp", "model.layers.*.self_attn", "false"),
            ("ArrowRight", "model.layers.*.self_attn", "true"),
            ("ArrowRight", "model.layers.*.self_attn.q_proj", "false"),
            ("Enter", "model.layers.*.self_attn.q_proj", "true"),
            ("Enter", "model.layers.*.self_attn.q_proj", "false"),
            ("Home", "model", "true"),
            ("End", "lm_head", None),
        ):
            grid.press(key)
            expect(current).to_have_attribute("data-name", path)
            if opened:
                expect(current).to_have_attribute("aria-expanded", opened)
            assert grid.get_attribute("aria-activedescendant") == current.get_attribute("id")

    def test_a_node_selects_what_is_below_it(self, lab: NotebookPage, tree: Locator) -> None:
        line(tree, "model.layers.*.self_attn").click()
        expect(tree.locator(".wb-about")).to_contain_text("model.layers.*.self_attn 24 weights")
        expect(tree.locator(".wb-counts")).to_contain_text("24 selected")
        expect(line(tree, "model.layers.*.self_attn.q_proj")).to_have_attribute("aria-selected", "true")
        expect(line(tree, "model")).to_have_attribute("aria-selected", "false")
        lab.expect_output("print(len(table.table.selected))", "24")

    def test_a_filter_keeps_the_tree_and_gives_it_back(self, tree: Locator) -> None:
        before = labels(tree)
        box = tree.get_by_role("searchbox")
        box.fill("*.up_proj")
        expect(tree.locator(".wb-rows .wb-leaf")).to_have_text("model.layers.*.mlp.up_proj")
        box.fill("kind:norm")
        expect(line(tree, "model.layers.*.input_layernorm")).to_be_visible()
        expect(line(tree, "model.layers.*.self_attn")).to_have_count(0)
        box.fill("reason:tied")
        expect(tree.locator(".wb-rows .wb-leaf")).to_have_text("lm_head")
        box.fill("decision:int4 !self_attn")
        expect(line(tree, "model.layers.*.mlp")).to_be_visible()
        box.fill("")
        expect(tree.locator(".wb-rows .wb-leaf")).to_have_text(before)

    def test_siblings_sort_by_their_sums(self, tree: Locator) -> None:
        header = tree.get_by_role("columnheader", name="Before")
        header.get_by_role("button").click()
        expect(header).to_have_attribute("aria-sort", "descending")
        second = tree.locator(".wb-rows [aria-level='3'] .wb-leaf")
        expect(second).to_have_text(["mlp", "self_attn", "input_layernorm", "post_attention_layernorm"])
        header.get_by_role("button").click()
        expect(second).to_have_text(["input_layernorm", "post_attention_layernorm", "self_attn", "mlp"])
        header.get_by_role("button").click()
        expect(header).to_have_attribute("aria-sort", "none")
        expect(second).to_have_text(["self_attn", "mlp", "input_layernorm", "post_attention_layernorm"])

    def test_the_same_rows_as_a_list_or_unfolded(self, tree: Locator) -> None:
        fold = tree.get_by_role("button", name="Fold alike")
        fold.click()
        expect(fold).to_have_attribute("aria-pressed", "false")
        expect(line(tree, "model.layers.5")).to_be_visible()
        fold.click()
        expect(line(tree, "model.layers.*")).to_be_visible()
        tree.get_by_role("button", name="Tree").click()
        expect(tree.get_by_role("grid", name="Layers")).to_have_attribute("aria-rowcount", "58")
        expect(fold).to_be_hidden()
        tree.get_by_role("button", name="Tree").click()
        expect(line(tree, "model.layers.*")).to_be_visible()


class TestChoices:
    def test_one_click_on_a_node_is_one_rule_and_shows_at_once(self, lab: NotebookPage, tree: Locator) -> None:
        line(tree, "model.layers.*.mlp").click()
        expect(tree.locator(".wb-choices .wb-label").first).to_have_text("Make 18 layers")
        tree.get_by_role("button", name="dense", exact=True).click()
        expect(tree.locator(".wb-said")).to_have_text("1 rule added (model.layers.*.mlp.*: dense)")
        expect(cell(tree, "model.layers.*.mlp", "Decision")).to_have_text("dense")
        expect(cell(tree, "model.layers.*", "Decision")).to_have_text("all but 18")
        expect(tree.get_by_role("button", name="dense", exact=True)).to_have_attribute("aria-pressed", "true")
        expect(tree.locator(".wb-dense-group").nth(2)).to_have_text(re.compile("^18 linear layers because left out by"))
        assert rules(lab) == "[('model.layers.*.mlp.*', None)]"

    def test_a_group_size_replaces_the_rule(self, lab: NotebookPage, tree: Locator) -> None:
        tree.get_by_role("button", name="32", exact=True).click()
        expect(cell(tree, "model.layers.*.mlp", "Group")).to_have_text("32")
        expect(tree.get_by_role("button", name="32", exact=True)).to_have_attribute("aria-pressed", "true")
        assert rules(lab) == "[('model.layers.*.mlp.*', 32)]"

    def test_undo_and_redo(self, lab: NotebookPage, tree: Locator) -> None:
        undo = lab.page.get_by_role("button", name="Undo")
        undo.click()
        expect(cell(tree, "model.layers.*.mlp", "Decision")).to_have_text("dense")
        undo.click()
        expect(cell(tree, "model.layers.*.mlp", "Group")).to_have_text("64")
        expect(undo).to_be_disabled()
        expect(tree.locator(".wb-said")).to_be_empty()
        assert rules(lab) == "[]"
        lab.page.get_by_role("button", name="Redo").click()
        expect(cell(tree, "model.layers.*.mlp", "Decision")).to_have_text("dense")
        undo.click()
        expect(undo).to_be_disabled()

    def test_a_single_weight_splits_its_part_of_the_tree_and_stays_in_view(
        self, lab: NotebookPage, tree: Locator
    ) -> None:
        line(tree, "model.layers.*.self_attn.q_proj").locator(".wb-twisty").click()
        line(tree, "model.layers.2.self_attn.q_proj").click()
        tree.get_by_role("button", name="dense", exact=True).click()
        expect(line(tree, "model.layers.2.self_attn.q_proj")).to_have_attribute("data-current", "true")
        expect(line(tree, "model.layers.0, 1, 3–5")).to_be_visible()
        expect(line(tree, "model.layers.2.self_attn.q_proj")).to_have_attribute("data-dense", "true")
        assert rules(lab) == "[('model.layers.2.self_attn.q_proj', None)]"
        line(tree, "model.layers.0, 1, 3–5").click()
        tree.get_by_role("button", name="128", exact=True).click()
        expect(cell(tree, "model.layers.0, 1, 3–5", "Group")).to_have_text("128")
        assert rules(lab).startswith("[('re:model\\\\.layers\\\\.[01345]\\\\..*', 128)")
        for _ in range(2):
            lab.page.get_by_role("button", name="Undo").click()
            lab.page.wait_for_timeout(200)
        expect(line(tree, "model.layers.*")).to_be_visible()

    def test_the_keyboard_reaches_the_choices(self, lab: NotebookPage, tree: Locator) -> None:
        line(tree, "model.layers.*").click()
        grid = tree.get_by_role("treegrid")
        grid.press("F2")
        first = tree.get_by_role("button", name="int4", exact=True)
        expect(first).to_be_focused()
        first.press("ArrowRight")
        dense = tree.get_by_role("button", name="dense", exact=True)
        expect(dense).to_be_focused()
        dense.press("Enter")
        expect(cell(tree, "model.layers.*", "Decision")).to_have_text("dense")
        expect(dense).to_be_focused()
        assert rules(lab) == "[('model.layers.*', None)]"
        dense.press("Escape")
        expect(grid).to_be_focused()
        lab.page.get_by_role("button", name="Undo").click()
        expect(cell(tree, "model.layers.*", "Decision")).to_have_text("int4")

    def test_what_cannot_become_int4_offers_nothing(self, tree: Locator) -> None:
        tree.get_by_role("button", name="13 norms").click()
        expect(tree.locator(".wb-counts")).to_contain_text("13 selected")
        expect(tree.get_by_role("button", name="int4", exact=True)).to_be_disabled()
        expect(tree.locator(".wb-about")).to_contain_text("13 dense: norm: not a linear layer")

    def test_python_sets_the_recipe_and_reads_it(self, lab: NotebookPage, tree: Locator) -> None:
        lab.run_code("table.recipe = wb.Recipe(None).with_rule('q_proj', table.recipe.default)")
        expect(cell(tree, "model.layers.*", "Decision")).to_have_text("6 of 42")
        lab.run_code("table.session.undo()")
        expect(cell(tree, "model.layers.*", "Decision")).to_have_text("int4")


class TestLargeModels:
    def test_only_rows_in_view_are_in_the_page(self, large: Locator) -> None:
        expect(large.locator(".wb-rows .wb-leaf").first).to_have_text("model.layers")
        large.get_by_role("button", name="Fold alike").click()
        line(large, "model.layers.0").wait_for()
        assert large.locator(".wb-rows [role=row]").count() < 40
        grid = large.get_by_role("treegrid")
        large.locator(".wb-rows [role=row]").first.click()
        grid.press("End")
        expect(line(large, "model.layers.399")).to_be_visible()
        grid.press("Home")
        large.get_by_role("button", name="Fold alike").click()

    def test_what_differs_stands_apart(self, large: Locator) -> None:
        rest = line(large, "model.layers.0–6, 8–399")
        expect(rest.locator(".wb-times")).to_have_text("×399")
        expect(line(large, "model.layers.7")).to_be_visible()

    def test_choices_say_which_part_they_are_for(self, lab: NotebookPage, large: Locator) -> None:
        line(large, "model.layers.7").click()
        large.get_by_role("button", name="32", exact=True).click()
        expect(large.locator(".wb-said")).to_have_text("4 chosen")
        line(large, "model.layers.7").locator(".wb-twisty").click()
        large.get_by_role("searchbox").fill("q_proj")
        expect(large.locator(".wb-rows .wb-leaf")).to_have_text("model.layers.*.q_proj")
        large.locator(".wb-rows [role=row]").click()
        large.get_by_role("button", name="dense", exact=True).click()
        expect(large.locator(".wb-said")).to_have_text("400 chosen")
        large.get_by_role("searchbox").fill("layers.7. proj")
        line(large, "model.layers.7").click()
        large.get_by_role("button", name="int4", exact=True).click()
        expect(large.locator(".wb-said")).to_have_text("3 chosen")
        large.get_by_role("searchbox").fill("")
        code = "print([(len(c.names), c.decision, c.group_size, c.glob) for c in made])"
        assert lab.run_code(code) == str(
            [
                (4, "int4", 32, "model.layers.7.*"),
                (400, "dense", None, "model.layers.*.q_proj"),
                (3, "int4", None, ""),
            ]
        )


def test_a_coverage_shows_itself_as_a_plain_table(lab: NotebookPage) -> None:
    plain = lab.page.locator(".wb-coverage-table")
    expect(plain).to_contain_text("42 of 57 weights become int4")
    expect(plain).to_contain_text("Left dense: 1 embedding, 13 norms; 1 output head because tied to model.embed_tokens")
    expect(plain.locator("tbody tr")).to_have_count(12)
    expect(plain.locator("tbody tr").nth(1)).to_contain_text("model.layers.*.self_attn.q_proj")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_text_can_be_read(lab: NotebookPage, tree: Locator, theme: str) -> None:
    lab.set_theme(theme)
    line(tree, "model.layers.*.mlp").click()
    lab.page.mouse.move(0, 0)
    expect(lab.page.locator(".wb-layers")).to_have_count(2)
    expect_readable(lab.page.locator(".wb-layers"))
    lab.screenshot(f"preflight-{theme}")


def test_a_narrow_table_clips_nothing(lab: NotebookPage, tree: Locator) -> None:
    lab.run_code("table.layout.width = '460px'")
    expect(tree.get_by_role("columnheader", name="Reason")).to_have_count(0)
    expect_readable(tree)
    lab.screenshot("preflight-narrow", ".wb-panel")
    lab.run_code("table.layout.width = None")
