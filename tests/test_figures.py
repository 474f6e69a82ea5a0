"""Figures: what is drawn is what the records say, in both themes, with the components' own colours."""

import json
import math
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import workbench
from workbench.affine import QuantizedWeight
from workbench.config import Int4WeightOnlyConfig
from workbench.coverage.coverage import Coverage
from workbench.errors import ConfigError
from workbench.figures import (
    CONFIG,
    convergence_figure,
    coverage_figure,
    error_map_figure,
    histogram_figure,
    latency_figure,
    map_values,
    microscope_figure,
    quality_figure,
    speedup_figure,
)
from workbench.figures.style import THEMES
from workbench.measure.error_map import METRICS, error_map
from workbench.measure.errors import histogram
from workbench.measure.group_errors import group_errors
from workbench.measure.microscope import microscope
from workbench.records.errors import ErrorTrace, Histogram
from workbench.records.layers import CoverageRow
from workbench.records.quality import Quality
from workbench.records.speed import SpeedPoint
from workbench.solvers import solve

STYLE_SHEET = Path(workbench.__file__).parent / "widgets" / "theme.css"


def point(path, batch, ms, **changes):
    base = SpeedPoint("cpu", "CPU of a test", path, "bfloat16", 96, 64, 32, batch, ms, 0.9 * ms, 1.2 * ms, 7, 1.0, 2.0)
    return replace(base, **changes)


def pair(batch, int4_ms, dense_ms, **changes):
    return [point("int4", batch, int4_ms, **changes), point("dense", batch, dense_ms, **changes)]


def weight_and_codes(n=40, k=320, group_size=64):
    torch.manual_seed(5)
    weight = torch.randn(n, k)
    return weight, solve(weight, Int4WeightOnlyConfig(group_size=group_size).resolved("cpu")).weight


def rows(*kinds):
    return tuple(CoverageRow(f"l{i}", kind, (4, 4), 16, *rest) for i, (kind, *rest) in enumerate(kinds))


COVERAGE = Coverage(
    "toy",
    rows(
        ("linear", "int4", "default", 1000, 300, 5.0),
        ("linear", "dense", "pattern", 500, 500, 16.0),
        ("norm", "dense", "norm", 40, 40, 16.0),
        ("output_head", "dense", "tied", 0, 0, 0.0),
    ),
    {},
    (),
)
TRACE = ErrorTrace("mean |error|", (0.5, 0.4, 0.375), 10, 6)
SQUARED = ErrorTrace("mean squared error", (8e-5, 6e-5), 10, 9)
QUALITIES = {
    "rtn": Quality(28.0, 3.33, 510, 2, 256, 0, 27.0, 0.04, (0.03, 0.05), 0.9),
    "hqq": Quality(27.5, 3.31, 510, 2, 256, 0, 27.0, 0.02, None, 0.95),
}


def every_figure(theme):
    weight, quantized = weight_and_codes()
    return [
        speedup_figure([*pair(1, 1.0, 2.0), *pair(4, 2.0, 1.0)], theme=theme),
        latency_figure(pair(1, 1.0, 2.0), theme=theme),
        speedup_figure(every_path(), theme=theme),
        latency_figure(every_path(), theme=theme),
        *(error_map_figure(error_map(weight, quantized, metric=metric), theme=theme) for metric in METRICS),
        histogram_figure(histogram(weight, quantized), theme=theme),
        convergence_figure(TRACE, theme=theme),
        convergence_figure({"hqq": TRACE, "refined": SQUARED}, theme=theme),
        coverage_figure(COVERAGE, theme=theme),
        microscope_figure(group_under_the_microscope(), theme=theme),
        quality_figure(QUALITIES, theme=theme),
        quality_figure({}, theme=theme),
    ]


def lines(figure):
    return [trace for trace in figure.data if trace.showlegend is not False and trace.type == "scatter"]


def bands(figure):
    return [trace for trace in figure.data if trace.fill == "toself"]


