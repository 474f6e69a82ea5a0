"""The coverage in words: what stays dense, grouped, and a table that needs no script."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest

import workbench as wb
from tests.tiny_models import make
from workbench.coverage.words import DenseGroup, alike_rows, coverage_html, left_dense, left_dense_text
from workbench.records.layers import CoverageRow


def row(name: str, kind: str, decision: str = "dense", reason: str = "", size: int = 100) -> CoverageRow:
    return CoverageRow(name, kind, (4, 8), 32, decision, reason, size, size, 16.0)


ROWS = [
    row("embed", "embedding", reason="embedding: not a linear layer", size=900),
    *(row(f"layers.{i}.norm", "norm", reason="norm: not a linear layer", size=10) for i in range(12)),
    *(row(f"layers.{i}.q", "linear", "int4", "default: g64") for i in range(12)),
    *(row(f"layers.{i}.o", "linear", reason="left out by pattern 'o'") for i in range(2)),
    row("odd", "Odd", reason="Odd: not a linear layer"),
    row("head", "output_head", reason="output head: left dense unless named in a rule"),
]


def test_kinds_come_first_by_size_then_layers_with_their_reasons() -> None:
    assert left_dense_text(left_dense(ROWS)) == (
        "1 embedding, 12 norms, 1 Odd weight; 2 linear layers because left out by pattern 'o'; "
        "1 output head because left dense unless named in a rule"
    )
    assert left_dense(ROWS)[1] == DenseGroup("norm", "", 12, 120)
    assert left_dense_text(left_dense(ROWS[13:15])) == ""


def test_rows_are_alike_when_only_an_index_differs() -> None:
    alike = alike_rows([*ROWS, row("layers.13.o", "linear", reason="another")])
    assert [(each[0].name, len(each)) for each in alike] == [
        ("embed", 1),
        ("layers.0.norm", 12),
        ("layers.0.q", 12),
        ("layers.0.o", 2),
        ("odd", 1),
        ("head", 1),
        ("layers.13.o", 1),
    ]
    names = ["conv1.0", "conv2.0", "0.conv1", "a.1x", "a.2x"]
    assert [len(each) for each in alike_rows([row(name, "linear") for name in names])] == [1, 1, 1, 1, 1]


class Reader(HTMLParser):
    """Collects tags, text and attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.words: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert all(not name.startswith("on") for name, _ in attrs)
        self.tags.append(tag)
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def read(html: str) -> Reader:
    reader = Reader()
    reader.feed(html)
    reader.close()
    assert reader.open == []
    return reader


def test_the_table_is_plain_html_and_escapes_what_it_shows() -> None:
    evil = "<script>alert('x')</script>"
    rows = [*ROWS, row(evil, evil, reason=f'"{evil}"')]
    reader = read(coverage_html(evil, rows, [evil, "a note"], lambda count: f"{count:.0f} B"))
    assert set(reader.tags) <= {"div", "b", "table", "thead", "tbody", "tr", "th", "td", "code"}
    assert reader.words.count(evil) == 4
    assert any(text.startswith("Left dense: 1 embedding") for text in reader.words)
    assert reader.tags.count("tr") == 1 + len(alike_rows(rows))


@pytest.mark.parametrize("name", ["llama_odd", "gpt2", "mixtral", "t5"])
def test_a_notebook_shows_every_weight_of_a_model(name: str) -> None:
    coverage = wb.preflight(make(name), wb.Int4WeightOnlyConfig(group_size=32))
    text = read(coverage._repr_html_()).words
    assert text[0] == coverage.model and text[1] == coverage.verdict()
    assert set(coverage.notes) <= set(text)
    shown = sum(len(alike) for alike in alike_rows(coverage.rows))
    assert shown == len(coverage.rows)
    assert all(row.reason in text for row in coverage.rows)


def test_the_table_of_a_large_model_stays_small() -> None:
    rows = [row(f"model.layers.{i}.mlp.w{j}", "linear", "int4", "default") for i in range(400) for j in range(4)]
    assert len(coverage_html("large", rows, [], str)) < 6000
