"""The coverage as text and as JSON."""

from __future__ import annotations

import json

import workbench as wb
from tests.tiny_models import make

G32 = wb.Int4WeightOnlyConfig(group_size=32)


def test_text_and_json_say_every_row():
    coverage = wb.preflight(make("qwen2"), G32)
    text, data = str(coverage), json.loads(json.dumps(coverage.to_json()))
    assert all(row.name in text and row.reason in text for row in coverage.rows)
    assert text.endswith(coverage.verdict())
    assert len(data["rows"]) == len(coverage.rows)
    assert (data["before_bytes"], data["after_bytes"]) == (coverage.before_bytes, coverage.after_bytes)
