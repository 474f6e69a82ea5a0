"""GGUF files of llama.cpp: Q4_0 and Q4_1 weights keep their codes bit for bit, all others become dense.

Q4_0 is the symmetric domain, w = (q - 8) d; Q4_1 the float domain with zero = m + 8 d. Groups are blocks of 32.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from workbench.affine import QuantizedWeight
from workbench.checkpoint.contents import Outline, Part, stop_when, write_config
from workbench.checkpoint.native import ModuleFormat
from workbench.errors import CheckpointError, EnvironmentProblem
from workbench.foreign.gguf_config import config_of, left_out, model_type_of
from workbench.foreign.gguf_names import Source, biases_of, sources_of
from workbench.foreign.gguf_reader import GgufFile, Stored
from workbench.foreign.gguf_tokenizer import tokenizer_problem, write_tokenizer
from workbench.targets.gguf_blocks import BLOCK, decode_blocks, paired_rows
from workbench.targets.gguf_file import DENSE_TYPES, Q4_0, Q4_1
from workbench.targets.gguf_metadata import ROPE_TENSOR

SUFFIX = ".gguf"
_INT4 = (Q4_0, Q4_1)
_DTYPES = {kind: dtype for dtype, kind in DENSE_TYPES.items()}
_NAMES = {dtype: str(dtype).removeprefix("torch.") for dtype in DENSE_TYPES}
_LINEAR = ("_proj.weight", "lm_head.weight", "_proj", ".shared_expert_gate.weight")


class GgufContents:
    """The contents of a GGUF file.

    Attributes:
        path: The file.
        config: Its config.json.
        notes: What a person must know: what became dense, and what was left out.

    Raises:
        CheckpointError: when it is damaged, of an architecture that is not declared, or holds no Q4_0 or Q4_1 weight.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._file = path, GgufFile(path)
        metadata, tensors = self._file.metadata, self._file.tensors
        _refuse_parts(path, metadata)
        model_type_of(metadata)
        if "token_embd.weight" not in tensors:
            raise CheckpointError(f"{str(path)!r} lacks 'token_embd.weight'.", mend="fetch it again")
        self._dense_dtype = _DTYPES.get(tensors["token_embd.weight"].type, torch.bfloat16)
        tied, dtype = "output.weight" not in tensors, _NAMES[self._dense_dtype]
        self.config: dict[str, Any] = config_of(metadata, biases_of(tensors), self._factors(), tied=tied, dtype=dtype)
        self._sources = sources_of(tensors, self.config)
        self._forms = {_module(name): _form(one) for name, one in self._sources.items() if _is_int4(name, one)}
        if not self._forms:
            raise CheckpointError(
                f"{str(path)!r} holds no int4 weight.", allowed="Q4_0 or Q4_1", mend="open the model it was made from"
            )
        self.notes = self._said()

    def outline(self) -> Outline:
        """Say what is there; no value is read."""
        kinds = {name: "experts" if form.experts else "linear" for name, form in self._forms.items()}
        kinds |= {name: "output_head" for name in kinds if name == "lm_head"}
        dense = {name: (self._dtype(one), one.shape) for name, one in self._dense().items()}
        called = self._file.metadata.get("general.name")
        layers = tuple(_module(name) for name in dense if name.endswith(_LINEAR))
        return Outline(str(called or self.path.stem), self.config, self._forms, kinds, layers, dense, notes=self.notes)

    def parts(self, cancel: threading.Event | None = None) -> Iterator[Part]:
        """Yield everything once, the dense parts first; one layer at a time is in memory.

        Raises:
            CheckpointError: when a value is not finite.
            EnvironmentProblem: when a tensor needs gguf-py and it is not installed.
        """
        beside: dict[str, dict[str, Tensor]] = {}
        for name, source in self._dense().items():
            stop_when(cancel)
            module, tensor = name.rpartition(".")[0], self._read_dense(name, source)
            if module in self._forms:
                beside.setdefault(module, {})[name] = tensor
            else:
                yield Part(module, {name: tensor})
        for name, source in self._sources.items():
            if _module(name) in self._forms and name not in self._dense():
                stop_when(cancel)
                yield Part(_module(name), beside.pop(_module(name), {}), self._read_int4(name, source))

    def read_weight(self, name: str, form: ModuleFormat) -> QuantizedWeight:
        """Read the int4 weight of a module, without the rest of the file.

        Raises:
            CheckpointError: when a scale is not finite.
        """
        stored = next(one for one, source in self._sources.items() if _module(one) == name and _is_int4(one, source))
        return self._read_int4(stored, self._sources[stored])

    def write_files(self, folder: Path) -> None:
        """Write config.json and the tokenizer, where it is one that can be told."""
        if not tokenizer_problem(self._file.metadata):
            write_tokenizer(folder, self._file.metadata)
        write_config(folder, self.config)

    def _dense(self) -> dict[str, Source]:
        return {name: one for name, one in self._sources.items() if not _is_int4(name, one)}

    def _dtype(self, source: Source) -> torch.dtype:
        """Dtype of a dense tensor: as stored, or that of the embeddings where it has to be dequantized."""
        dtypes = {_DTYPES.get(one.type, self._dense_dtype) for one in source.stored}
        return dtypes.pop() if len(dtypes) == 1 else self._dense_dtype

    def _factors(self) -> Tensor | None:
        stored = self._file.tensors.get(ROPE_TENSOR)
        if stored is None:
            return None
        if stored.type not in _DTYPES or len(stored.shape) != 1 or stored.shape[0] > 2**16:
            raise CheckpointError(f"{ROPE_TENSOR} is {stored.type.name} {list(stored.shape)}.", mend="fetch it again")
        return self._file.read(ROPE_TENSOR).view(_DTYPES[stored.type]).float().flatten()

    def _read_int4(self, name: str, source: Source) -> QuantizedWeight:
        symmetric = source.stored[0].type is Q4_0
        weights = [decode_blocks(self._file.read(one.name), symmetric=symmetric) for one in source.stored]
        weight = weights[0] if len(weights) == 1 else _interleaved(weights, source.shape[0])
        weight = _unpaired(weight, source.heads) if source.heads else weight
        if not all(bool(torch.isfinite(one).all()) for one in (weight.scale, weight.zero) if one is not None):
            raise CheckpointError(f"{name} has a scale that is NaN or infinite.", mend="fetch the file again")
        return weight

    def _read_dense(self, name: str, source: Source) -> Tensor:
        dtype = self._dtype(source)
        found = [self._values(one, dtype) for one in source.stored]
        values = (
            found[0]
            if len(found) == 1
            else torch.cat([one.view(source.shape[0], -1, source.shape[2]) for one in found], 1)
        )
        values = values.view(source.shape)
        if source.heads:
            values = values[paired_rows(len(values), source.heads).argsort()]
        return (values.float() - source.shift).to(dtype) if source.shift else values

    def _values(self, stored: Stored, dtype: torch.dtype) -> Tensor:
        data = self._file.read(stored.name)
        if stored.type in _DTYPES:
            return data.view(_DTYPES[stored.type]).to(dtype)
        if stored.type in _INT4:
            return decode_blocks(data, symmetric=stored.type is Q4_0).dequantize(dtype)
        return _dequantized(stored, data).to(dtype)

    def _said(self) -> tuple[str, ...]:
        kinds = Counter(
            one.type.name for source in self._dense().values() for one in source.stored if one.type.block > 1
        )
        dtype = _NAMES[self._dense_dtype]
        notes = [f"{count} tensors in {kind} become dense {dtype}" for kind, count in sorted(kinds.items())]
        if problem := tokenizer_problem(self._file.metadata):
            notes.append(f"no tokenizer is written: {problem}")
        return (*notes, *left_out(self._file.metadata))


