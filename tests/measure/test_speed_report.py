"""What is made of the points of a benchmark: ratios, the crossover, a table, JSON and CSV."""

from __future__ import annotations

import csv
import io
import json

import pytest
import torch

from workbench.errors import WorkbenchError
from workbench.measure.roofline import Roofline
from workbench.measure.speed_report import SpeedReport, crossover, doubts, speedups, verdict
from workbench.measure.timing import environment
from workbench.records.speed import SpeedPoint

ROOF = Roofline("cpu", 20.0, {"bfloat16": 1000.0})


def point(path, batch, time_ms, **other):
    sizes = {"n": 8, "k": 32, "group_size": 32, "runs": 5, "gb_per_s": 1.0, "gflop_per_s": 2.5}
    where = {"device": "cpu", "device_name": 'a, "quoted" name', "dtype": "bfloat16"}
    times = {"time_ms": time_ms, "p10_ms": time_ms, "p90_ms": time_ms}
    return SpeedPoint(**{"path": path, "batch": batch, **sizes, **where, **times, **other})


@pytest.mark.parametrize(
    ("ratios", "expected"),
    [
        ({}, None),
        ({1: 3.0}, None),
        ({1: 0.5}, 1.0),
        ({4: 0.9, 16: 0.5}, 4.0),
        ({1: 3.0, 4: 2.0, 16: 1.0}, None),
        ({1: 2.0, 16: 0.0}, 4.0),  # half way from 2 to 0, on a log scale from 1 to 16
        ({16: 0.0, 1: 2.0}, 4.0),  # the order of the measurements does not matter
        ({1: 3.0, 16: 1.5, 64: 0.5, 256: 0.2}, 32.0),
        ({4: 1.0, 8: 0.5}, 4.0),
        ({1: 2.0, 4: 0.5, 16: 1.5, 64: 0.5}, 4 ** (1 / 1.5)),  # the first fall counts
    ],
)
def test_the_crossover_is_where_the_ratio_falls_through_one(ratios, expected):
    assert crossover(ratios) == (None if expected is None else pytest.approx(expected))


def test_speedups_are_dense_over_int4_where_both_were_measured():
    points = [
        point("int4", 1, 2.0),
        point("dense", 1, 6.0),
        point("int4", 4, 4.0),
        point("dense", 16, 1.0),
        point("int4", 1, 5.0, dtype="float32"),
        point("dense", 1, 5.0, dtype="float32"),
        point("op", 1, 1.0),
    ]
    assert speedups(points) == {1: 3.0}
    assert speedups(points, "float32") == {1: 1.0}
    assert speedups(points, device="cuda") == {} == speedups([])
    assert speedups(
        [*points, point("int4", 1, 1.0, device="cuda"), point("dense", 1, 9.0, device="cuda")], device="cpu"
    ) == {1: 3.0}


def test_the_base_is_dense_in_its_eager_form_and_each_path_and_form_can_be_compared_with_it():
    points = [
        point("int4", 1, 2.0),
        point("int4", 1, 1.5, form="compiled"),
        point("op", 1, 4.0),
        point("dense", 1, 6.0),
        point("dense", 1, 3.0, form="compiled"),
    ]
    assert speedups(points) == {1: 3.0}
    assert speedups(points, path="op") == {1: 1.5}
    assert speedups(points, form="compiled") == {1: 4.0}
    assert speedups(points, path="dense", form="compiled") == {1: 2.0}
    assert speedups(points, path="fused") == {}


@pytest.mark.parametrize(
    ("ratios", "expected"),
    [
        (
            {1: 2.0, 8: 1.0},
            "int4 is 2.00x dense at batch 1, and at least as fast at every batch size measured (up to 8)",
        ),
        ({4: 0.9, 16: 0.5}, "int4 is 0.90x dense at batch 4: dense is faster from there"),
        ({1: 0.5, 8: 2.0}, "int4 is 0.50x dense at batch 1: dense is faster from there, but not at 8"),
        (
            {1: 2.0, 16: 0.0, 64: 1.5, 99: 1.0},
            "int4 is 2.00x dense at batch 1; dense is faster from a batch of about 4, but not at 64, 99 (1.00x at 99)",
        ),
        ({1: 2.0, 16: 0.0}, "int4 is 2.00x dense at batch 1; dense is faster from a batch of about 4 (0.00x at 16)"),
    ],
)
def test_the_verdict_says_where_int4_is_faster(ratios, expected):
    assert verdict(ratios) == expected


