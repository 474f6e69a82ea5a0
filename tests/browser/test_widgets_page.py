"""The components in a real JupyterLab: what is painted, clicked, typed and sent, in one notebook."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from notebook_page import NotebookPage, wait_for
from playwright.sync_api import Locator, expect
from readable import expect_readable
from shared_lab import SharedLab

SETUP = """
import threading, time
from workbench.widgets.commands import Command, Commands
from workbench.widgets.heatmap import Heatmap, HeatPayload
from workbench.widgets.layer_table import LayerTable
from workbench.widgets.line_chart import Chart, LineChart, Series

def picture(seq, values, rows, cols, **changes):
    fields = dict(lo=0.0, hi=0.51, unit="of the range", log=False, row_span=8, col_span=2, badge="exact",
                  title="layers.0.q_proj", reduce="max", group_size=64) | changes
    totals = dict(total_rows=rows * fields["row_span"], total_cols=cols * fields["col_span"])
    return HeatPayload(bytes(values), rows, cols, seq=seq, **totals, **fields)

def spot(at, rows=16, cols=8):
    values = bytearray(rows * cols)
    values[at[0] * cols + at[1]] = 255
    return values

def layers(count):
    leaves = {"self_attn.q_proj": 4096, "self_attn.v_proj": 1024, "mlp.down_proj": 4096, "input_layernorm": 1}
    ids = "name kind shape parameters decision reason before_bytes after_bytes bits_per_weight error status"
    columns = {name: [] for name in ids.split()}
    for block in range(count // 4):
        for leaf, rows in leaves.items():
            dense = leaf == "input_layernorm"
            size = rows * 4096
            row = (f"model.layers.{block}.{leaf}", "norm" if dense else "linear", [rows, 4096], size,
                   "dense" if dense else "int4", "not a matrix" if dense else "group 64, float zero, hqq",
                   2 * size, 2 * size if dense else size * 9 // 16, 16.0 if dense else 4.5,
                   None if dense else 0.03 + 0.07 * ((block * 37 + rows) % 101) / 101, "")
            for name, value in zip(columns, row):
                columns[name].append(value)
    return columns

errors = []
def note(error, where):
    errors.append(f"{where}: {error}")
"""
HEAT = """
heat = Heatmap(on_error=note)
cells = []
heat.on_select(cells.append)
heat.show(picture(1, spot((2, 3)), 16, 8))
heat
"""
TABLE = """
table = LayerTable(on_error=note)
table.show(layers(1600))
table
"""
CHART = """
chart = LineChart(Chart(
    title="Speedup over bf16", subtitle="2 threads, 4096 x 4096, group 64, median of 30 runs",
    x_label="batch size", y_label="speedup", y_suffix="×", reference=1.0, reference_label="1× = bf16",
    x_ticks=(1, 2, 4, 8, 16, 32, 64, 128, 256),
    series=(Series("int4", (1, 4), (3.0, 2.5), (2.8, 2.4), (3.1, 2.6), ("0.41 ms", "0.50 ms")),
            Series("compiled"),
            Series("H100", (1, 16, 256), (3.5, 2.4, 0.6), style="estimated")),
), on_error=note)
chart
"""
COMMANDS = """
stopped = threading.Event()
commands = Commands([Command("go", "Quantize", "Quantize the selection", "primary"),
                     Command("fail", "Export"), Command("cancel", "Cancel", "Stop at a block", "danger")],
                    on_error=note)
@commands.on_command
def act(command):
    if command == "fail":
        raise OSError("The disk is full.")
    if command == "cancel":
        stopped.set()
    return f"{command} received"
commands
"""
BUSY = """
end = time.time() + 60
while not stopped.is_set() and time.time() < end: pass
print(stopped.is_set())
"""


@pytest.fixture(scope="module")
def lab(shared_lab: SharedLab) -> Iterator[NotebookPage]:
    """One notebook with every component in it; the tests below share it in their order."""
    with shared_lab.lend([SETUP, HEAT, TABLE, CHART, COMMANDS], 1280, 1900) as lab:
        expect(lab.page.locator(".wb-heat canvas")).to_have_attribute("data-seq", "1")
        expect(lab.page.locator(".wb-commands")).to_have_attribute("data-ready", "true")
        yield lab
        lab.expect_output("print(errors)", "['Commands: fail: The disk is full.']")


@pytest.fixture
def heat(lab: NotebookPage) -> Locator:
    return lab.page.locator(".wb-heat")


@pytest.fixture
def table(lab: NotebookPage) -> Locator:
    return lab.page.locator(".wb-layers")


@pytest.fixture
def chart(lab: NotebookPage) -> Locator:
    return lab.page.locator(".wb-chart")


def pixel(heat: Locator, row: float, col: float) -> list[int]:
    """Colour at a place of the picture, 0 to 1 down and across."""
    return heat.locator("canvas").evaluate(
        """(canvas, [row, col]) => {
            const [x, y] = [Math.floor(col * canvas.width), Math.floor(row * canvas.height)];
            return [...canvas.getContext('2d').getImageData(x, y, 1, 1).data].slice(0, 3);
        }""",
        [row, col],
    )


def expect_pixel(heat: Locator, row: float, col: float, color: list[int]) -> None:
    """Wait until a place of the picture has a colour."""
    wait_for(lambda: pixel(heat, row, col), lambda found: found == color)


def point_at(heat: Locator, row: float, col: float) -> tuple[float, float]:
    """Page coordinates of a place of the picture."""
    heat.locator("canvas").scroll_into_view_if_needed()
    box = heat.locator("canvas").bounding_box()
    assert box is not None
    return box["x"] + col * box["width"], box["y"] + row * box["height"]


def names(table: Locator) -> list[str]:
    """Names of the rows in the page that are in view."""
    return table.locator(".wb-rows [role=row]").evaluate_all("rows => rows.map(row => row.dataset.name)")


VIRIDIS_LOW, VIRIDIS_HIGH = [68, 1, 84], [253, 231, 37]
SPOT = ((2 + 0.5) / 16, (3 + 0.5) / 8)


class TestHeatmap:
    def test_pixels_show_the_values(self, heat: Locator) -> None:
        expect_pixel(heat, *SPOT, VIRIDIS_HIGH)
        expect_pixel(heat, SPOT[0] + 1 / 16, SPOT[1], VIRIDIS_LOW)
        expect_pixel(heat, 0.99, 0.99, VIRIDIS_LOW)
        expect(heat.locator(".wb-sub")).to_have_text(
            "128 output features × 16 groups, each cell = max of 8 rows × 2 groups"
        )

    def test_hover_limits_and_threshold_while_the_kernel_is_blocked(self, lab: NotebookPage, heat: Locator) -> None:
        lab.run_code("stopped.clear()")
        lab.start_code(BUSY)
        lab.page.mouse.move(*point_at(heat, *SPOT))
        tip = heat.locator(".wb-tip")
        expect(tip).to_contain_text("0.51 of the range")
        expect(tip).to_contain_text("output features 16–23")
        expect(tip).to_contain_text("groups 6–7 · in_features 384–511")
        high = heat.get_by_role("slider", name="Upper colour limit")
        high.focus()
        high.press("PageDown")
        expect(heat.get_by_role("slider", name="Upper colour limit")).to_have_attribute(
            "aria-valuetext", "0.459 of the range"
        )
        heat.get_by_role("slider", name="Threshold").press("PageUp")
        expect(heat.locator(".wb-threshold")).to_have_count(1)
        # Cells below the threshold fade into the page.
        wait_for(lambda: pixel(heat, 0.99, 0.99), lambda faded: faded != VIRIDIS_LOW and min(faded) > 200)
        expect_pixel(heat, *SPOT, VIRIDIS_HIGH)
        heat.get_by_role("button", name="Reset view", exact=True).click()
        expect_pixel(heat, 0.99, 0.99, VIRIDIS_LOW)
        lab.page.locator("[data-command=cancel]").click()
        assert lab.code_output(90) == "True"

    def test_drag_zooms_and_double_click_resets(self, lab: NotebookPage, heat: Locator) -> None:
        mouse = lab.page.mouse
        mouse.move(*point_at(heat, 0.02, 0.02))
        mouse.down()
        mouse.move(*point_at(heat, 0.24, 0.49), steps=4)
        expect(heat.locator(".wb-mark-zoom")).to_have_count(1)
        mouse.up()
        expect(heat.locator("canvas")).to_have_attribute("data-pan", "true")
        expect_pixel(heat, 0.66, 0.9, VIRIDIS_HIGH)
        expect(heat.locator(".wb-mark-selected"), "a drag does not select").to_have_count(0)
        mouse.dblclick(*point_at(heat, 0.1, 0.1))
        expect(heat.locator("canvas")).to_have_attribute("data-pan", "false")
        expect_pixel(heat, *SPOT, VIRIDIS_HIGH)

    def test_the_wheel_zooms_once_the_map_has_focus(self, lab: NotebookPage, heat: Locator) -> None:
        lab.page.mouse.move(*point_at(heat, *SPOT))
        heat.locator("canvas").focus()
        for _ in range(6):
            lab.page.mouse.wheel(0, -200)
        expect(heat.locator("canvas")).to_have_attribute("data-pan", "true")
        expect_pixel(heat, *SPOT, VIRIDIS_HIGH)  # the cell under the pointer stays there
        heat.locator("canvas").press("0")
        expect(heat.locator("canvas")).to_have_attribute("data-pan", "false")

    def test_a_click_selects_for_python(self, lab: NotebookPage, heat: Locator) -> None:
        lab.page.mouse.click(*point_at(heat, *SPOT))
        expect(heat.locator(".wb-mark-selected")).to_have_count(1)
        code = "print(heat.selected, *[(c.row, c.row_stop, c.group, c.group_stop, c.value) for c in cells[-1:]])"
        lab.expect_output(code, "(16, 6) (16, 24, 6, 8, 0.51)")

    def test_the_keyboard_moves_selects_and_speaks(self, lab: NotebookPage, heat: Locator) -> None:
        canvas = heat.locator("canvas")
        canvas.focus()
        canvas.press("ArrowDown")
        canvas.press("ArrowRight")
        expect(heat.locator("[aria-live]")).to_have_text(
            "0 of the range, output features 24–31, groups 8–9 · in_features 512–639"
        )
        canvas.press("Enter")
        lab.expect_output("print(heat.selected)", "(24, 8)")

    def test_stale_pictures_are_dropped_by_the_page(self, lab: NotebookPage, heat: Locator) -> None:
        lab.run_code("heat.show(picture(10, spot((5, 5)), 16, 8))")
        expect(heat.locator("canvas")).to_have_attribute("data-seq", "10")
        expect_pixel(heat, 5.5 / 16, 5.5 / 8, VIRIDIS_HIGH)
        lab.run_code("heat._payload = {**heat._payload, 'seq': 9, 'values': bytes(spot((0, 0)))}")
        lab.page.wait_for_timeout(300)
        expect(heat.locator("canvas")).to_have_attribute("data-seq", "10")
        expect_pixel(heat, 0.01, 0.01, VIRIDIS_LOW)

    def test_python_selects_and_says_busy(self, lab: NotebookPage, heat: Locator) -> None:
        lab.run_code("heat.selected = (0, 0); heat.busy = True; heat.message = 'Solving…'")
        expect(heat).to_have_attribute("aria-busy", "true")
        expect(heat.locator(".wb-empty")).to_have_text("Solving…")
        expect(heat.locator(".wb-value b")).to_have_text("0 of the range")
        lab.run_code("heat.busy = False; heat.message = ''")
        expect(heat).to_have_attribute("aria-busy", "false")

    def test_small_cells_keep_their_maxima(self, lab: NotebookPage, heat: Locator) -> None:
        lab.run_code("heat.show(picture(11, spot((301, 77), 512, 512), 512, 512, title='layers.1.q_proj'))")
        expect(heat.locator("canvas")).to_have_attribute("data-seq", "11")
        count_bright = """canvas => {
            const data = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
            let count = 0;
            for (let k = 0; k < data.length; k += 4) count += data[k] === 253 && data[k + 1] === 231;
            return count;
        }"""
        # 512 rows on 320 pixels, and the one bright cell is still there.
        wait_for(lambda: heat.locator("canvas").evaluate(count_bright), lambda bright: bright >= 1)

    def test_the_largest_cells_are_listed(self, lab: NotebookPage, heat: Locator) -> None:
        heat.get_by_text("Largest cells", exact=True).click()
        first = heat.locator("table tr").nth(1)
        expect(first.locator("td")).to_have_text(["0.51 of the range", "output features 2408–2415", "154–155"])
        first.get_by_role("button").click()
        lab.expect_output("print(heat.selected)", "(2408, 154)")
        heat.get_by_text("Largest cells", exact=True).click()

    def test_signed_values_diverge_from_zero(self, lab: NotebookPage, heat: Locator) -> None:
        lab.run_code("ramp = [0, 128, 255, 128] * 4; heat.show(picture(12, ramp, 4, 4, lo=-1, hi=1, title='change'))")
        expect(heat.locator("canvas")).to_have_attribute("data-seq", "12")
        # Blue below zero, orange above, and zero is the page's own colour.
        wait_for(lambda: pixel(heat, 0.1, 0.5 / 4), lambda low: low[2] > low[0] + 60)
        wait_for(lambda: pixel(heat, 0.1, 1.5 / 4), lambda middle: min(middle) > 225)
        wait_for(lambda: pixel(heat, 0.1, 2.5 / 4), lambda high: high[0] > high[2] + 60)


class TestLayerTable:
    def test_only_the_rows_in_view_are_in_the_page(self, table: Locator) -> None:
        expect(table.get_by_role("grid")).to_have_attribute("aria-rowcount", "1601")
        assert 0 < len(names(table)) < 40
        table.locator(".wb-body").evaluate("body => { body.scrollTop = 28 * 1500 }")
        expect(table.locator("[data-name='model.layers.375.self_attn.q_proj']")).to_be_visible()
        table.locator(".wb-body").evaluate("body => { body.scrollTop = 0 }")

    def test_totals_are_in_view(self, table: Locator) -> None:
        totals = table.locator(".wb-totals")
        expect(totals).to_contain_text("1,600 layers")
        expect(totals).to_contain_text("int4 covers 99.9% of bytes")
        expect(totals).to_contain_text("30.2 GB → 8.50 GB (3.55× smaller)")

    @pytest.mark.parametrize(
        ("text", "shown", "first"),
        [
            ("*.q_proj", 400, "model.layers.0.self_attn.q_proj"),
            ("layers.1.*", 4, "model.layers.1.self_attn.q_proj"),
            (r"re:layers\.[0-3]\. mlp", 4, "model.layers.0.mlp.down_proj"),
            ("!*_proj", 400, "model.layers.0.input_layernorm"),
            ("norm dense layers.39?.*", 10, "model.layers.390.input_layernorm"),
            ("Q_PROJ !re:layers", 0, None),
        ],
    )
    def test_the_filter(self, table: Locator, text: str, shown: int, first: str | None) -> None:
        table.get_by_role("searchbox").fill(text)
        expect(table.get_by_role("grid")).to_have_attribute("aria-rowcount", str(shown + 1))
        wait_for(lambda: (names(table) or [None])[0], lambda found: found == first)
        if shown == 0:
            expect(table.locator(".wb-empty")).to_have_text("No layer matches the filter.")

    def test_fast_typing_loses_no_letter(self, lab: NotebookPage, table: Locator) -> None:
        box = table.get_by_role("searchbox")
        box.fill("")
        for delay in (5, 25, 60, 90):
            box.press_sequentially("model.layers.3*.mlp.*", delay=delay)
            expect(box).to_have_value("model.layers.3*.mlp.*")
            lab.page.wait_for_timeout(150)
            expect(box).to_have_value("model.layers.3*.mlp.*")
            lab.expect_output("print(table.filter)", "model.layers.3*.mlp.*")
            box.fill("")

    def test_a_broken_pattern_is_said_and_hides_nothing(self, table: Locator) -> None:
        table.get_by_role("searchbox").fill("re:(")
        expect(table.get_by_role("alert")).to_contain_text("“re:(” is no valid pattern")
        expect(table.get_by_role("grid")).to_have_attribute("aria-rowcount", "1601")
        table.get_by_role("searchbox").fill("")
        expect(table.get_by_role("alert")).to_be_hidden()

    def test_headers_sort(self, table: Locator) -> None:
        header = table.get_by_role("columnheader", name="Relative error")
        header.get_by_role("button").click()
        expect(header).to_have_attribute("aria-sort", "descending")
        values = table.locator(".wb-error > span:last-child")
        wait_for(values.all_inner_texts, lambda found: found == sorted(found, reverse=True) and found[0] == "0.0993")
        header.get_by_role("button").click()
        expect(header).to_have_attribute("aria-sort", "ascending")
        expect(table.locator(".wb-rows [role=row]").first).to_have_attribute("data-dense", "false")
        header.get_by_role("button").click()
        expect(header).to_have_attribute("aria-sort", "none")
        wait_for(lambda: names(table)[0], lambda found: found == "model.layers.0.self_attn.q_proj")

    def test_click_control_and_shift(self, lab: NotebookPage, table: Locator) -> None:
        row = table.locator(".wb-rows [role=row]")
        row.nth(0).click()
        row.nth(2).click(modifiers=["Control"])
        self.expect_selected(lab, ["model.layers.0.self_attn.q_proj", "model.layers.0.mlp.down_proj"])
        row.nth(4).click(modifiers=["Shift"])
        self.expect_selected(lab, 3)
        lab.expect_output("print(table.current)", "model.layers.1.self_attn.q_proj")

    def test_the_keyboard(self, lab: NotebookPage, table: Locator) -> None:
        table.locator(".wb-rows [role=row]").nth(1).click()
        grid = table.get_by_role("grid")
        for key in ("ArrowDown", "Shift+ArrowDown", "Shift+ArrowDown"):
            grid.press(key)
        names = ["model.layers.0.mlp.down_proj", "model.layers.0.input_layernorm", "model.layers.1.self_attn.q_proj"]
        self.expect_selected(lab, names)
        grid.press("Control+ArrowDown")
        grid.press("Space")
        self.expect_selected(lab, 4)
        table.get_by_role("searchbox").fill("*.v_proj")
        expect(grid).to_have_attribute("aria-rowcount", "401")
        grid.press("Control+a")
        self.expect_selected(lab, 400)
        table.get_by_role("searchbox").fill("")
        grid.press("End")
        expect(table.locator("[data-name='model.layers.399.input_layernorm']")).to_be_visible()
        grid.press("Home")
        grid.press("Escape")
        self.expect_selected(lab, [])

    def test_quick_selections(self, lab: NotebookPage, table: Locator) -> None:
        chips = table.get_by_role("group", name="Quick selection").get_by_role("button")
        expect(chips).to_have_text(
            ["all int41,200", "q_proj400", "v_proj400", "down_proj400", "input_layernorm400", "Clear"]
        )
        chips.filter(has_text="q_proj").click()
        self.expect_selected(lab, 400)
        lab.expect_output("print({name.split('.')[-1] for name in table.selected})", "{'q_proj'}")
        chips.filter(has_text="down_proj").click(modifiers=["Control"])
        self.expect_selected(lab, 800)
        expect(table.locator(".wb-counts")).to_contain_text("800 selected")
        chips.filter(has_text="Clear").click()
        self.expect_selected(lab, [])

    def test_paths_are_copied(self, lab: NotebookPage, table: Locator) -> None:
        table.locator(".wb-rows [role=row]").nth(0).click()
        table.locator(".wb-rows [role=row]").nth(1).click(modifiers=["Shift"])
        table.get_by_role("grid").press("Control+c")
        expect(table.locator("[aria-live]")).to_have_text("Copied 2 paths")
        copied = lab.page.evaluate("() => navigator.clipboard.readText()")
        assert copied == "model.layers.0.self_attn.q_proj\nmodel.layers.0.self_attn.v_proj"

    def test_updates_change_cells_without_the_whole_table(self, lab: NotebookPage, table: Locator) -> None:
        lab.run_code(
            "sent = []\nsend = table._send\n"
            "table._send = lambda message, buffers=None: (sent.append(message), send(message, buffers))\n"
            "table.update(['model.layers.0.self_attn.v_proj', 'model.layers.0.mlp.down_proj'],"
            " status=['running', 'failed: NaN in row 3'], error=[0.5, None])\ntable._send = send"
        )
        status = table.locator("[data-name='model.layers.0.self_attn.v_proj'] .wb-status")
        expect(status).to_have_attribute("data-kind", "running")
        failed = table.locator("[data-name='model.layers.0.mlp.down_proj'] .wb-status")
        expect(failed).to_have_attribute("title", "failed: NaN in row 3")
        expect(table.locator("[data-name='model.layers.0.self_attn.v_proj'] .wb-error")).to_have_text("0.500")
        assert int(lab.run_code("print(sum(len(str(m)) for m in sent))")) < 400

    def test_python_selects_and_the_row_scrolls_into_view(self, lab: NotebookPage, table: Locator) -> None:
        lab.run_code(
            "with table.hold_sync():\n    table.selected = ['model.layers.200.mlp.down_proj']\n"
            "    table.current = 'model.layers.200.mlp.down_proj'"
        )
        row = table.locator("[data-name='model.layers.200.mlp.down_proj']")
        expect(row).to_be_visible()
        expect(row).to_have_attribute("aria-selected", "true")

    def test_a_narrow_table_drops_columns_and_clips_nothing(self, lab: NotebookPage, table: Locator) -> None:
        wide = table.get_by_role("columnheader").count()
        lab.run_code("table.layout.width = '480px'")
        expect(table.get_by_role("columnheader")).not_to_have_count(wide)
        expect_readable(table.locator(".wb-grid"))
        lab.screenshot("layers-narrow", ".wb-layers")
        lab.run_code("table.layout.width = None")
        expect(table.get_by_role("columnheader")).to_have_count(wide)

    def test_long_shapes_do_not_take_the_size_after_with_them(self, lab: NotebookPage, table: Locator) -> None:
        lab.run_code(
            "stacks = {**table.columns, 'shape': [[128, *shape] for shape in table.columns['shape']]}\n"
            "table.layout.width = '600px'; table.show(stacks)"
        )
        header = table.get_by_role("columnheader")
        expect(header).to_have_text(["Layer", "After", "Decision", "Error", "Status"])
        fit = "cells => cells.every((one) => one.scrollWidth <= one.clientWidth + 4)"
        wait_for(lambda: header.evaluate_all(fit), bool)
        table.locator(".wb-body").evaluate("body => { body.scrollTop = 0 }")
        dense = table.locator("[data-name='model.layers.0.input_layernorm'] .wb-reason")
        expect(dense).to_have_text("dense")  # there is no room for why
        expect(dense).to_have_attribute("title", "not a matrix")
        lab.run_code("table.layout.width = None; table.show(layers(1600))")

    @staticmethod
    def expect_selected(lab: NotebookPage, wanted: list[str] | int) -> None:
        """Wait until the kernel has taken over a selection, or one of so many layers."""
        what = "len(table.selected)" if isinstance(wanted, int) else "table.selected"
        lab.expect_output(f"print({what})", str(wanted))


class TestLineChart:
    def test_points_and_labels(self, chart: Locator) -> None:
        expect(chart.locator("path.wb-point[data-series]")).to_have_count(5)
        expect(chart.locator(".wb-reference-name")).to_have_text("1× = bf16")
        expect(chart.get_by_role("group", name="Series").get_by_role("button")).to_have_text(
            ["int4", "compiled", "H100 (estimate)"]
        )

    def test_points_appear_as_they_are_measured(self, lab: NotebookPage, chart: Locator) -> None:
        lab.run_code("chart.busy = True; chart.add_point('int4', 16, 1.4, detail='0.9 ms')")
        expect(chart.locator("path.wb-point[data-series=int4]")).to_have_count(3)
        expect(chart.locator("path.wb-fresh")).to_have_count(1)
        expect(chart).to_have_attribute("aria-busy", "true")
        lab.run_code("chart.busy = False; chart.add_point('compiled', 1, 3.2); chart.add_point('compiled', 4, 2.8)")
        expect(chart.locator("path.wb-point[data-series=compiled]")).to_have_count(2)

    def test_an_equal_step_in_log2_is_an_equal_step_on_the_page(self, chart: Locator) -> None:
        points = chart.locator("path.wb-point[data-series=int4]")
        expect(points).to_have_count(3)
        xs = points.evaluate_all("points => points.map(p => p.getBBox().x + p.getBBox().width / 2)")
        assert xs[1] - xs[0] == pytest.approx(xs[2] - xs[1], abs=0.5)

    def test_the_read_out_and_the_keyboard(self, lab: NotebookPage, chart: Locator) -> None:
        chart.locator("path.wb-point[data-series=int4]").nth(2).hover()
        tip = chart.locator(".wb-tip")
        expect(tip).to_contain_text("batch size 16")
        expect(tip).to_contain_text("1.4×")
        expect(tip).to_contain_text("0.9 ms")
        lab.page.mouse.move(0, 0)
        expect(tip).to_be_hidden()
        svg = chart.locator("svg.wb-lines")
        svg.focus()
        svg.press("ArrowRight")
        svg.press("ArrowRight")
        expect(chart.locator("[aria-live]")).to_have_text("batch size 4, compiled 2.8× , int4 2.5× 0.50 ms")

    def test_the_legend_hides_a_series(self, chart: Locator) -> None:
        button = chart.get_by_role("button", name="H100 (estimate)")
        button.click()
        expect(chart.locator("path.wb-point[data-series=H100]")).to_have_count(0)
        button.click()
        expect(chart.locator("path.wb-point[data-series=H100]")).to_have_count(3)

    def test_the_numbers_are_in_a_table(self, chart: Locator) -> None:
        chart.get_by_text("Numbers", exact=True).click()
        rows = chart.locator("details tr")
        expect(rows.nth(1).locator("td")).to_have_text(["3×", "2.5×", "1.4×", "–"])
        chart.get_by_text("Numbers", exact=True).click()


class TestCommands:
    @pytest.mark.parametrize("meanwhile", ["", "worker"])
    def test_a_click_arrives_while_a_cell_is_blocked(self, lab: NotebookPage, meanwhile: str) -> None:
        worker = """
def write():
    for _ in range(3):
        time.sleep(0.1)
        heat.busy = not heat.busy
        commands.enable(go=False)
        commands.enable(go=True)
threading.Thread(target=write).start()
"""
        lab.run_code("stopped.clear()")
        lab.start_code((worker if meanwhile else "") + BUSY)
        lab.page.wait_for_timeout(600)
        lab.page.locator("[data-command=cancel]").click()
        expect(lab.page.locator(".wb-reply")).to_have_text("cancel received")
        assert lab.code_output(90) == "True", "the cell saw the event that the click set"
        lab.run_code("heat.busy = False")

    def test_a_failing_command_is_said_and_the_next_works(self, lab: NotebookPage) -> None:
        reply = lab.page.locator(".wb-reply")
        lab.page.get_by_role("button", name="Export", exact=True).click()
        expect(reply).to_have_text("The disk is full.")
        expect(reply).to_have_attribute("data-kind", "failed")
        lab.page.get_by_role("button", name="Quantize", exact=True).click()
        expect(reply).to_have_text("go received")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_both_themes_are_followed_live_and_readable(lab: NotebookPage, theme: str) -> None:
    lab.run_code(
        "import math\n"
        "wave = [int(127 + 90 * math.sin(i / 37) * math.cos((i % 64) / 9)) for i in range(256 * 64)]\n"
        "heat.show(picture(heat.payload.seq + 1, wave, 256, 64, row_span=16, col_span=1, reduce='sample',"
        " badge='sampled 1/16', title='model.layers.0.self_attn.q_proj: relative error'))\n"
        "table.selected = ['model.layers.0.self_attn.q_proj']"
    )
    lab.set_theme(theme)
    for name in ("heat", "layers", "chart", "commands"):
        expect_readable(lab.page.locator(f".wb-{name}").first, theme)
        lab.screenshot(f"component-{name}-{theme}", f".wb-{name}")
    lab.screenshot(f"components-{theme}")


def test_clearing_the_outputs_cleans_up(lab: NotebookPage) -> None:
    lab.set_theme("light")
    lab.page.evaluate("() => { jupyterapp.commands.execute('notebook:clear-all-cell-outputs') }")
    expect(lab.page.locator(".wb")).to_have_count(0)
    lab.run_code("heat.busy = True; table.filter = 'q_proj'; chart.add_point('int4', 2, 2.9); commands.enable(go=True)")
    lab.set_theme("dark")
    lab.page.wait_for_timeout(300)
    assert lab.errors == []


def test_coming_back_shows_the_state_of_now(notebook: NotebookPage) -> None:
    """Close the tab, open the notebook again: the table's updates and the newest picture are there."""
    notebook.open_notebook([SETUP, HEAT, TABLE])
    notebook.run_all()
    expect(notebook.page.locator("canvas[data-seq='1']")).to_be_visible()
    notebook.page.evaluate("() => { jupyterapp.commands.execute('docmanager:save') }")
    notebook.page.wait_for_function("() => !notebookPanel.model.dirty")
    notebook.run_code("table.set_status({'model.layers.0.self_attn.q_proj': 'done'}); table.filter = '*.q_proj'")
    notebook.run_code("heat.show(picture(2, spot((5, 5)), 16, 8))")
    notebook.page.goto(re.sub(r"&reset.*", "", notebook.page.url))
    expect(notebook.page.locator("canvas[data-seq='2']")).to_be_visible(timeout=30_000)
    row = notebook.page.locator("[data-name='model.layers.0.self_attn.q_proj']")
    expect(row.locator(".wb-status")).to_have_text("done")
    expect(notebook.page.get_by_role("searchbox", name="Filter layers")).to_have_value("*.q_proj")