# --- themes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_figure_is_in_its_theme_plain_json_and_the_same_each_time(theme):
    first, again = every_figure(theme), every_figure(theme)
    for figure, other in zip(first, again, strict=True):
        assert figure.layout.template.layout.paper_bgcolor == THEMES[theme].surface
        assert figure.to_json() == other.to_json()
        text = json.dumps(json.loads(figure.to_json()), allow_nan=False)
        assert "NaN" not in text and "Infinity" not in text
        assert figure.layout.title.text and figure.layout.title.subtitle.text


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_colours_are_those_of_the_components(theme):
    text = STYLE_SHEET.read_text(encoding="utf-8")
    selector = re.escape(".wb {" if theme == "light" else '.wb[data-theme="dark"] {')
    block = re.search(selector + r"([^}]*)}", text)[1]
    tokens = dict(re.findall(r"(--wb-[\w-]+):\s*([^;]+);", block))
    last_colour = {name: re.findall(r"#[0-9a-f]{6}", value)[-1:] for name, value in tokens.items()}
    style = THEMES[theme]
    assert [last_colour[f"--wb-c{i}"] for i in range(6)] == [[color] for color in style.series]
    for name in ("surface", "line", "line_strong", "fg", "fg2", "fg3"):
        assert last_colour[f"--wb-{name.replace('_', '-')}"] == [getattr(style, name)], name


@pytest.mark.parametrize("draw", [speedup_figure, latency_figure])
def test_an_unknown_theme_is_refused(draw):
    with pytest.raises(ConfigError, match=r"theme='sepia'.*'light' or 'dark'"):
        draw([], theme="sepia")


def test_no_logo():
    assert CONFIG["displaylogo"] is False


def test_importing_the_package_and_its_session_leaves_plotly_alone():
    code = "import sys, workbench, workbench.session.session; print('plotly' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


# --- speed --------------------------------------------------------------------------------------------------------


def test_speedup_is_dense_over_int4_with_its_band():
    figure = speedup_figure([*pair(4, 2.0, 1.0), *pair(1, 1.0, 3.0), point("int4", 16, 1.0)])
    (line,) = lines(figure)
    assert list(line.x) == [1, 4]
    assert list(line.y) == [3.0, 0.5]
    (band,) = bands(figure)
    assert list(band.x) == [1, 4, 4, 1]
    assert list(band.y) == pytest.approx([3 * 1.2 / 0.9, 0.5 * 1.2 / 0.9, 0.5 * 0.9 / 1.2, 3 * 0.9 / 1.2])
    assert "int4 1 ms, dense 3 ms" in line.customdata[0] and "7 and 7 runs" in line.customdata[0]
    assert figure.layout.xaxis.type == "log"
    assert list(figure.layout.xaxis.tickvals) == [1, 4]
    assert figure.layout.xaxis.range[0] < 0 < math.log10(4) < figure.layout.xaxis.range[1]
    assert [(shape.y0, shape.y1) for shape in figure.layout.shapes if shape.xref != "x"] == [(1, 1)]
    assert "CPU of a test (cpu)" in figure.layout.title.subtitle.text
    assert "96 × 64, group size 32, bfloat16" in figure.layout.title.subtitle.text


def test_latency_draws_each_path_with_its_percentiles():
    figure = latency_figure([*pair(1, 1.0, 3.0), *pair(4, 2.0, 3.5)])
    found = {line.name: line for line in lines(figure)}
    assert set(found) == {"int4", "dense"}
    assert list(found["int4"].y) == [1.0, 2.0]
    assert list(found["dense"].y) == [3.0, 3.5]
    assert list(bands(figure)[0].y) == pytest.approx([1.2, 2.4, 1.8, 0.9])
    assert found["dense"].line.dash == "dash"
    assert figure.layout.yaxis.type == "log"
    assert "7 runs" in found["int4"].customdata[0]


def every_path():
    """Two batch sizes of all that is measured, each of which the machine could do in half a millisecond."""
    found = []
    for batch, chosen, times in ((1, "op", (1.0, 1.0, 4.0, 8.0, 3.0)), (64, "fused", (4.0, 8.0, 4.0, 6.0, 2.0))):
        names = ("int4", "op", "fused", "dequantize", "dense")
        for path, ms in zip(names, times, strict=True):
            found.append(point(path, batch, ms, chosen_path=chosen if path == "int4" else "", roofline_share=0.5 / ms))
    return [*found, point("int4", 1, 1.5, form="compiled", chosen_path="op")]


