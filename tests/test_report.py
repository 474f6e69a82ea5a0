"""The report: well-formed, self-contained, escaped, and its numbers those of the session."""

from __future__ import annotations

import errno
import itertools
import json
import os
import re
import struct
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
import zlib
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch

from tests.improve.test_improve import Toy, toy
from workbench.errors import ConfigError
from workbench.measure.decode import DecodeSpeed
from workbench.measure.paired import Comparison, WindowPair
from workbench.recipe.recipe import Recipe
from workbench.records.errors import ErrorMap
from workbench.records.speed import SpeedPoint
from workbench.report.heat_png import gradient, heat_uri, palette, png_bytes
from workbench.report.layers_svg import layers_svg
from workbench.report.page import report_html
from workbench.report.speed_svg import speed_svg
from workbench.report.svg import MARKS, SERIES, Axis
from workbench.report.write import check_target, write_whole
from workbench.session import open_session
from workbench.sizes import size

VOID = {"meta", "img", "br", "hr", "input", "link"}
HOSTILE = '<script>alert("x")</script>&\'"'


class Page(HTMLParser):
    """A page as a tree would see it: every tag closed in order; text and attributes by tag."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.texts, self.attributes = [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, key, value) for key, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, key, value) for key, value in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append((self.open[-1] if self.open else "", data))

    def said(self, tag):
        return [text for of, text in self.texts if of == tag and text.strip()]


@pytest.fixture(scope="module")
def session():
    session = open_session(toy())
    session.sweep_errors()
    assert session.wait(60)
    return session


def points():
    """Two paths and dense at three batch sizes."""
    made = []
    for path, times in (("int4", (1.0, 2.0, 8.0)), ("op", (2.0, 2.0, 4.0)), ("dense", (3.0, 4.0, 4.0))):
        for batch, ms in zip((1, 16, 256), times, strict=True):
            one = SpeedPoint("cpu", "a CPU", path, "bfloat16", 64, 32, 64, batch, ms, ms, ms, 9, 1.0, 1.0)
            made.append(replace(one, roofline_share=0.25, chosen_path="op") if path == "int4" else one)
    return made


def full(session):
    """Everything that a report can show."""
    window = WindowPair(100, 300.0, 310.0, 2.0, 90)
    return replace(
        session.reporting.contents(),
        decode=DecodeSpeed("cpu", "a CPU", "bfloat16", 64, 32, 64, 1.0, 2.0, 9),
        speed=points(),
        speed_notes=["a note on speed"],
        quality=Comparison((window, replace(window, nats=312.0))),
        quality_text="a text",
    )


def test_the_page_is_whole_and_asks_no_network(session):
    text = report_html(full(session))
    page = Page(text)
    assert text.startswith("<!DOCTYPE html>") and "default-src 'none'" in text
    assert not {"link", "iframe", "object", "embed", "base"} & set(page.tags)
    assert not re.search(r"https?://|@import|url\(", text)
    assert page.tags.count("script") == page.tags.count("style") == 1
    for _, key, value in page.attributes:
        assert key not in ("href", "srcset", "action") and not key.startswith("on")
        assert key != "src" or value.startswith("data:image/png;base64,")
    assert len(text) < 1_000_000


def test_its_numbers_are_those_of_the_session(session):
    contents = full(session)
    page = Page(report_html(contents))
    coverage = session.coverage
    assert contents.verdict in page.said("p")
    assert f"{size(coverage.before_bytes)} → {size(coverage.after_bytes)}" in page.said("dd")
    codes = page.said("code")
    assert {row.name for row in coverage.rows} <= set(codes)
    recipe = next(code for code in codes if '"format_version"' in code)
    assert Recipe.from_json(json.loads(recipe)) == session.recipe
    assert contents.python in codes
    errors = [value for tag, key, value in page.attributes if (tag, key) == ("td", "data-sort")]
    for view in session.errors.values():
        assert str(view.summary.relative_rmse) in errors
    assert "A 64×32 layer, group size 64, bfloat16, on a CPU." in page.said("p")
    assert "9.00%" not in page.said("td") and f"{contents.quality.mean_kl.value:.5f}" in page.said("td")


def test_what_was_not_measured_is_left_out(session):
    headings = Page(report_html(session.reporting.contents())).said("h2")
    assert headings == ["Error by layer", "Where the error is", "Every weight", "Recipe", "Made with"]
    nothing = replace(session.reporting.contents(), errors={})
    assert Page(report_html(nothing)).said("h2") == ["Every weight", "Recipe", "Made with"]
    headings = Page(report_html(full(session))).said("h2")
    assert "Speed on this machine: cpu, bfloat16" in headings and "Quality" in headings


def test_every_name_is_escaped():
    source = Toy(**{f"layers.0.{HOSTILE}": torch.randn(8, 64)})
    source.name = HOSTILE
    session = open_session(source)
    session.refresh()
    assert session.wait(30)
    text = report_html(replace(session.reporting.contents(), made=HOSTILE, quality_text=HOSTILE))
    page = Page(text)
    assert page.tags.count("script") == 1 and "<script>alert" not in text
    assert f"layers.0.{HOSTILE}" in page.said("code") and f"Int4 report: {HOSTILE}" in page.said("h1")


def elements(svg, tag):
    tree = ElementTree.fromstring(svg)
    return [one for one in tree.iter() if one.tag == tag]


def test_a_layer_is_a_point_and_higher_is_worse():
    errors = [(f"layers.{i}.{leaf}", 0.02 * (i + 1)) for i in range(3) for leaf in ("up", "down")]
    svg = layers_svg(errors)
    titles = [one.text for one in elements(svg, "title")]
    assert [f"{name}: {error:.2%}" for name, error in errors] == titles[2:]
    assert titles[:2] == ["up", "down"]
    ups = [float(one.get("cy")) for one in elements(svg, "circle")][1:]
    assert ups == sorted(ups, reverse=True)


def test_many_kinds_of_layers_keep_to_the_colours():
    errors = [(f"layers.{i}.kind{k}", 0.1) for k in range(12) for i in range(12 - k)]
    titles = [one.text for one in elements(layers_svg(errors), "title")]
    assert titles[:SERIES] == [*(f"kind{k}" for k in range(SERIES - 1)), "others"]
    assert len(MARKS) == SERIES


@pytest.mark.parametrize("errors", [[], [("a", 0.0)], [("a", float("inf"))]])
def test_no_error_to_show_is_said(errors):
    assert "No layer has an error to show." in layers_svg(errors)


def test_speed_shows_each_path_against_dense():
    svg = speed_svg(points())
    titles = [one.text for one in elements(svg, "title")]
    assert titles[:2] == ["int4", "op"]
    assert "int4, batch 1: 3.00× dense" in titles and "int4, batch 256: 0.50× dense" in titles
    assert len([one for one in elements(svg, "polyline") if one.get("class") == "series"]) == 2
    assert "roofline" in svg and "roofline" not in speed_svg([replace(p, roofline_share=None) for p in points()])
    assert "nothing to compare" in speed_svg([p for p in points() if p.path != "dense"])


@pytest.mark.parametrize(
    ("axis", "ticks"),
    [
        (Axis(0, 10, 0, 1), [0, 2, 4, 6, 8, 10]),
        (Axis(0.3, 1.1, 0, 1), [0.4, 0.6, 0.8, 1.0]),
        (Axis(0.5, 60, 0, 1, log=True), [0.5, 1, 2, 5, 10, 20, 50]),
        (Axis(1e-4, 1, 0, 1, log=True), [1e-4, 1e-3, 1e-2, 1e-1, 1]),
        (Axis(0.08, 0.1, 0, 1, log=True), [0.08, 0.085, 0.09, 0.095, 0.1]),
        (Axis(3, 3, 0, 1), [3]),
    ],
)
def test_ticks_are_round_and_within(axis, ticks):
    assert axis.ticks() == pytest.approx(ticks)


def test_an_axis_puts_its_ends_at_its_ends():
    for log in (False, True):
        axis = Axis(2, 8, 100, 0, log=log)
        assert (axis.at(2), axis.at(8)) == (100, 0)
    assert Axis(2, 8, 0, 2, log=True).at(4) == pytest.approx(1)
    assert Axis(5, 5, 0, 10).at(5) == 5


def decoded(png):
    """Return width, height, palette and rows of an indexed PNG of 8 bits without filters."""
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    at, chunks = 8, {}
    while at < len(png):
        length, kind = struct.unpack(">I4s", png[at : at + 8])
        data = png[at + 8 : at + 8 + length]
        assert struct.unpack(">I", png[at + 8 + length : at + 12 + length])[0] == zlib.crc32(kind + data)
        chunks[kind], at = data, at + 12 + length
    width, height, *rest = struct.unpack(">IIBBBBB", chunks[b"IHDR"])
    assert rest == [8, 3, 0, 0, 0] and list(chunks)[-1] == b"IEND"
    raw = zlib.decompress(chunks[b"IDAT"])
    rows = [raw[(width + 1) * y : (width + 1) * (y + 1)] for y in range(height)]
    assert all(row[0] == 0 for row in rows)
    return width, height, chunks[b"PLTE"], b"".join(row[1:] for row in rows)


def picture(**changes):
    codes = bytes(range(6)) + bytes([250, 255, 0, 1, 2, 3])
    fields = {"row_span": 1, "col_span": 1, "total_rows": 3, "total_cols": 4, "reduce": "none", "metric": "rmse"}
    return ErrorMap(codes, 3, 4, **{"lo": 0.1, "hi": 1.0, "unit": "error", "log": True, **fields, **changes})


def test_a_heatmap_is_a_png_of_its_codes():
    width, height, colors, codes = decoded(png_bytes(picture(), palette()))
    assert (width, height, codes) == (4, 3, picture().values)
    assert colors == palette() and len(colors) == 768
    assert heat_uri(picture()).startswith("data:image/png;base64,iVBOR")
    assert heat_uri(picture()) != heat_uri(picture(lo=-1.0, log=False))


@pytest.mark.parametrize("signed", [False, True])
def test_the_palette_is_the_gradient_beside_it(signed):
    colors, stops = palette(signed=signed), re.findall("#([0-9a-f]{6})", gradient(signed=signed))
    assert colors[:3].hex() == stops[0] and colors[-3:].hex() == stops[-1]
    if not signed:  # light goes one way, for those who see no colours
        red, green, blue = (colors[start::3] for start in range(3))
        light = [0.2126 * r + 0.7152 * g + 0.0722 * b for r, g, b in zip(red, green, blue, strict=True)]
        assert all(one <= other + 0.5 for one, other in itertools.pairwise(light))


def test_a_report_is_written_in_one_step(tmp_path):
    path = tmp_path / "report.html"
    path.write_text("old")
    write_whole(path, "new")
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.ENOSPC, r"was not written: the disk is full \(3 B are needed\)\..*free some disk space"),
        (errno.EACCES, r"was not written: Permission denied\..*choose a folder that you may write to"),
    ],
)
def test_what_cannot_be_written_is_said_and_leaves_what_was_there(number, said, tmp_path, monkeypatch):
    path = tmp_path / "report.html"
    path.write_text("old")

    def fails(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("os.fsync", fails)
    with pytest.raises(ConfigError, match=said):
        write_whole(path, "new")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
    for wrong in (tmp_path, tmp_path / "no" / "such.html", ""):
        with pytest.raises(ConfigError, match="a file in a folder that exists"):
            check_target(wrong)


def test_the_date_is_today(session):
    assert session.reporting.contents().made.startswith(time.strftime("%Y-"))


def test_nothing_of_plotly_is_needed():
    code = (
        "import sys, workbench.session.report; print([n for n in ('plotly', 'ipywidgets', 'PIL') if n in sys.modules])"
    )
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=False)
    assert done.stdout.strip() == "[]", done.stderr
