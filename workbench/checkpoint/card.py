"""The model card, README.md: what a checkpoint or an export is, told from records; what is not known is left out."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench.checkpoint.card_text import bullets, cell, code, details, fenced, front_matter, table
from workbench.checkpoint.contents import Outline
from workbench.checkpoint.findings import Findings, errors_said, quality_said
from workbench.checkpoint.native import PRODUCER, ModuleFormat
from workbench.machine import package_versions
from workbench.shell import quoted
from workbench.sizes import size

CARD_FILE = "README.md"
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
_SNAPSHOT = re.compile(r"models--([A-Za-z0-9][\w.-]*)--([A-Za-z0-9][\w.-]*)/snapshots/")
_WEIGHTS = ("*.safetensors", "*.gguf")
_ITEM_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4, "float64": 8}
_DENSE_NAMED = 12


@dataclass(frozen=True)
class Wrote:
    """What was written, and how it is loaded.

    Attributes:
        format: Name of the format: "native", "gguf", …
        title: The format as a person reads it.
        engines: What loads it.
        python: Lines of Python that load it, or "".
        shell: Lines for a shell, or "".
        weights: What the format's loader makes of the weights, against ours, in a sentence; or "".
        notes: What a person must know.
    """

    format: str
    title: str
    engines: str
    python: str = ""
    shell: str = ""
    weights: str = ""
    notes: tuple[str, ...] = ()


def write_card(folder: Path, outline: Outline, wrote: Wrote, found: Findings) -> None:
    """Write README.md into a folder that holds the weights already; one that is there is replaced."""
    stored = sum(path.stat().st_size for kind in _WEIGHTS for path in folder.glob(kind))
    text = model_card(outline, wrote, found, stored)
    (folder / CARD_FILE).write_text(text, encoding="utf-8")


def model_card(outline: Outline, wrote: Wrote, found: Findings, stored_bytes: int) -> str:
    """Return the card as Markdown behind YAML that the hub reads.

    Args:
        outline: What was written.
        wrote: In which format.
        found: What was found out.
        stored_bytes: Bytes of the files that hold the weights.
    """
    base = base_model(outline.model)
    name = base.partition("/")[2] or short_name(outline.model)
    origin = f"[{base}](https://huggingface.co/{base})" if base else code(name)
    opening = f"The weights of {origin} in 4 bits, in the format {cell(wrote.title)}: loaded by {cell(wrote.engines)}."
    sections = (
        ("How to load", _loading(wrote)),
        ("Recipe", _recipe(outline)),
        ("Coverage", _coverage(outline)),
        ("Errors of the layers", errors_said(found.layers, outline)),
        ("Quality", quality_said(found)),
        ("Size", _sizes(outline, stored_bytes)),
        ("Weights in this format", cell(wrote.weights)),
        ("Notes", bullets(wrote.notes)),
        ("Made with", table(("", "version"), sorted(_versions().items()))),
    )
    body = [f"## {title}\n\n{text}" for title, text in sections if text]
    head = front_matter(_metadata(outline, wrote, base))
    return "\n\n".join([head, f"# {cell(name)} in int4", opening, *body]) + "\n"


def base_model(name: str) -> str:
    """Return the hub name "owner/name" that a model's name or path stands for, "" where it stands for none."""
    if cached := _SNAPSHOT.search(name.replace("\\", "/") + "/"):
        return "/".join(cached.groups())
    return name if _HUB_NAME.fullmatch(name) and not Path(name).exists() else ""


def short_name(name: str) -> str:
    """Return the hub name that a model's name or path stands for, or the last part of its path."""
    return base_model(name) or Path(name.replace("\\", "/")).name or "model"


def named_config(outline: Outline) -> dict[str, Any]:
    """Return config.json with the hub name of the model that it was made from, where that is known."""
    base = base_model(outline.model)
    return {**outline.config, "_name_or_path": base} if base else dict(outline.config)


def loading_class(config: Mapping[str, Any]) -> str:
    """Return the class of transformers that loads a model, by its config.json."""
    called = str(next(iter(config.get("architectures") or ()), "AutoModelForCausalLM"))
    return "AutoModelForCausalLM" if called.endswith("ForCausalLM") else called