def test_every_path_is_compared_with_eager_dense_under_what_the_machine_allows():
    found = {line.name: line for line in lines(speedup_figure(every_path()))}
    assert {name: list(line.y) for name, line in found.items()} == {
        "int4": [3.0, 0.5],
        "op": [3.0, 0.25],
        "fused": [0.75, 0.5],
        "dequantize": [0.375, pytest.approx(1 / 3)],
        "int4 compiled": [2.0],
        "roofline": [6.0, 4.0],
    }
    assert "50% of the roofline" in found["int4"].customdata[0] and "path: op" in found["int4"].customdata[0]
    assert found["int4"].line.width > found["op"].line.width and found["roofline"].line.dash == "dot"
    assert (
        found["int4 compiled"].line.dash == "dashdot" and found["int4 compiled"].line.color == found["int4"].line.color
    )
    times = {line.name: list(line.y) for line in lines(latency_figure(every_path()))}
    assert times["dense"] == [3.0, 2.0] and times["roofline"] == [0.5, 0.5]


def test_the_crossover_and_the_chosen_paths_are_marked():
    figure = speedup_figure(every_path())
    (cross,) = [shape for shape in figure.layout.shapes if shape.type == "line" and shape.xref == "x"]
    assert cross.x0 == pytest.approx(64 ** (2 / 2.5))
    texts = {note.text: note for note in figure.layout.annotations}
    assert set(texts) == {"as fast as dense", "dense is faster from about 28", "op", "fused", "path"}
    assert texts["dense is faster from about 28"].x == pytest.approx(math.log10(cross.x0))
    pieces = [shape for shape in figure.layout.shapes if shape.type == "rect"]
    assert [(pytest.approx(piece.x0), pytest.approx(piece.x1)) for piece in pieces] == [(1 / 1.25, 8), (8, 64 * 1.25)]
    assert all(piece.y1 < piece.y0 < 0 for piece in pieces), "under the axis"
    assert [shape.type for shape in latency_figure(every_path()).layout.shapes] == ["rect", "rect"]


def test_neighbours_with_the_same_path_are_one_piece():
    points = [point("int4", batch, 1.0, chosen_path=path) for batch, path in ((1, "op"), (4, "op"), (16, "fused"))]
    pieces = latency_figure(points).layout.shapes
    assert [(pytest.approx(piece.x0), pytest.approx(piece.x1)) for piece in pieces] == [(1 / 1.25, 8), (8, 16 * 1.25)]
    (single,) = latency_figure(points[:1]).layout.shapes
    assert single.x0 < 1 < single.x1


def test_several_series_carry_neither_crossover_nor_ribbon():
    points = [*every_path(), *(replace(one, dtype="float32") for one in every_path())]
    figure = speedup_figure(points)
    assert [shape.type for shape in figure.layout.shapes] == ["line"]
    names = {line.name for line in lines(figure)}
    assert "int4 on cpu, bfloat16" in names and "roofline on cpu, float32" in names
    assert len({line.line.color for line in lines(figure) if line.name.startswith("op")}) == 2


def test_lines_say_what_tells_them_apart():
    points = [*pair(1, 1.0, 2.0), *pair(1, 1.0, 4.0, device="cuda", device_name="GPU"), *pair(1, 1.0, 8.0, n=128)]
    figure = speedup_figure(points)
    assert {line.name: list(line.y) for line in lines(figure)} == {
        "int4 on cpu, 96 × 64": [2.0],
        "int4 on cpu, 128 × 64": [8.0],
        "int4 on cuda, 96 × 64": [4.0],
    }
    assert len({line.line.color for line in lines(figure)}) == 3


def test_a_single_batch_has_bars_where_no_band_can_be_seen():
    (line,) = lines(speedup_figure(pair(1, 1.0, 2.0)))
    assert line.error_y.visible
    assert list(line.error_y.array) == pytest.approx([2 * 1.2 / 0.9 - 2])
    assert list(line.error_y.arrayminus) == pytest.approx([2 - 2 * 0.9 / 1.2])
    (line,) = lines(speedup_figure([*pair(1, 1.0, 2.0), *pair(2, 1.0, 2.0)]))
    assert not line.error_y.visible


@pytest.mark.parametrize("bad", [math.nan, math.inf, 0.0])
def test_times_that_cannot_be_drawn_are_left_out(bad):
    points = [*pair(1, 1.0, 2.0), point("int4", 4, bad), point("dense", 4, 1.0)]
    assert [list(line.x) for line in lines(speedup_figure(points))] == [[1]]
    assert {line.name: list(line.x) for line in lines(latency_figure(points))} == {
        "int4": [1],
        "dense": [1, 4],
    }


