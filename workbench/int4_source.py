"""The weights of an int4 checkpoint on disk as a source: listed from headers, none to be quantized."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol, runtime_checkable

from torch import Size, Tensor

from workbench.affine import QuantizedWeight
from workbench.checkpoint.contents import Contents, Header, Outline
from workbench.checkpoint.native import ModuleFormat
from workbench.errors import CheckpointError, ModelError
from workbench.kinds import INT4
from workbench.records.layers import LayerRecord

NATIVE_FIRST = "export it as native, its codes as they are, and open that folder"
ORIGINAL = 'open the model that it was made from: wb.Workbench("its folder or hub name")'


@runtime_checkable
class Readable(Protocol):
    """Contents of which one weight can be read without the rest."""

    def read_weight(self, name: str, form: ModuleFormat) -> QuantizedWeight:
        """Read an int4 weight."""
        ...


class Int4Source:
    """An int4 checkpoint, native or of another library.

    Args:
        contents: What is read, everything named as the model names it.
        path: Its folder or file.
        listed: The weights that its configuration says; () where transformers cannot tell.
        name: What the person called it.
        method: The name of its format: "native", "compressed-tensors", "gptq", "awq" or "gguf".
    """

    def __init__(
        self, contents: Contents, path: Path, listed: Sequence[LayerRecord] = (), *, name: str, method: str
    ) -> None:
        self.contents, self.path, self.method = contents, path, method
        self._name, self.outline = name, contents.outline()
        self._records = list(_records(self.outline, listed))

    @property
    def name(self) -> str:
        """What the person called it."""
        return self._name

    def records(self) -> list[LayerRecord]:
        """List every weight, with the dtype and the bytes that it has in the checkpoint."""
        return self._records

    @property
    def stored_bytes(self) -> int:
        """Bytes of the files that hold its weights."""
        return weight_bytes(self.path)

    def weight(self, name: str) -> Tensor:
        """Refuse: no weight of it is to be quantized.

        Raises:
            ModelError: always.
        """
        raise ModelError(f"{name} is not read: {self.missing(name)}.", mend=ORIGINAL)

    def quantized(self, name: str) -> QuantizedWeight:
        """Read one int4 weight: [N, K], or [E * N, K] of a stack of experts.

        Raises:
            CheckpointError: when its format is read as a whole only, or it is damaged.
        """
        if not isinstance(self.contents, Readable):
            raise CheckpointError(f"{self.method} is read as a whole only.", mend=NATIVE_FIRST)
        return self.contents.read_weight(name, self.outline.int4[name])

    def missing(self, name: str) -> str:
        """Say why no weight can be quantized from here."""
        return "the model is int4 already"


def weight_bytes(path: Path) -> int:
    """Return the bytes of the files that hold the weights of a checkpoint: a folder of safetensors, or a GGUF file."""
    files = [path] if path.is_file() else path.glob("*.safetensors")
    return sum(file.stat().st_size for file in files)


def _records(outline: Outline, listed: Sequence[LayerRecord]) -> Iterator[LayerRecord]:
    """Yield every weight in the model's order; what the configuration does not list comes last."""
    left = dict(outline.dense)
    int4 = dict(outline.int4)
    for record in listed:
        if (form := int4.pop(record.name, None)) is not None:
            yield _int4(record.name, form.shape, form.size_bytes, f"g{form.group_size} {form.domain}")
            continue
        stored = next((name for name in (f"{record.name}.weight", record.name) if name in left), None)
        if stored is not None:
            yield _dense(record.name, record.kind, left.pop(stored), record.shape)
        elif record.tied_to is not None:
            yield replace(record, size_bytes=0)
    for name, form in int4.items():
        yield _int4(name, form.shape, form.size_bytes, f"g{form.group_size} {form.domain}")
    for name, header in left.items():
        kind = "bias" if name.endswith(".bias") else "parameter"
        yield _dense(name.removesuffix(".weight"), kind, header, header[1])


def _int4(name: str, shape: tuple[int, ...], size_bytes: int, form: str) -> LayerRecord:
    return LayerRecord(name, INT4, shape, "int4", size_bytes, int4_form=form)


def _dense(name: str, kind: str, header: Header, shape: tuple[int, ...]) -> LayerRecord:
    dtype, stored = header
    return LayerRecord(name, kind, shape, str(dtype).removeprefix("torch."), dtype.itemsize * Size(stored).numel())
