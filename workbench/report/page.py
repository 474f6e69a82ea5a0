"""A report as one HTML page: figures and tables inside it, no network, readable without scripts and on paper."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

from workbench.improve.improvement import grouped
from workbench.recipe.text import recipe_text
from workbench.records.speed import SpeedPoint
from workbench.report.contents import Contents
from workbench.report.heat_png import gradient, heat_uri
from workbench.report.layers_svg import layers_svg
from workbench.report.speed_svg import speed_svg
from workbench.report.tables import (
    changes_table,
    coverage_table,
    facts_table,
    percent,
    quality_table,
    speed_table,
)
from workbench.sizes import size
from workbench.views.views import LayerView

_HERE = Path(__file__).parent
_WORST = 6  # layers with a heatmap
# Nothing may be loaded, whatever a name in a model contains; the two scripts and styles are the page's own.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


def report_html(contents: Contents) -> str:
    """Return the whole page; every text of the model or the person in it is escaped."""
    title = f"Int4 report: {contents.coverage.model}"
    style, script = ((_HERE / name).read_text(encoding="utf-8") for name in ("report.css", "report.js"))
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<title>{escape(title)}</title>
<style>{style}</style>
</head>
<body>
<main>
<header><p class="made">{escape(contents.made)}</p><h1>{escape(title)}</h1>
<p class="verdict">{escape(contents.verdict)}</p>{_facts(contents)}</header>
{"".join(_sections(contents))}
</main>
<script>{script}</script>
</body>
</html>
"""


def _sections(contents: Contents) -> Iterator[str]:
    solved, total = contents.solved, len(contents.coverage.configs)
    if solved:
        said = f"{len(solved)} of {total} int4 layers solved. A point is a layer; lower is better."
        errors = [(name, view.summary.relative_rmse) for name, view in solved]
        yield section("Error by layer", f"<p>{said}</p><figure>{layers_svg(errors)}</figure>")
        maps = "".join(_heatmap(name, view) for name, view in contents.worst(_WORST))
        said = "Rows are output features, columns groups of input features; each picture has its own scale."
        yield section("Where the error is", f'<p>{said}</p><div class="maps">{maps}</div>')
    if contents.improvement is not None:
        found = contents.improvement
        shown = changes_table(grouped(found.changes), found.objective)
        yield section("What Improve changed", f"<p>{escape(str(found))}</p>{shown}{_notes(found.notes)}")
    yield from _speed_sections(contents)
    if contents.quality is not None:
        said = f"Both models on the same windows of {contents.quality_text}."
        yield section("Quality", f"<p>{escape(said)}</p>{quality_table(contents.quality)}")
    verdict = f"<p>{escape(contents.coverage.verdict())}</p>"
    shown = coverage_table(contents.coverage, contents.errors)
    yield section("Every weight", verdict + shown + _notes(contents.coverage.notes))
    yield section(
        "Recipe", _code("Recipe file", recipe_text(contents.recipe.to_json())) + _code("As Python", contents.python)
    )
    yield section("Made with", facts_table(contents.machine))


def _facts(contents: Contents) -> str:
    coverage = contents.coverage
    ratio = coverage.before_bytes / max(1, coverage.after_bytes)
    parameters = max(1, sum(row.parameters for row in coverage.rows))
    facts = [
        ("Size", f"{size(coverage.before_bytes)} → {size(coverage.after_bytes)}", f"{ratio:.2f}× smaller"),
        (
            "In int4",
            f"{len(coverage.int4_rows)} of {len(coverage.rows)}",
            f"weights, {coverage.share:.1%} of the bytes",
        ),
        ("Bits per weight", f"{8 * coverage.after_bytes / parameters:.2f}", "whole model, scales included"),
    ]
    if contents.solved:
        worst, view = contents.worst(1)[0]
        facts.append(("Largest error", percent(view.summary.relative_rmse), worst))
    if contents.decode is not None:
        one = contents.decode
        facts.append(("Decoding", f"{one.ratio:.2f}× dense", f"{one.n}×{one.k} at batch 1, {one.device_name}"))
    if contents.quality is not None:
        facts.append(("Mean KL", f"{contents.quality.mean_kl.value:.4f}", "nats a token to the original"))
    cells = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd><small>{escape(hint)}</small></div>"
        for name, value, hint in facts
    )
    return f"<dl>{cells}</dl>"


def _speed_sections(contents: Contents) -> Iterator[str]:
    """Yield a chart and its numbers for each device and dtype that was measured."""
    runs: dict[tuple[str, str], list[SpeedPoint]] = {}
    for point in contents.speed:
        runs.setdefault((point.device, point.dtype), []).append(point)
    for (device, dtype), points in runs.items():
        first, roof = points[0], (contents.rooflines or {}).get(device)
        said = f"A {first.n}×{first.k} layer, group size {first.group_size}, {dtype}, on {first.device_name}."
        if roof is not None:
            said += f" The machine moves {roof.bandwidth_gb_per_s:.3g} GB/s at best."
        shown = f"<p>{escape(said)}</p><figure>{speed_svg(points)}</figure>{speed_table(points)}"
        yield section(f"Speed on this machine: {device}, {dtype}", shown + _notes(contents.speed_notes))


def _heatmap(name: str, view: LayerView) -> str:
    picture, error = view.map, view.summary.relative_rmse
    signed = not picture.log and picture.lo < 0 < picture.hi
    cell = f"a cell is the {picture.reduce} of {picture.row_span} rows" if picture.reduce != "none" else "a cell each"
    said = f"{picture.total_rows:,} rows × {picture.total_cols:,} groups of {view.group_size}, {cell}"
    bar = f'<i style="background:{gradient(signed=signed)}"></i>'
    scale = f"<span>{picture.lo:.3g}</span>{bar}<span>{picture.hi:.3g}</span>"
    return (
        f'<figure class="map"><figcaption><code>{escape(name)}</code><b>{percent(error)}</b></figcaption>'
        f'<img src="{heat_uri(picture)}" alt="{escape(f"{picture.unit} of {name}")}">'
        f'<div class="scale">{scale}</div><small>{escape(f"{picture.unit}. {said}")}</small></figure>'
    )


def section(title: str, shown: str) -> str:
    """Return a part of the page under a heading."""
    return f"<section><h2>{escape(title)}</h2>{shown}</section>\n"


def _notes(notes: Sequence[str]) -> str:
    lines = "".join(f"<li>{escape(note)}</li>" for note in notes)
    return f'<ul class="notes">{lines}</ul>' if lines else ""


def _code(title: str, text: str) -> str:
    return f"<h3>{escape(title)}</h3><pre><code>{escape(text)}</code></pre>"