@pytest.mark.parametrize("draw", [speedup_figure, latency_figure])
def test_without_points_a_sentence_stands_in_for_the_chart(draw):
    figure = draw(iter(()))
    assert figure.data == ()
    assert [note.text for note in figure.layout.annotations] == ["Nothing is measured yet."]
    assert figure.layout.shapes == ()


# --- one weight ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", METRICS)
def test_a_map_holds_the_true_values(metric):
    weight, quantized = weight_and_codes()
    record = error_map(weight, quantized, metric=metric)
    if metric in ("original", "dequantized"):
        true = weight if metric == "original" else quantized.dequantize()
    else:
        true = group_errors(weight, quantized, metric)
    (heat,) = error_map_figure(record).data
    drawn = heat.customdata if record.log else heat.z
    step = math.log(record.hi / record.lo) / 255 if record.log else (record.hi - record.lo) / 255
    off = np.log(drawn / true.numpy()) if record.log else drawn - true.numpy()
    assert np.abs(off).max() <= 0.501 * step
    assert np.array_equal(drawn, map_values(record))
    if record.log:
        assert np.allclose(heat.z, np.log10(drawn), atol=1e-5)
        assert [10**tick for tick in heat.colorbar.tickvals] == pytest.approx(
            [float(text) for text in heat.colorbar.ticktext], rel=0.01
        )
        assert len(heat.colorbar.tickvals) >= 3
    assert heat.colorbar.title.text == record.unit
    assert record.unit in heat.hovertemplate


def test_a_reduced_map_stands_at_its_original_rows_and_columns():
    weight, quantized = weight_and_codes(40, 320, 64)
    record = error_map(weight, quantized, max_rows=10, max_cols=2)
    figure = error_map_figure(record, title="layer")
    (heat,) = figure.data
    assert heat.z.shape == (10, 2)
    assert (heat.y0, heat.dy, heat.x0, heat.dx) == (1.5, 4, 1, 3)
    assert figure.layout.title.text == "layer"
    assert figure.layout.title.subtitle.text == "40 output features × 5 groups, each cell the max of 4 rows × 3 groups"
    assert figure.layout.yaxis.autorange == "reversed"
    assert "4 output features around" in heat.hovertemplate


def test_signed_values_have_a_scale_even_around_zero_and_others_begin_dark():
    weight, quantized = weight_and_codes()
    signed = error_map_figure(error_map(weight, quantized, metric="original")).data[0]
    assert signed.zmin == -signed.zmax
    colors = [color for _, color in signed.colorscale]
    assert len(colors) == 33
    red, green, blue = (int(colors[16][at : at + 2], 16) for at in (1, 3, 5))
    assert max(red, green, blue) - min(red, green, blue) <= 2, "the middle has no hue"
    plain = error_map_figure(error_map(weight, quantized, metric="rmse")).data[0]
    assert plain.colorscale[0][1] == "#440154"


def test_a_map_without_any_error_can_be_drawn():
    quantized = QuantizedWeight(torch.full((4, 64), 8, dtype=torch.uint8), torch.ones(4, 1), None, 64, "symmetric")
    for metric in METRICS:
        error_map_figure(error_map(torch.zeros(4, 64), quantized, metric=metric)).to_json()


def test_histograms_count_what_the_record_counts():
    record = Histogram(4, 2.0, (1, 5, 6, 2), 0.5, (0, 7, 7, 0))
    weights, errors = histogram_figure(record).data
    assert list(weights.x) == [-1.5, -0.5, 0.5, 1.5]
    assert list(weights.y) == [1, 5, 6, 2]
    assert list(errors.x) == pytest.approx([-0.375, -0.125, 0.125, 0.375])
    assert list(errors.y) == [0, 7, 7, 0]
    assert (weights.width, errors.width) == (1.0, 0.25)
    assert tuple(weights.customdata[0]) == ("-2", "-1")
    assert "14 weights in 4 bins" in histogram_figure(record).layout.title.subtitle.text


@pytest.mark.parametrize("limit", [math.inf, math.nan])
def test_bars_at_infinity_are_left_out(limit):
    weights, errors = histogram_figure(Histogram(2, limit, (3, 3), 1.0, (3, 3))).data
    assert list(weights.x) == []
    assert list(errors.x) == [-0.5, 0.5]


