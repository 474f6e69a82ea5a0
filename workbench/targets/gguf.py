"""GGUF: one file that llama.cpp and what builds on it run: weights in Q4_1 or Q4_0, settings and tokenizer."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch

from workbench.checkpoint.contents import Contents, Outline, Part
from workbench.errors import CheckpointError
from workbench.shell import quoted
from workbench.targets.companions import Companions
from workbench.targets.gguf_blocks import BLOCK, encode_blocks, rounding_error
from workbench.targets.gguf_file import DENSE_TYPES, GgufWriter
from workbench.targets.gguf_metadata import ROPE_TENSOR, model_metadata, rope_problems, rope_tensor, window_note
from workbench.targets.gguf_models import ARCHITECTURES, Architecture, settings_of
from workbench.targets.gguf_tensors import Plan, dense_bytes, missing_tensors, plan_tensors
from workbench.targets.gguf_tokenizer import COUNTERPARTS, tokenizer_metadata, tokenizer_misfits
from workbench.targets.gguf_transformers import transformers_note
from workbench.targets.target import Fit, LoadLines, Misfit, Written, misfits_by

_ELSEWHERE = "export to another format"
_HEADS = {"tied": "an output head tied to the embeddings", "own": "an output head of its own"}


class Gguf:
    """The target: float and int domains as Q4_1, the symmetric one as Q4_0; everything else stays dense."""

    name = "gguf"
    title = "GGUF (Q4_1, Q4_0)"
    engines = "llama.cpp, Ollama, LM Studio, transformers"
    asked_later = f"the tokenizer is looked at before the first layer; llama.cpp has {COUNTERPARTS}"

    def fit(self, outline: Outline, companions: Companions | None = None) -> Fit:
        """Say whether the file can hold a model, and its tokenizer where it is at hand; no value is read."""
        outline = _with_settings(outline)
        misfits = self._misfits(outline)
        if not misfits and companions is not None:
            misfits = tokenizer_misfits(companions, outline.config)
        if misfits:
            return Fit(self.name, misfits=tuple(misfits))
        architecture = ARCHITECTURES[outline.config["model_type"]]
        plan = plan_tensors(outline, architecture)
        size_bytes = sum(info.size_bytes for info in plan.tensors.values())
        notes = _notes(outline, architecture)
        return Fit(self.name, _rounds(outline), (), size_bytes, tuple(notes))

    def write(
        self, contents: Contents, outline: Outline, folder: Path, cancel: threading.Event | None = None
    ) -> Iterator[Written]:
        """Write the file into an empty folder; yields each int4 layer.

        Raises:
            CheckpointError: when the tokenizer has no counterpart in llama.cpp (known before a layer is solved), a
                scale is too large for float16, or weights are missing.
            Cancelled: when `cancel` was set.
        """
        self.fit(outline).check()
        outline = _with_settings(outline)
        architecture = ARCHITECTURES[outline.config["model_type"]]
        plan = plan_tensors(outline, architecture)
        infos = list(plan.tensors.values())
        metadata = model_metadata(outline.config, architecture, Path(outline.model).name or "model", infos)
        config = outline.config
        metadata |= Companions(contents.write_files).read(lambda files: tokenizer_metadata(files, config))
        writer = GgufWriter(folder / file_name(outline), metadata, infos)
        try:
            if (factors := rope_tensor(outline.config)) is not None:
                writer.write(ROPE_TENSOR, factors.view(1, -1).view(torch.uint8))
            for part in contents.parts(cancel):
                error = _write_part(writer, plan, part)
                if part.weight is not None:
                    yield Written(part.name, error, part.solved)
            writer.finish()
        finally:
            writer.close()

    def load_lines(self, directory: Path, outline: Outline) -> LoadLines:
        """Return the lines that load the file that was written."""
        path = directory / file_name(outline)
        python = (
            "from llama_cpp import Llama  # pip install llama-cpp-python\n\n"
            f'model = Llama({str(path)!r})\nprint(model("Once upon a time", max_tokens=32)["choices"][0]["text"])'
        )
        file = quoted(str(path))
        modelfile = quoted(str(directory / "Modelfile"))
        ollama = f"echo FROM ./{path.name} > {modelfile} && ollama create my-model -f {modelfile}"
        return LoadLines(python, f"llama-cli -m {file} -p 'Once upon a time'\n{ollama}")

    def _misfits(self, outline: Outline) -> list[Misfit]:
        model_type = outline.config.get("model_type")
        architecture = ARCHITECTURES.get(str(model_type))
        if architecture is None:
            return [Misfit(f"model_type {model_type!r}", ", ".join(ARCHITECTURES), _ELSEWHERE)]
        found = misfits_by(
            outline.int4,
            lambda form: form.in_features % BLOCK != 0,
            lambda form: f"in_features {form.in_features}",
            allowed=f"multiples of {BLOCK}",
            mend="leave these layers dense",
        )
        problems = architecture.problems(outline.config)
        if not problems:
            problems = rope_problems(outline.config)
        found += [Misfit(what, allowed, _ELSEWHERE) for what, allowed in problems]
        return found or _tensor_misfits(outline, architecture)


def file_name(outline: Outline) -> str:
    """Name of the file: what most of a model's weights are stored as."""
    symmetric = all(form.domain == "symmetric" for form in outline.int4.values())
    return f"model-{'Q4_0' if symmetric else 'Q4_1'}.gguf"