def gguf_path(path: Path) -> Path | None:
    """Return the GGUF file that a path names, or that a folder without a config.json holds; None when there is none.

    Raises:
        CheckpointError: when the folder holds several.
    """
    if path.is_file():
        return path if path.suffix == SUFFIX else None
    found = sorted(path.glob(f"*{SUFFIX}")) if path.is_dir() and not (path / "config.json").is_file() else []
    if len(found) > 1:
        names = ", ".join(one.name for one in found[:5])
        raise CheckpointError(f"{str(path)!r} holds {len(found)} GGUF files.", allowed=names, mend="name one of them")
    return found[0] if found else None


def _refuse_parts(path: Path, metadata: dict[str, Any]) -> None:
    count = metadata.get("split.count", 1)
    if count not in (0, 1):
        raise CheckpointError(
            f"{str(path)!r} is one of {count} parts."[:200], mend="join them: llama-gguf-split --merge"
        )


def _module(name: str) -> str:
    return name.removesuffix(".weight")


def _is_int4(name: str, source: Source) -> bool:
    """Whether a weight keeps its codes: a matrix that is multiplied with, all of it in one of the two types."""
    kinds = {one.type for one in source.stored}
    return len(kinds) == 1 and kinds <= set(_INT4) and len(source.shape) > 1 and name.endswith(_LINEAR)


def _form(source: Source) -> ModuleFormat:
    *experts, n, k = source.shape
    domain = "symmetric" if source.stored[0].type is Q4_0 else "float"
    return ModuleFormat(n, k, BLOCK, domain, "float32", "", *experts)  # type: ignore[arg-type]


def _interleaved(weights: list[QuantizedWeight], experts: int) -> QuantizedWeight:
    """Return [E * 2N, K] of gates [E * N, K] and ups: those of an expert follow each other."""

    def joined(tensors: list[Tensor]) -> Tensor:
        rows = torch.cat([one.view(experts, -1, one.shape[1]) for one in tensors], dim=1)
        return rows.reshape(-1, rows.shape[2])

    gate, up = weights
    zero = None if gate.zero is None or up.zero is None else joined([gate.zero, up.zero])
    return QuantizedWeight(
        joined([gate.codes, up.codes]), joined([gate.scale, up.scale]), zero, gate.group_size, gate.domain
    )


def _unpaired(weight: QuantizedWeight, heads: int) -> QuantizedWeight:
    """Put the rows of Q or K back in transformers' order."""
    order = paired_rows(weight.shape[0], heads).argsort()
    zero = None if weight.zero is None else weight.zero[order]
    return QuantizedWeight(weight.codes[order], weight.scale[order], zero, weight.group_size, weight.domain)


def _dequantized(stored: Stored, data: Tensor) -> Tensor:
    """Dequantize another type through gguf-py: float32 [rows, K]."""
    try:
        from gguf import GGMLQuantizationType, dequantize
    except ImportError:
        raise EnvironmentProblem(
            f"{stored.name} is stored in {stored.type.name}, which gguf-py reads, and that is not installed.",
            mend="pip install 'int4-workbench[gguf]'",
        ) from None
    return torch.from_numpy(dequantize(data.numpy(), GGMLQuantizationType(stored.type.number)))
