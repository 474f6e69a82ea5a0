"""What was found out about a quantized model, as a model card tells it: errors of the layers, and quality."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from workbench.checkpoint.card_text import bullets, cell, code, details, table
from workbench.checkpoint.contents import Outline
from workbench.measure.paired import Comparison, Estimate
from workbench.records.errors import LayerResult
from workbench.records.quality import Quality


@dataclass(frozen=True)
class Findings:
    """What was found out about a quantized model.

    Attributes:
        layers: Error of each layer that was solved.
        quality: The int4 model beside its original on a text.
        text: What that text is, in a phrase.
        notes: What a person must know of the quality.
    """

    layers: tuple[LayerResult, ...] = ()
    quality: Comparison | Quality | None = None
    text: str = ""
    notes: tuple[str, ...] = ()


def with_layers(found: Findings | None, solved: Sequence[LayerResult]) -> Findings:
    """Return what was found out with the layers that were solved on the way, where there are any."""
    known = Findings() if found is None else found
    return replace(known, layers=tuple(solved)) if solved else known


def errors_said(layers: Sequence[LayerResult], outline: Outline) -> str:
    """Return the errors of the layers, by objective and one by one; "" without any."""
    if not layers:
        return ""
    said = []
    for objective in dict.fromkeys(one.objective for one in layers):
        mine = [one for one in layers if one.objective == objective]
        error, nearest = (_mean(mine, outline, kind) for kind in ("error", "rtn_error"))
        against = f", {error / nearest:.3f} of round-to-nearest's" if nearest else ""
        said.append(f"{objective} over the weights of {len(mine)} layers: {error:.4g}{against}")
    rows = [
        (code(one.name), one.solver, cell(one.objective), f"{one.error:.4g}", f"{one.rtn_error:.4g}") for one in layers
    ]
    every = table(("layer", "solver", "measure", "error", "round-to-nearest's"), rows)
    noted = [f"{one.name}: {note}" for one in layers for note in one.notes]
    parts = [bullets(said), details(f"Each of the {len(layers)} layers", every), bullets(noted)]
    return "\n\n".join(part for part in parts if part)


def _mean(layers: Sequence[LayerResult], outline: Outline, kind: str) -> float:
    counts = [math.prod(outline.int4[one.name].shape) if one.name in outline.int4 else 1 for one in layers]
    return math.fsum(n * getattr(one, kind) for n, one in zip(counts, layers, strict=True)) / sum(counts)


def quality_said(found: Findings) -> str:
    """Return perplexity and divergence with their intervals; "" where nothing was measured."""
    one = found.quality
    if one is None:
        return ""
    measured = _compared(one) if isinstance(one, Comparison) else _alone(one)
    where = f" of {cell(found.text)}" if found.text else ""
    windows = len(one.windows) if isinstance(one, Comparison) else one.windows
    said = table(("original → int4", "", "95 % interval"), list(measured))
    parts = (f"Measured on {one.tokens:,} tokens in {windows} windows{where}.", said, bullets(found.notes))
    return "\n\n".join(part for part in parts if part)


def _compared(one: Comparison) -> Iterator[tuple[str, str, str]]:
    ratio, kl = one.perplexity_ratio, one.mean_kl
    yield "perplexity", f"{one.reference_perplexity:.3f} → {one.perplexity:.3f}", ""
    yield "perplexity ratio", f"{ratio.value:.4f}", _interval(ratio, 4)
    yield "mean KL, nats a token", f"{kl.value:.5f}", _interval(kl, 5)
    yield "same first choice", f"{one.agreement:.1%}", ""


def _alone(one: Quality) -> Iterator[tuple[str, str, str]]:
    if one.reference_perplexity is None or one.mean_kl is None:
        yield "perplexity of int4", f"{one.perplexity:.3f}", ""
        return
    yield "perplexity", f"{one.reference_perplexity:.3f} → {one.perplexity:.3f}", ""
    yield "perplexity ratio", f"{one.perplexity / one.reference_perplexity:.4f}", ""
    yield "mean KL, nats a token", f"{one.mean_kl:.5f}", _interval(Estimate(one.mean_kl, *(one.kl_interval or ())), 5)
    if one.top1_agreement is not None:
        yield "same first choice", f"{one.top1_agreement:.1%}", ""


def _interval(found: Estimate, digits: int) -> str:
    return "" if found.low is None or found.high is None else f"{found.low:.{digits}f} to {found.high:.{digits}f}"
