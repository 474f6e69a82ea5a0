"""What each export target holds: target × domain × group size, each cell written for real from a tiny model."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers

import workbench as wb
from workbench.checkpoint.stored_contents import CheckpointContents
from workbench.config import DOMAINS, Domain
from workbench.demo import demo_path
from workbench.targets import TARGETS
from workbench.targets.target import State

GROUPS = (32, 64, 128, 256)
TOKENIZER = ("tokenizer.json", "tokenizer_config.json")


@dataclass(frozen=True)
class Cell:
    """What became of a model with one domain and group size.

    Attributes:
        state: "exact", "rounded" or "refused".
        why: What is rounded, or why it is refused; "" for exact.
        max_error: Largest |Δw| of what was written, in units of the largest weight.
    """

    state: State
    why: str = ""
    max_error: float = 0.0

    def __str__(self) -> str:
        """As it stands in the README's table."""
        return f"rounded: {self.why}" if self.state == "rounded" else self.state


@functools.cache
def model() -> transformers.PreTrainedModel:
    """A Llama in bfloat16 whose K of 256 every group size divides, with the vocabulary of the demo model."""
    sizes = {"hidden_size": 256, "intermediate_size": 256, "num_hidden_layers": 1, "vocab_size": 4096}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}
    ends = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0, "tie_word_embeddings": True}
    torch.manual_seed(7)
    config = transformers.LlamaConfig(**sizes, **heads, **ends)
    return transformers.LlamaForCausalLM(config).to(torch.bfloat16).eval()


@functools.cache
def folder() -> tempfile.TemporaryDirectory:
    """Where everything is written; it goes away with the process."""
    return tempfile.TemporaryDirectory(prefix="cells-")


@functools.cache
def contents(domain: Domain, group_size: int) -> CheckpointContents:
    """The model with one domain and group size, as a native checkpoint with the tokenizer of the demo model."""
    path = Path(folder().name) / f"{domain}-{group_size}"
    clone = transformers.LlamaForCausalLM(model().config).to(torch.bfloat16)
    clone.load_state_dict(model().state_dict())
    wb.quantize_(clone, wb.Int4WeightOnlyConfig(group_size=group_size), solver="rtn", domain=domain)
    wb.save_checkpoint(clone, path)
    for name in TOKENIZER:
        (path / name).write_bytes((demo_path() / name).read_bytes())
    return CheckpointContents(path)


@functools.cache
def cell(target: str, domain: Domain, group_size: int) -> Cell:
    """Ask a target, and write it where it does not refuse."""
    source, one = contents(domain, group_size), TARGETS[target]
    outline = source.outline()
    fit = one.fit(outline)
    if fit.misfits:
        return Cell("refused", str(fit))
    path = Path(folder().name) / f"{target}-{domain}-{group_size}"
    path.mkdir()
    written = list(one.write(source, outline, path))
    assert {layer.name for layer in written} == set(outline.int4)
    largest = max(float(tensor.detach().abs().max()) for tensor in model().parameters() if tensor.ndim == 2)
    return Cell(fit.state, fit.rounds, max(layer.max_error for layer in written) / largest)


def cells() -> Iterator[tuple[str, Domain, int, Cell]]:
    """Yield (target, domain, group size, cell) of the whole table."""
    for target in TARGETS:
        for domain in DOMAINS:
            for group_size in GROUPS:
                yield target, domain, group_size, cell(target, domain, group_size)


def merged(target: str, domain: Domain) -> str:
    """Return the cells of a target and domain in one: group sizes with the same verdict stand together."""
    groups: dict[str, list[int]] = {}
    for group_size in GROUPS:
        groups.setdefault(str(cell(target, domain, group_size)), []).append(group_size)
    if len(groups) == 1:
        return next(iter(groups))
    return "; ".join(f"{', '.join(map(str, sizes))}: {said}" for said, sizes in groups.items())
