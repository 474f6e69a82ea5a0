"""Heat map without a browser: what is refused, what is sent, what a selection means."""

from __future__ import annotations

import math
import struct
import threading

import pytest

from workbench.errors import ConfigError
from workbench.widgets.heatmap import HeatBlock, HeatCell, Heatmap, HeatPayload, ZoomRequest


def payload(seq: int = 1, rows: int = 3, cols: int = 2, **changes: object) -> HeatPayload:
    """A small picture: cell k has code k, of 5 x 3 original cells in blocks of 2 x 2."""
    fields: dict[str, object] = {
        "values": bytes(range(rows * cols)),
        "rows": rows,
        "cols": cols,
        "lo": 0.0,
        "hi": 255.0,
        "unit": "steps",
        "log": False,
        "row_span": 2,
        "col_span": 2,
        "total_rows": 5,
        "total_cols": 3,
        "title": "layer",
        "badge": "exact",
        "seq": seq,
        "reduce": "max",
    }
    return HeatPayload(**(fields | changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"values": b"12345"},
        {"rows": 0, "values": b"", "total_rows": 0},
        {"row_span": 1},
        {"total_cols": 5},
        {"lo": 1.0, "hi": 1.0},
        {"hi": math.inf},
        {"lo": math.nan},
        {"log": True},
        {"reduce": "median"},
        {"stack_rows": 0},
        {"stack_rows": 6},
    ],
)
def test_pictures_that_cannot_be_drawn_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        payload(**changes)


def test_more_than_512_rows_are_refused_with_the_mend() -> None:
    with pytest.raises(ConfigError, match="reduce it"):
        HeatPayload(bytes(513), 513, 1, 0, 1, "", False, 1, 1, 513, 1, "", "", 1)


def test_a_cell_is_cut_at_the_end_of_the_matrix() -> None:
    assert payload().cell(4, 2) == HeatCell(4, 5, 2, 3, 5.0, 1)
    assert payload().cell(1, 1) == HeatCell(0, 2, 0, 2, 0.0, 1)
    assert payload().cell(99, 99) == payload().cell(4, 2)


def test_a_sampled_cell_stands_for_the_one_row_it_took() -> None:
    assert payload(reduce="sample").cell(3, 0) == HeatCell(2, 3, 0, 2, 2.0, 1)


def test_values_of_a_logarithmic_scale() -> None:
    shown = payload(values=bytes([0, 51, 102, 153, 204, 255]), lo=1e-5, hi=1.0, log=True)
    seen = [shown.cell(row, col).value for row in (0, 2, 4) for col in (0, 2)]
    assert seen == pytest.approx([1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0])


def test_one_picture_is_one_message_with_one_buffer(wire) -> None:
    heat = Heatmap()
    wire.clear()
    big = HeatPayload(bytes(512 * 512), 512, 512, 0, 1, "", False, 1, 1, 512, 512, "layer", "exact", 1)
    assert heat.show(big)
    pictures = [(m, b) for m, b in wire.messages if "_payload" in m.get("state", {})]
    assert len(pictures) == 1
    message, buffers = pictures[0]
    assert [len(buffer) for buffer in buffers] == [512 * 512]
    assert message["buffer_paths"] == [["_payload", "values"]]
    assert len(repr(message)) < 2000


def test_a_stale_picture_is_dropped(wire) -> None:
    heat = Heatmap()
    assert heat.show(payload(seq=5))
    wire.clear()
    assert not heat.show(payload(seq=4))
    assert wire.messages == []
    assert heat.payload is not None and heat.payload.seq == 5
    assert heat.show(payload(seq=5, badge="again"))


