"""Checkpoints whose weights are stored in FP8 or MXFP4, read as the dense weights that they stand for.

FP8, as DeepSeek-V3 stores it (https://huggingface.co/deepseek-ai/DeepSeek-V3, README_WEIGHTS.md): `X` float8_e4m3fn
[..., N, K] beside `X_scale_inv`, one scale for each block, 128 x 128 there; the last blocks may be smaller. The weight
is X times its block's scale.

MXFP4, as gpt_oss stores it (OCP Microscaling Formats v1.0): `X_blocks` uint8 [E, N, K/32, 16], two e2m1 values a byte,
the first in the low nibble, beside `X_scales` uint8 [E, N, K/32], exponents s of the scales 2^(s - 127). transformers
keeps these experts as [E, K, N], and so they are handed out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from workbench.errors import ModelError
from workbench.safetensors_folder import DTYPE_NAMES, SafetensorsFolder

Method = Literal["fp8", "mxfp4"]
_FP8, _MXFP4 = "FP8", "MXFP4"
_E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0)
_SCALES = ("F32", "BF16", "F16", "F8_E8M0")
_ROWS_AT_ONCE = 4096  # a multiple of the usual blocks
_GROUP, _BYTES = 32, 16


@dataclass(frozen=True)
class StoredFormat:
    """The `quantization_config` of a checkpoint that can be read as a dense one.

    Attributes:
        method: "fp8" or "mxfp4".
        block: Rows and columns that share a scale (FP8).
    """

    method: Method
    block: tuple[int, int] = (128, 128)

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> StoredFormat | None:
        """Read a `quantization_config`; None for a method that is not read here.

        Raises:
            ModelError: when the method is known, and a setting says that the weights are stored otherwise.
        """
        method = config.get("quant_method")
        if method == "mxfp4":
            return cls("mxfp4")
        if method != "fp8":
            return None
        block = config.get("weight_block_size")
        if not (isinstance(block, list | tuple) and len(block) == 2 and all(type(b) is int and b > 0 for b in block)):
            raise ModelError(
                f"The weights are stored in FP8 with weight_block_size {block!r}.",
                allowed="two positive numbers, as DeepSeek-V3's [128, 128]",
                mend="open the model that it was made from",
            )
        for key, allowed in _FP8_SETTINGS.items():
            if config.get(key, allowed[0]) not in allowed:
                raise ModelError(
                    f"The weights are stored in FP8 with {key} {config[key]!r}.",
                    allowed=", ".join(map(repr, allowed)),
                    mend="open the model that it was made from",
                )
        return cls("fp8", (block[0], block[1]))


_FP8_SETTINGS: dict[str, tuple[Any, ...]] = {
    "fmt": ("e4m3",),
    "activation_scheme": ("dynamic", "static"),
    "scale_fmt": ("float", "ue8m0", None),
    "expert_dtype": ("fp8", None),
}


class DequantizedFolder:
    """A folder whose FP8 or MXFP4 weights are read as dense ones; all other tensors as they lie.

    Raises:
        ModelError: when a weight lacks its scales, or they do not fit it.
    """

    def __init__(self, folder: SafetensorsFolder, stored: StoredFormat, dtype: torch.dtype) -> None:
        """Read from `folder`, and hand out what is dequantized in `dtype`."""
        self.folder, self._stored, self._dtype = folder, stored, dtype
        self._pairs = _fp8_pairs(folder, stored.block) if stored.method == "fp8" else _mxfp4_pairs(folder)
        hidden = {name for pair in self._pairs.values() for name in pair}
        self._names = [name for name in folder.names() if name not in hidden]
        self._names += list(self._pairs)
        self._known = frozenset(self._names)

    @property
    def path(self) -> Path:
        """The folder."""
        return self.folder.path

    def names(self) -> list[str]:
        """Names of all tensors, as a dense checkpoint would have them."""
        return self._names

    def __contains__(self, name: str) -> bool:
        """Say whether there is a tensor of that name."""
        return name in self._known

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of the dense tensor."""
        if name not in self._pairs:
            return self.folder.shape(name)
        shape = self.folder.shape(self._pairs[name][0])
        return shape if self._stored.method == "fp8" else (shape[0], shape[2] * _GROUP, shape[1])

    def dtype(self, name: str) -> str:
        """Dtype of the dense tensor."""
        return DTYPE_NAMES[self._dtype] if name in self._pairs else self.folder.dtype(name)

    def size_bytes(self, name: str) -> int:
        """Bytes on disk, scales included."""
        return sum(self.folder.size_bytes(part) for part in self._pairs.get(name, (name,)))

    def read(self, name: str) -> Tensor:
        """Read one tensor, dequantized."""
        if name not in self._pairs:
            return self.folder.read(name)
        values, scales = (self.folder.read(part) for part in self._pairs[name])
        return self._dequantized(values, scales)

    def rows(self, name: str, start: int, stop: int, dim: int = 0) -> Tensor:
        """Read places start..stop of one tensor along dimension `dim`; along the first, nothing else of it."""
        if name not in self._pairs:
            return self.folder.rows(name, start, stop, dim)
        if dim:
            return self.read(name).narrow(dim, start, stop - start)
        values, scales = self._pairs[name]
        if len(self.shape(name)) > 2:  # whole matrices
            return self._dequantized(self.folder.rows(values, start, stop), self.folder.rows(scales, start, stop))
        block = self._stored.block[0]
        first = start // block
        parts = self.folder.rows(values, first * block, stop), self.folder.rows(scales, first, -(-stop // block))
        return self._dequantized(*parts)[start - first * block :]

    def stored_format(self, name: str) -> str:
        """Return "FP8" or "MXFP4" for a tensor that is dequantized, else ""."""
        return "" if name not in self._pairs else _FP8 if self._stored.method == "fp8" else _MXFP4

    def notes(self) -> list[str]:
        """Say how much is dequantized on the way."""
        name = _FP8 if self._stored.method == "fp8" else _MXFP4
        dtype = str(self._dtype).removeprefix("torch.")
        return [f"{len(self._pairs)} tensors are stored in {name}: dequantized to {dtype} on the way"]

    def _dequantized(self, values: Tensor, scales: Tensor) -> Tensor:
        if self._stored.method == "fp8":
            return dequantize_fp8(values, scales, self._stored.block, self._dtype)
        return dequantize_mxfp4(values, scales, self._dtype).transpose(-1, -2)


def dequantize_fp8(values: Tensor, scales: Tensor, block: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Return values times the scale of their block, computed in float32.

    Args:
        values: float8_e4m3fn [..., N, K].
        scales: float [..., ceil(N / block[0]), ceil(K / block[1])].
        block: Rows and columns that share a scale.
        dtype: dtype of the result.
    """
    rows, columns = values.shape[-2:]
    result = torch.empty(values.shape, dtype=dtype)
    step = max(1, _ROWS_AT_ONCE // block[0]) * block[0]
    flat = zip(*(t.reshape(-1, *t.shape[-2:]) for t in (result, values, scales)), strict=True)
    for dense, matrix, grid in flat:
        for start in range(0, rows, step):
            stop = min(start + step, rows)
            part = grid[start // block[0] : -(-stop // block[0])].float()
            spread = part.repeat_interleave(block[0], 0)[: stop - start].repeat_interleave(block[1], 1)[:, :columns]
            dense[start:stop] = matrix[start:stop].float() * spread
    return result


def dequantize_mxfp4(blocks: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the weights [..., N, K] of packed e2m1 values, computed in float32.

    Args:
        blocks: uint8 [..., N, K / 32, 16], the first of two values in the low nibble.
        scales: uint8 [..., N, K / 32], each s standing for 2^(s - 127).
        dtype: dtype of the result.
    """
    table = torch.tensor(_E2M1)
    shape = (*blocks.shape[:-2], blocks.shape[-2] * _GROUP)
    result = torch.empty(shape, dtype=dtype)
    rows = result.view(-1, blocks.shape[-2], _GROUP)
    packed, exponents = blocks.reshape(-1, *blocks.shape[-2:]), scales.reshape(-1, scales.shape[-1], 1)
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        part = slice(start, start + _ROWS_AT_ONCE)
        nibbles = torch.stack((packed[part] & 15, packed[part] >> 4), dim=-1).flatten(-2)
        rows[part] = torch.ldexp(table[nibbles.int()], exponents[part].int() - 127)
    return result


def _fp8_pairs(folder: SafetensorsFolder, block: Sequence[int]) -> dict[str, tuple[str, str]]:
    pairs = {}
    for name in folder.names():
        if folder.dtype(name) != "F8_E4M3":
            continue
        scale, shape = f"{name}_scale_inv", folder.shape(name)
        if scale not in folder or len(shape) < 2:
            raise _unreadable(folder, name, f"has no scales {scale!r}")
        want = (*shape[:-2], *(math.ceil(size / b) for size, b in zip(shape[-2:], block, strict=True)))
        if folder.shape(scale) != want or folder.dtype(scale) not in _SCALES:
            found = f"{folder.dtype(scale)} {list(folder.shape(scale))}"
            raise _unreadable(folder, name, f"is {list(shape)} and its scales are {found}, not float {list(want)}")
        pairs[name] = (name, scale)
    return pairs


def _mxfp4_pairs(folder: SafetensorsFolder) -> dict[str, tuple[str, str]]:
    pairs = {}
    for blocks in folder.names():
        if not blocks.endswith("_blocks"):
            continue
        name = blocks.removesuffix("_blocks")
        scales, shape = f"{name}_scales", folder.shape(blocks)
        if scales not in folder:
            raise _unreadable(folder, blocks, f"has no scales {scales!r}")
        good = len(shape) == 4 and shape[-1] == _BYTES and folder.shape(scales) == shape[:-1]
        if not good or {folder.dtype(blocks), folder.dtype(scales)} != {"U8"}:
            found = f"{folder.dtype(scales)} {list(folder.shape(scales))}"
            raise _unreadable(
                folder, blocks, f"is {folder.dtype(blocks)} {list(shape)} and its scales are {found}", _MXFP4_SHAPES
            )
        pairs[name] = (blocks, scales)
    return pairs


_MXFP4_SHAPES = "U8 [experts, rows, K/32, 16] and U8 [experts, rows, K/32]"


def _unreadable(folder: SafetensorsFolder, name: str, what: str, allowed: str | None = None) -> ModelError:
    return ModelError(
        f"{name!r} in {str(folder.path)!r} {what}.",
        allowed=allowed,
        mend="download or copy the folder again, or open the model that it was made from",
    )