def test_convergence_begins_at_round_to_nearest():
    figure = convergence_figure(TRACE)
    (line,) = figure.data
    assert list(line.x) == [0, 1, 2]
    assert list(line.y) == [0.5, 0.4, 0.375]
    assert list(line.customdata) == ["+0.00%", "-20.00%", "-25.00%"]
    assert line.marker.color[0] != line.marker.color[1] == line.marker.color[2]
    assert [shape.y0 for shape in figure.layout.shapes] == [0.5]
    assert figure.layout.title.subtitle.text == "6 of 10 groups improved; mean |error| 25.00% lower"


@pytest.mark.parametrize(
    ("objective", "axis"),
    [
        ("mean |error|", "mean |error|, weight units"),
        ("mean squared error", "mean squared error, squared weight units"),
        ("mean squared output error", "mean squared output error, squared output units"),
        ("mean |error|^1.5", "mean |error|^1.5"),
    ],
)
def test_convergence_names_its_objective_and_unit(objective, axis):
    figure = convergence_figure(ErrorTrace(objective, (2.0, 1.5), 4, 3))
    assert figure.layout.yaxis.title.text == axis
    assert figure.layout.title.subtitle.text == f"3 of 4 groups improved; {objective} 25.00% lower"


def test_several_solvers_are_drawn_as_shares_of_round_to_nearest():
    rtn = ErrorTrace("mean |error|", (0.5,), 10, 0)
    figure = convergence_figure({"rtn": rtn, "hqq": TRACE, "refined": SQUARED})
    assert [line.name for line in figure.data] == ["hqq: mean |error|", "refined: mean squared error"]
    assert [list(line.y) for line in figure.data] == [[1.0, 0.8, 0.75], [1.0, 0.75]]
    assert [list(line.x) for line in figure.data] == [[0, 1, 2], [0, 1]]
    assert [shape.y0 for shape in figure.layout.shapes] == [1.0]
    assert figure.layout.title.subtitle.text == "each in its own objective: hqq 0.750×, refined 0.750×"
    assert len({line.line.color for line in figure.data}) == 2


def test_a_comparison_of_round_to_nearest_alone_says_so_and_of_nothing_is_refused():
    figure = convergence_figure({"rtn": ErrorTrace("mean |error|", (0.5,), 10, 0)})
    assert "nothing to converge" in figure.layout.annotations[0].text
    with pytest.raises(ConfigError, match="No trace"):
        convergence_figure({})


@pytest.mark.parametrize("errors", [(math.inf, 2.0), (0.0, 0.0)])
def test_errors_that_have_no_ratio_can_be_compared(errors):
    (line,) = convergence_figure({"refined": ErrorTrace("mean squared error", errors, 3, 0)}).data
    assert list(line.y) == [1.0, 1.0]


@pytest.mark.parametrize("errors", [(0.25,), (0.0,), (0.0, 0.0)])
def test_round_to_nearest_alone_and_no_error_at_all_can_be_drawn(errors):
    figure = convergence_figure(ErrorTrace("mean |error|", errors, 3, 0))
    assert list(figure.data[0].y) == list(errors)
    assert "0.00% lower" in figure.layout.title.subtitle.text


# --- the microscope -----------------------------------------------------------------------------------------------


def group_under_the_microscope(**settings):
    config = Int4WeightOnlyConfig(group_size=32).resolved("cpu", **settings)
    torch.manual_seed(9)
    return microscope(torch.randn(2, 70), 1, 1, config, name="layer")


def test_the_microscope_shows_every_level_of_every_variant_and_every_weight():
    seen = group_under_the_microscope(solver="hqq")
    figure = microscope_figure(seen)
    weights, *traces = figure.data
    assert tuple(weights.x) == seen.weights and list(weights.customdata) == list(range(32, 64))
    assert len(traces) == 2 * len(seen.solved)
    for place, variant in enumerate(reversed(seen.solved)):
        used, unused = traces[2 * place : 2 * place + 2]
        assert {*used.y, *unused.y} == {place}, "the first variant is the topmost"
        assert sorted([*used.x, *unused.x]) == sorted(variant.levels)
        assert set(used.x) == {variant.levels[code] for code in variant.codes}
        assert sum(count for _, count in used.customdata) == 32
        assert used.marker.line.width > unused.marker.line.width
    labels = figure.layout.yaxis.ticktext
    assert [label for label in labels if label.startswith("<b>")] == ["<b>float hqq</b>"]
    assert labels[-1] == "weights" and labels[0].startswith("symmetric")
    assert figure.layout.title.text == "layer"
    assert "output feature 1, group 1 (in_features 32 to 63), 32 weights" in figure.layout.title.subtitle.text