def test_the_newest_picture_wins_whatever_the_threads_do(wire) -> None:
    heat = Heatmap()
    pictures = [payload(seq=seq) for seq in range(200)]
    threads = [
        threading.Thread(target=lambda part=part: [heat.show(p) for p in pictures[part::4]]) for part in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sequence = [state["_payload"]["seq"] for state in wire.states if "_payload" in state]
    assert sequence == sorted(sequence) and sequence[-1] == 199


def test_a_click_selects_in_original_coordinates(wire) -> None:
    heat = Heatmap()
    heat.show(payload())
    cells: list[HeatCell] = []
    heat.on_select(cells.append)
    heat._handle_msg({"content": {"data": {"method": "update", "state": {"selected": [2, 0]}}}, "buffers": []})
    assert heat.selected == (2, 0)
    assert cells == [HeatCell(2, 4, 0, 2, 2.0, 1)]
    assert heat.cell == cells[0]


def test_the_selection_outlives_a_refinement_but_not_another_matrix(wire) -> None:
    heat = Heatmap()
    heat.show(payload(seq=1))
    heat.selected = (2, 0)
    finer = payload(seq=2, rows=5, cols=3, row_span=1, col_span=1)
    heat.show(finer)
    assert heat.selected == (2, 0)
    assert heat.cell == HeatCell(2, 3, 0, 1, 6.0, 2)
    heat.show(payload(seq=3, total_rows=6))
    assert heat.selected is None and heat.cell is None


def test_clear_shows_a_text_and_lets_numbers_start_anew(wire) -> None:
    heat = Heatmap()
    heat.show(payload(seq=9))
    heat.clear("Pick a layer.")
    assert heat.payload is None and heat.message == "Pick a layer."
    assert heat.show(payload(seq=1))
    assert heat.message == ""


def test_errors_of_callbacks_reach_on_error_and_stop_nobody(wire) -> None:
    seen: list[tuple[Exception, str]] = []
    heat = Heatmap(on_error=lambda error, where: seen.append((error, where)))
    heat.show(payload())
    cells: list[HeatCell] = []

    def broken(_cell: HeatCell) -> None:
        raise RuntimeError("broken callback")

    heat.on_select(broken)
    heat.on_select(cells.append)
    heat.set_state({"selected": [0, 0]})
    assert [str(error) for error, _ in seen] == ["broken callback"]
    assert "broken" in seen[0][1]
    assert len(cells) == 1


def test_nonsense_from_the_page_reaches_on_error(wire) -> None:
    seen: list[str] = []
    heat = Heatmap(on_error=lambda _error, where: seen.append(where))
    heat.set_state({"selected": [-1, 0]})
    assert heat.selected is None
    assert seen == ["Heatmap: change of selected"]


def test_errors_are_logged_by_default_and_when_the_handler_fails(wire, caplog: pytest.LogCaptureFixture) -> None:
    Heatmap().set_state({"selected": "nonsense"})
    assert "change of selected" in caplog.text
    caplog.clear()

    def failing(_error: Exception, _where: str) -> None:
        raise ValueError("handler failed")

    Heatmap(on_error=failing).set_state({"selected": "nonsense"})
    assert "change of selected" in caplog.text and "handler failed" in caplog.text


def test_unknown_keywords_are_refused_and_repr_is_cheap(wire) -> None:
    with pytest.raises(ConfigError, match="colourmap"):
        Heatmap(colourmap="magma")
    heat = Heatmap()
    heat.show(payload())
    assert repr(heat) == "Heatmap('layer', 3 x 2 cells, seq 1)"


def test_each_send_leaves_the_routing_to_the_front_end() -> None:
    heat = Heatmap()
    heat.comm._reply_subshell_id = None  # what ipykernel notes when a cell publishes on the comm
    heat.show(payload())
    assert not hasattr(heat.comm, "_reply_subshell_id")


def block(seq: int = 1, **changes: object) -> HeatBlock:
    """Rows 1 to 3 and columns 1 to 2 of the picture's matrix, one by one."""
    fields: dict[str, object] = {"rows": (1, 4), "cols": (1, 3), "row_span": 1, "col_span": 1, "turn": 4}
    values = struct.pack("<6f", *(0.5 + k for k in range(6)))
    return HeatBlock(**({"values": values, "seq": seq} | fields | changes))


def zoom(heat: Heatmap, **changes: object) -> None:
    heat._handle_custom_msg({"type": "zoom", "rows": [1, 4], "cols": [1, 3], "seq": 1, "turn": 4} | changes, [])


def test_a_zoom_asks_for_its_part_and_a_stale_one_does_not(wire) -> None:
    seen: list[str] = []
    heat = Heatmap(on_error=lambda error, _where: seen.append(str(error)))
    asked: list[ZoomRequest] = []
    heat.on_zoom(asked.append)
    heat.show(payload())
    zoom(heat)
    zoom(heat, seq=0)
    assert asked == [ZoomRequest((1, 4), (1, 3), 4)]
    zoom(heat, rows=[1, "x"])
    assert seen == ["rows=[1, 'x']. Allowed: two whole numbers."] and len(asked) == 1


def test_a_block_is_one_message_with_its_values_and_is_read_exactly(wire) -> None:
    heat = Heatmap()
    heat.show(payload())
    wire.clear()
    assert heat.show_block(block())
    ((message, buffers),) = wire.messages
    assert message["content"]["rows"] == (1, 4) and [len(buffer) for buffer in buffers] == [24]
    heat.selected = (2, 2)
    assert heat.cell == HeatCell(2, 3, 2, 3, 3.5, 1)
    heat.selected = (4, 0)
    assert heat.cell == payload().cell(4, 0), "outside of it, the picture's cell"
    assert block(row_span=2, rows=(0, 4), col_span=2, cols=(0, 3)).cell(3, 2) == HeatCell(2, 4, 2, 3, 3.5, 1)


def test_a_block_of_another_picture_is_not_shown(wire) -> None:
    heat = Heatmap()
    assert not heat.show_block(block())
    heat.show(payload(seq=2))
    assert not heat.show_block(block(seq=1))
    assert heat.show_block(block(seq=2))
    heat.show(payload(seq=3))
    heat.selected = (2, 2)
    assert heat.cell == payload(seq=3).cell(2, 2)