def _with_settings(outline: Outline) -> Outline:
    return replace(outline, config=settings_of(outline.config))


def _tensor_misfits(outline: Outline, architecture: Architecture) -> list[Misfit]:
    plan = plan_tensors(outline, architecture)
    found = []
    where = f"llama.cpp's {architecture.name!r}"
    if plan.without:
        what = f"{len(plan.without)} tensors ({', '.join(plan.without[:3])})"
        types = ", ".join(info.name for info in DENSE_TYPES.values())
        found.append(Misfit(what, f"the tensors of {where}, dense ones in {types}", _ELSEWHERE))
    if plan.mixed:
        what = f"experts of one stack in different forms ({plan.mixed[0]})"
        found.append(Misfit(what, "one form for each stack", "give all experts of a layer the same settings"))
    missing = missing_tensors(plan, int(outline.config["num_hidden_layers"]))
    if missing:
        found.append(Misfit(f"a model without {missing[0]}", f"all tensors of {where}", "fetch the whole model"))
    head = "own" if "output.weight" in plan.tensors else "tied"
    if architecture.head not in ("any", head):
        found.append(Misfit(_HEADS[head], _HEADS[architecture.head], "leave the output head as the model has it"))
    return found


def _rounds(outline: Outline) -> str:
    forms = outline.int4.values()
    scales = any(form.scale_dtype == "float32" for form in forms)
    minimum = any(form.domain != "symmetric" for form in forms)
    what = " and ".join([*(["scale"] if scales else []), *(["minimum"] if minimum else [])])
    return f"{what} to float16" if what else ""


def _notes(outline: Outline, architecture: Architecture) -> list[str]:
    notes = ["scales below 6.1e-5 lose digits in float16; max |Δw| says how much"]
    return [*notes, *filter(None, (window_note(outline.config, architecture), transformers_note(outline.config)))]


def _write_part(writer: GgufWriter, plan: Plan, part: Part) -> float:
    """Write what belongs together; return the rounding error of its int4 weight."""
    for name, tensor in part.tensors.items():
        for place in plan.places.get(name, ()):
            writer.write(place.tensor, dense_bytes(tensor, place, plan.tensors[place.tensor].type), place.row)
    if part.weight is None:
        return 0.0
    try:
        places = plan.places[part.name]
    except KeyError:
        raise CheckpointError(f"{part.name} was not announced.", mend="export again") from None
    blocks = encode_blocks(part.name, part.weight.to("cpu"))
    for place in places:
        writer.write(place.tensor, place.rows(blocks.data), place.row)
    return rounding_error(part.weight.to("cpu"), blocks)
