"""What compressed-tensors, GPTQ and AWQ folders have in common when they are read: checked headers, scales, groups."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from workbench.affine import MID_POINT, QuantizedWeight, group_count
from workbench.checkpoint.native import ModuleFormat
from workbench.config import GROUP_SIZES, Domain
from workbench.errors import CheckpointError
from workbench.foreign.folder import ForeignFolder

FLOATS = ("BF16", "F16", "F32")
WORDS = ("I32",)


@dataclass(frozen=True)
class Stored:
    """How a layer is stored.

    Attributes:
        out_features: N.
        in_features: K.
        group_size: Of the folder; K where a whole row has one scale.
        symmetric: Whether every zero point is 8.
    """

    out_features: int
    in_features: int
    group_size: int
    symmetric: bool

    @property
    def groups(self) -> int:
        """Groups of a row."""
        return group_count(self.in_features, self.group_size)

    @property
    def held_group_size(self) -> int:
        """The largest group size of ours that divides the folder's; 0 where there is none."""
        if self.group_size >= self.in_features:
            return next((size for size in reversed(GROUP_SIZES) if size >= self.in_features), GROUP_SIZES[0])
        return next((size for size in GROUP_SIZES if self.group_size % size == 0), 0)


class WordFolder(ForeignFolder):
    """A folder whose codes stand eight to an int32.

    Attributes:
        codes_part: Suffix of the tensor that holds a layer's codes.
        own_parts: Suffixes of all that hold its weight.
    """

    codes_part: str
    own_parts: tuple[str, ...]

    @abstractmethod
    def check_settings(self) -> list[str]:
        """Refuse a quantization_config that does not stand for 4-bit integer codes; return what it says besides."""

    @abstractmethod
    def stored(self, name: str) -> Stored:
        """Return how a layer is stored, with every header checked."""

    @abstractmethod
    def codes_and_zeros(self, name: str, stored: Stored) -> tuple[Tensor, Tensor | None, Tensor]:
        """Read codes uint8 [N, K], zero points uint8 [N, groups] (None for symmetric) and scales [N, groups]."""

    def read_forms(self) -> dict[str, ModuleFormat]:
        """Return module path → form of each int4 weight, from settings and headers."""
        self.notes = tuple(self.check_settings())
        self._stored: dict[str, Stored] = {}
        forms = {}
        for tensor in self.folder.names():
            name, _, part = tensor.rpartition(".")
            if part != self.codes_part:
                continue
            found = self._stored[name] = self.stored(name)
            if not found.held_group_size:
                raise CheckpointError(f"{name} has group_size {found.group_size}.", allowed="multiples of 32")
            scale = "bfloat16" if self.folder.dtype(f"{name}.{self.scale_part}") == "BF16" else "float32"
            domain: Domain = "symmetric" if found.symmetric else "int"
            n, k = found.out_features, found.in_features
            forms[name] = ModuleFormat(n, k, found.held_group_size, domain, scale)
        self._refuse_beside(forms)
        return forms

    def _refuse_beside(self, forms: dict[str, ModuleFormat]) -> None:
        for tensor in self.folder.names():
            name, _, part = tensor.rpartition(".")
            if name in forms and part not in (*self.own_parts, "bias"):
                allowed = ", ".join((*self.own_parts, "bias"))
                raise CheckpointError(f"{tensor!r} stands beside int4 codes.", allowed=allowed, mend="check the folder")

    def own_names(self, name: str) -> list[str]:
        """Return the full names of the tensors that hold a module's weight, its bias apart."""
        return [full for part in self.own_parts if (full := f"{name}.{part}") in self.folder]

    def convert(self, name: str, form: ModuleFormat) -> QuantizedWeight:
        """Read a module's weight."""
        stored = self._stored[name]
        codes, zero, scale = self.codes_and_zeros(name, stored)
        if not bool(torch.isfinite(scale).all()):
            raise CheckpointError(f"{name} has a scale of NaN or infinity.", mend="the file is damaged: fetch it again")
        held = form.group_size
        scale = _repeated(scale if scale.dtype == torch.bfloat16 else scale.float(), stored, held)
        zero = None if zero is None else _repeated(zero, stored, held)
        return QuantizedWeight(codes, scale, zero, held, form.domain)

    # --- checks -----------------------------------------------------------------------------------------------------

    @property
    def scale_part(self) -> str:
        """Suffix of the tensor of scales."""
        return next(part for part in self.own_parts if "scale" in part)

    def shape_of(self, name: str, dtypes: tuple[str, ...], ndim: int = 2) -> tuple[int, ...]:
        """Return a tensor's shape from its header.

        Raises:
            CheckpointError: when it is missing, of another dtype or number of dimensions, or empty.
        """
        if name not in self.folder:
            raise CheckpointError(f"The tensor {name!r} is missing.", mend="the checkpoint is incomplete")
        dtype, shape = self.folder.dtype(name), self.folder.shape(name)
        if dtype not in dtypes or len(shape) != ndim or 0 in shape:
            allowed = f"{' or '.join(dtypes)} with {ndim} dimensions"
            raise CheckpointError(f"{name!r} is {dtype} {list(shape)}.", allowed=allowed, mend="the file is damaged")
        return shape

    def hold(self, name: str, dtypes: tuple[str, ...], shape: tuple[int, ...]) -> None:
        """Refuse a tensor whose header says otherwise."""
        found = self.shape_of(name, dtypes, len(shape))
        if found != shape:
            raise CheckpointError(f"{name!r} is {list(found)}.", allowed=str(list(shape)), mend="the file is damaged")

    def wanted(self, key: str, value: Any, allowed: tuple[Any, ...]) -> None:
        """Refuse a setting of another value."""
        if not any(value == one and type(value) is type(one) for one in allowed):
            raise CheckpointError(
                f"{str(self.directory)!r} has {key} {value!r}"[:300] + ".",
                allowed=", ".join(map(repr, allowed)),
                mend="quantize the original model in the workbench",
            )

    def hold_in_order(self, name: str, part: str, stored: Stored) -> None:
        """Refuse columns whose groups do not follow each other: our groups are neighbours along K."""
        found = self.folder.read(f"{name}.{part}")
        if not torch.equal(found, torch.arange(stored.in_features, dtype=found.dtype) // stored.group_size):
            raise CheckpointError(
                f"{name} has its columns grouped by activation order ({part}).",
                allowed="groups of neighbouring columns",
                mend="fetch a checkpoint without activation order, or quantize the original model in the workbench",
            )

    def hold_symmetric(self, name: str, zero: Tensor) -> None:
        """Refuse zero points other than 8 in a folder that calls itself symmetric."""
        if not bool((zero == MID_POINT).all()):
            raise CheckpointError(
                f"{name} has zero points other than 8, but is called symmetric.", mend="fetch it again"
            )


def _repeated(values: Tensor, stored: Stored, group_size: int) -> Tensor:
    times = -(-stored.group_size // group_size)
    if times > 1:
        values = values.repeat_interleave(times, dim=1)
    return values[:, : group_count(stored.in_features, group_size)].contiguous()