def test_the_microscopes_numbers_stand_in_the_row_of_their_variant():
    seen = group_under_the_microscope()
    notes = microscope_figure(seen).layout.annotations
    for place, variant in enumerate(reversed(seen.solved)):
        texts = [note.text for note in notes if note.yref == "y" and note.y == place]
        assert len(texts) == 5
        assert f"{variant.rms:.3g}" in texts[0] and ("×" in texts[0]) == (variant.solver != "rtn")
        assert f"{variant.max_abs:.3g}" in texts[2]
        assert texts[3] == f"{variant.bits_per_weight:.2f}"
        assert texts[4] == ("exact" if variant.domain != "float" else f"{variant.zero_level:.2g}")
        assert texts[0].startswith("<b>") == (variant.rms == min(one.rms for one in seen.solved))
    (below,) = [note.text for note in notes if note.yref == "paper"]
    assert "calibrated: needs a text run through the model, for the layer's inputs<br>" in below
    assert "hqq · symmetric: " in below


def test_domains_have_colours_of_their_own():
    figure = microscope_figure(group_under_the_microscope())
    used = figure.data[1::2]
    colors = {trace.name.split()[0]: trace.marker.line.color for trace in used}
    assert len(set(colors.values())) == 3


def test_a_microscope_without_variants_says_so():
    figure = microscope_figure(replace(group_under_the_microscope(), variants=(), current=None))
    assert [note.text for note in figure.layout.annotations] == ["No variant of this group could be solved."]


# --- coverage -----------------------------------------------------------------------------------------------------


def test_coverage_sums_bytes_by_kind_the_largest_on_top():
    figure = coverage_figure(COVERAGE)
    held = {bar.name: dict(zip(bar.y, bar.x, strict=True)) for bar in figure.data}
    assert held == {"before": {"norm": 40, "linear": 1500}, "after": {"norm": 40, "linear": 800}}
    assert list(figure.data[0].y) == ["norm", "linear"], "plotly draws the last one on top"
    assert figure.data[0].customdata[1] == "2 weights, 1 of them become int4"
    assert list(figure.data[0].text) == ["40 B", "800 B"]
    assert figure.layout.title.subtitle.text == COVERAGE.verdict()


def test_a_model_without_weights_has_no_bars():
    figure = coverage_figure(Coverage("nothing", (), {}, ()))
    assert [note.text for note in figure.layout.annotations] == ["The model has no weights."]


# --- quality ------------------------------------------------------------------------------------------------------


def test_each_model_has_a_bar_of_its_divergence_with_the_interval():
    figure = quality_figure(QUALITIES)
    (bars,) = figure.data
    assert list(bars.y) == ["hqq", "rtn"] and list(bars.x) == [0.02, 0.04]  # the first on top
    assert list(bars.error_x.array) == pytest.approx([0, 0.01])
    assert [note.text for note in figure.layout.annotations] == ["0.02 · perplexity 27.50", "0.04 · perplexity 28.00"]
    assert figure.layout.xaxis.range[0] == 0 and figure.layout.xaxis.range[1] > 0.05
    subtitle = figure.layout.title.subtitle.text
    assert "510 tokens in 2 windows of 256" in subtitle and "perplexity is 27.00" in subtitle


def test_models_that_do_not_diverge_can_be_drawn():
    figure = quality_figure({"same": Quality(27.0, 3.3, 510, 2, 256, 0, 27.0, 0.0, (0.0, 0.0), 1.0)})
    assert figure.layout.xaxis.range[1] > 0


def test_no_quality_says_so_and_one_without_a_reference_is_refused():
    assert "Nothing is measured" in quality_figure({}).layout.annotations[0].text
    with pytest.raises(ConfigError, match=r"quality of alone.*without a reference.*reference=dense_model"):
        quality_figure({**QUALITIES, "alone": Quality(27.0, 3.3, 510, 2, 256)})
