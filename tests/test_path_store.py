"""The user's table of paths: what was stored is read again; one for another machine is ignored and said."""

import json
import math

import pytest

import workbench.choice as choice
from workbench.path_store import load_table, store_table, table_file
from workbench.paths import MeasuredPath, PathTable

MACHINE = {"device": "a processor", "torch": "2.13"}
POINT = MeasuredPath("bfloat16", 4096, 4096, 64, 1, "fused", 1.5)
TABLE = PathTable("cpu/dequantize", MACHINE, (POINT,))


@pytest.fixture(autouse=True)
def cache(own_tables):
    return own_tables


def test_a_stored_table_is_read_again(cache):
    assert store_table(TABLE, "cpu") == table_file("cpu") == cache / "paths-cpu.json"
    read = load_table("cpu/dequantize", MACHINE, "cpu")
    assert read.points == TABLE.points
    assert "measured on this machine" in read.note
    assert [path.name for path in cache.iterdir()] == ["paths-cpu.json"]


def test_without_a_file_the_defaults_hold_in_silence():
    read = load_table("cpu/amx", MACHINE, "cpu")
    assert read.points == ()
    assert read.note.startswith("built-in defaults")


@pytest.mark.parametrize(
    ("kind", "machine", "said"),
    [
        ("cpu/dequantize", {**MACHINE, "torch": "2.14"}, "torch '2.13', here '2.14'"),
        ("cpu/dequantize", {**MACHINE, "device": "another"}, "device 'a processor', here 'another'"),
        ("cpu/dequantize", {**MACHINE, "cores": "2"}, "cores None, here '2'"),
        ("cpu/amx", MACHINE, "measured for cpu/dequantize"),
    ],
)
def test_a_stale_or_foreign_table_is_ignored_and_said(kind, machine, said):
    store_table(TABLE, "cpu")
    with pytest.warns(UserWarning, match="the measured table is ignored"):
        read = load_table(kind, machine, "cpu")
    assert read.points == ()
    assert said in read.note
    assert "wb.tune() measures again" in read.note


GOOD = PathTable("cpu/amx", MACHINE, (POINT,)).to_json()


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", "null", '"text"', "[" * 100_000),
        json.dumps({**GOOD, "format": 2}),
        json.dumps({**GOOD, "kind": "abacus"}),
        json.dumps({**GOOD, "machine": []}),
        json.dumps({**GOOD, "points": [{"batch": 1}]}),
        json.dumps({**GOOD, "points": [{**GOOD["points"][0], "path": "guess"}]}),
        json.dumps({**GOOD, "points": [{**GOOD["points"][0], "time_ms": 0}]}),
        json.dumps({**GOOD, "points": [{**GOOD["points"][0], "time_ms": "1"}]}),
        json.dumps({**GOOD, "points": [{**GOOD["points"][0], "n": 0}]}),
        json.dumps({**GOOD, "points": [{**GOOD["points"][0], "time_ms": math.nan}]}),
    ],
)
def test_a_damaged_table_is_ignored_and_said(cache, text):
    cache.mkdir()
    table_file("cpu").write_text(text)
    with pytest.warns(UserWarning, match="it is damaged"):
        assert load_table("cpu/amx", MACHINE, "cpu").points == ()


def test_a_file_that_is_no_text_is_ignored_and_said(cache):
    cache.mkdir()
    table_file("cpu").write_bytes(b"\xff\xfe\x00")
    with pytest.warns(UserWarning, match="cannot be read"):
        assert load_table("cpu/amx", MACHINE, "cpu").points == ()


def test_the_process_uses_what_was_stored_after_forgetting():
    kind, machine = choice.table_kind("cpu"), choice.table_machine("cpu")
    assert choice.current_table("cpu").points == ()
    store_table(PathTable(kind, machine, (POINT,)), "cpu")
    assert choice.current_table("cpu").points == ()
    choice.forget_tables()
    assert choice.current_table("cpu").points == (POINT,)
    assert "measured on this machine" in choice.path_note("cpu")