def native_lines(directory: Path, config: Mapping[str, Any], *, tokenizer: bool) -> tuple[str, str]:
    """Return the lines of Python, and for a shell, that load a native checkpoint.

    The shell's are "" without a tokenizer, and for a model that does not generate.

    Args:
        directory: The checkpoint.
        config: The model's config.json.
        tokenizer: Whether one lies beside it.
    """
    called = loading_class(config)
    python = (
        "import workbench.hf  # pip install int4-workbench: transformers then knows the format\n"
        f"from transformers import {called}\n\n"
        f"model = {called}.from_pretrained({str(directory)!r})"
    )
    generates = tokenizer and called.endswith(("ForCausalLM", "LMHeadModel", "ForConditionalGeneration"))
    return python, f"workbench generate {quoted(str(directory))} 'Once upon a time'" if generates else ""


def native_card(directory: Path, config: Mapping[str, Any], *, tokenizer: bool) -> Wrote:
    """Say how a native checkpoint of that name is loaded, with or without a tokenizer beside it."""
    python, shell = native_lines(Path(directory.name), config, tokenizer=tokenizer)
    return Wrote("native", "of int4-workbench", "transformers with int4-workbench", python, shell)


def _metadata(outline: Outline, wrote: Wrote, base: str) -> Iterator[tuple[str, str | list[str]]]:
    if base:
        yield "base_model", base
        yield "base_model_relation", "quantized"
    yield "library_name", {"gguf": "gguf", "mlx": "mlx"}.get(wrote.format, "transformers")
    if any(str(name).endswith("ForCausalLM") for name in outline.config.get("architectures") or ()):
        yield "pipeline_tag", "text-generation"
    tags = ["int4", "4-bit", "int4-workbench"]
    yield "tags", tags if wrote.format == "native" else [*tags, wrote.format]
    yield "quantized_by", "int4-workbench"


def _loading(wrote: Wrote) -> str:
    said = [fenced(text, kind) for kind, text in (("python", wrote.python), ("sh", wrote.shell)) if text]
    return "\n\n".join(["In the folder that holds this one:", *said]) if said else ""


def _recipe(outline: Outline) -> str:
    groups: dict[tuple[str, ...], list[ModuleFormat]] = {}
    for name, form in outline.int4.items():
        kind = outline.kinds.get(name, "linear").replace("_", " ")
        solver = form.solved_by.partition("/")[0]
        groups.setdefault((kind, str(form.group_size), form.domain, solver, form.scale_dtype), []).append(form)
    rows = [(str(len(forms)), *key, f"{_bits(forms):.2f}") for key, forms in groups.items()]
    heads = ("layers", "kind", "group size", "zero points", "solver", "scales", "bits a weight")
    known = [i for i in range(len(heads)) if any(row[i] for row in rows)]
    said = table([heads[i] for i in known], [[row[i] for i in known] for row in rows])
    if outline.recipe is None:
        return said
    return f"{said}\n\n{details('The recipe that asked for it', fenced(_pretty(outline), 'json'))}"


def _pretty(outline: Outline) -> str:
    return json.dumps(None if outline.recipe is None else outline.recipe.to_json(), indent=2)


def _coverage(outline: Outline) -> str:
    ours = sum(math.prod(form.shape) for form in outline.int4.values())
    dense = sum(math.prod(shape) for _, shape in outline.dense.values())
    layers, total = len(outline.int4) + len(outline.dense_layers), max(1, ours + dense)
    share = f"{ours:,} of {total:,} parameters ({ours / total:.1%})"
    said = f"{len(outline.int4)} of {layers} linear weights are int4: {share}."
    if not outline.dense_layers:
        return said
    named = ", ".join(code(name) for name in outline.dense_layers[:_DENSE_NAMED])
    more = f" and {len(outline.dense_layers) - _DENSE_NAMED} more" if len(outline.dense_layers) > _DENSE_NAMED else ""
    return f"{said} Left dense: {named}{more}."


def _sizes(outline: Outline, stored_bytes: int) -> str:
    dtype = str(outline.config.get("dtype") or outline.config.get("torch_dtype") or "").removeprefix("torch.")
    rows = [("here", size(stored_bytes))]
    if dtype in _ITEM_BYTES:
        dense = outline.dense_bytes + _ITEM_BYTES[dtype] * sum(math.prod(f.shape) for f in outline.int4.values())
        rows.insert(0, (f"the same weights in {dtype}", size(dense)))
        rows.append(("share", f"{stored_bytes / max(1, dense):.1%}"))
    return table(("weights", "size"), rows)


def _bits(forms: Iterable[ModuleFormat]) -> float:
    total: Counter[str] = Counter()
    for form in forms:
        total.update(bits=8 * form.size_bytes, weights=math.prod(form.shape))
    return total["bits"] / max(1, total["weights"])


def _versions() -> dict[str, str]:
    return {
        PRODUCER.partition(" ")[0]: PRODUCER.partition(" ")[2],
        **package_versions("torch", "transformers", "safetensors"),
    }