def test_a_report_says_its_speedups_and_crossover():
    points = (point("int4", 1, 1.0), point("dense", 1, 2.0), point("int4", 16, 2.0), point("dense", 16, 1.0))
    report = SpeedReport(points, environment())
    assert report.speedups() == {1: 2.0, 16: 0.5}
    assert report.crossover() == pytest.approx(16 ** (1 / 1.5))
    assert report.crossover("float32") is None


@pytest.mark.parametrize("roofline", [None, ROOF])
def test_reports_go_to_json_and_back(roofline):
    points = (point("int4", 1, 0.123456789, chosen_path="op", roofline_share=0.25), point("dense", 64, 2.0))
    report = SpeedReport(points, environment(), roofline, ("a note",))
    data = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert data["environment"]["torch_version"] == torch.__version__
    assert SpeedReport.from_json(data) == report


@pytest.mark.parametrize(
    "data",
    [None, [], {}, {"points": [], "environment": {}, "roofline": None, "notes": []}, {"points": [{"path": "int4"}]}],
)
def test_what_is_no_report_is_refused(data):
    with pytest.raises(WorkbenchError, match="SpeedReport"):
        SpeedReport.from_json(data)


def test_csv_has_a_line_for_each_point_and_every_field():
    points = (point("int4", 1, 0.123456789, chosen_path="op", roofline_share=0.25), point("dense", 64, 2.0))
    rows = list(csv.DictReader(io.StringIO(SpeedReport(points, environment()).to_csv())))
    assert rows == [
        {key: "" if value is None else str(value) for key, value in one.to_json().items()} for one in points
    ]
    assert rows[0]["form"] == "eager" and rows[0]["roofline_share"] == "0.25" and rows[1]["roofline_share"] == ""
    assert SpeedReport((), environment()).to_csv() == ""


def test_a_report_prints_a_table_for_each_dtype_with_the_chosen_path_and_the_crossover():
    points = []
    for dtype in ("bfloat16", "float32"):
        points += [point("int4", 1, 0.5, dtype=dtype, chosen_path="op", roofline_share=0.254)]
        points += [point("op", 1, 0.4, dtype=dtype), point("dense", 1, 1.0, dtype=dtype)]
        points += [point("int4", 16, 2.0, dtype=dtype, chosen_path="fused"), point("dense", 16, 1.0, dtype=dtype)]
    lines = str(SpeedReport(tuple(points), environment(), ROOF, ("a note",))).splitlines()
    assert torch.__version__ in lines[0] and lines[1] == "8 x 32, group size 32, on cpu; times in ms"
    assert lines[2] == "roofline: 20 GB/s, bfloat16 1000 GFLOP/s"
    first = lines.index("bfloat16")
    names = ["batch", "int4", "op", "dense", "chose", "speedup", "of", "roof"]
    assert lines[first + 1].split() == names
    assert lines[first + 2].split() == ["1", "0.5", "0.4", "1", "op", "2.00x", "25%"]
    assert lines[first + 3].split() == ["16", "2", "-", "1", "fused", "0.50x", "-"]
    assert "dense is faster from a batch of about 6" in lines[first + 4]
    assert "float32" in lines and lines[-1] == "note: a note"
    widths = {len(line) for line in lines[first + 1 : first + 4]}
    assert len(widths) == 1, "columns stand under their names"


def test_a_table_without_our_layer_or_without_dense_says_what_there_is():
    alone = str(SpeedReport((point("op", 1, 0.4),), environment()))
    assert "chose" not in alone and "0.4" in alone and "x dense" not in alone
    without = str(SpeedReport((point("int4", 1, 0.4, chosen_path="op"),), environment()))
    assert without.splitlines()[-1].split() == ["1", "0.4", "op", "-", "-"]


@pytest.mark.parametrize(
    ("points", "said"),
    [
        ([], ""),
        ([point("int4", 1, 1.0, p90_ms=2.0)] * 10, ""),
        ([point("int4", 1, 1.0, p90_ms=2.1), *[point("int4", 1, 1.0)] * 9], ""),  # one of ten may
        ([point("int4", 1, 1.0, p90_ms=2.1)] * 2 + [point("int4", 1, 1.0)] * 8, "2 of 10 times spread by more than"),
        ([point("int4", 1, 1.0, roofline_share=1.05), point("dense", 1, 1.0)], ""),
        ([point("int4", 1, 1.0, roofline_share=1.2), point("dense", 1, 1.0)], "1 of 2 times beat the roofline:"),
        ([point("int4", 1, 1.0, p90_ms=9.0, roofline_share=2.0)], "(p10 to p90) and 1 of 1 times beat the roofline"),
    ],
)
def test_what_gives_reason_to_measure_again_is_said(points, said):
    found = doubts(points)
    assert len(found) == bool(said) and said in "".join(found)
