"""Blocks of a tensor that share one scale, the range of the codes, and what the affine primitives refuse."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from workbench.config import MappingType, ZeroPointDomain
from workbench.errors import ConfigError, WeightError

FLOAT_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_WIDE_CODES = (torch.uint8, torch.int8, torch.int16, torch.int32)
SUB_BYTE_UNSIGNED = tuple(getattr(torch, f"uint{bits}") for bits in range(1, 8))
_SUB_BYTE_SIGNED = tuple(getattr(torch, f"int{bits}") for bits in range(1, 8))

Code = int | float


def split_blocks(shape: Sequence[int], block_size: Sequence[int]) -> tuple[list[int], list[int], list[int]]:
    """Return how to see a tensor as blocks: its view, the view with one entry per block, and the dimensions of a block.

    A dimension that a block only divides becomes two: the blocks, and the places in a block.

    Raises:
        WeightError: when the shape is empty or the blocks do not divide it.
        ConfigError: when the block size does not fit the number of dimensions, or a block is a single element.
    """
    if len(block_size) != len(shape):
        raise ConfigError(
            f"block_size={tuple(block_size)} has {len(block_size)} entries for a tensor {list(shape)}.",
            allowed="one entry for each dimension",
            mend=f"use for instance block_size={(1,) * max(0, len(shape) - 1) + (64,)}",
        )
    if 0 in shape:
        raise WeightError(f"The tensor {list(shape)} is empty.", allowed="at least one element")
    view: list[int] = []
    per_block: list[int] = []
    block_dims: list[int] = []
    for dim, (size, block) in enumerate(zip(shape, block_size, strict=True)):
        _check_block(dim, size, block)
        if block in (size, -1):
            block_dims.extend([len(view)] if size > 1 else [])
            view.append(size)
            per_block.append(1)
        elif block == 1:
            view.append(size)
            per_block.append(size)
        else:
            block_dims.append(len(view) + 1)
            view.extend((size // block, block))
            per_block.extend((size // block, 1))
    if not block_dims:
        raise ConfigError(
            f"block_size={tuple(block_size)} makes blocks of one element.",
            allowed="blocks of at least two elements",
            mend="give a group size in the last entry, for instance (1, 64)",
        )
    return view, per_block, block_dims


def _check_block(dim: int, size: int, block: int) -> None:
    if block < -1 or block == 0:
        raise ConfigError(f"block_size[{dim}]={block}.", allowed="a positive size, or -1 for the whole dimension")
    if block > 0 and size % block:
        raise WeightError(
            f"Dimension {dim} has {size} elements, which blocks of {block} do not divide.",
            allowed=f"a multiple of {block}",
            mend="use a block size that divides it, or quantize_weight, which lets the last group be short",
        )


def per_block_view(name: str, values: Tensor, per_block: list[int]) -> Tensor:
    """Return `values` (one per block, in any shape) so that they broadcast over the view of `split_blocks`.

    Raises:
        WeightError: when there is not one value per block.
    """
    if values.numel() != math.prod(per_block):
        raise WeightError(
            f"{name} {list(values.shape)} has {values.numel()} values.",
            allowed=f"{math.prod(per_block)} values, one for each block",
        )
    return values.reshape(per_block)


def code_range(dtype: torch.dtype, quant_min: Code | None, quant_max: Code | None) -> tuple[Code, Code]:
    """Return the lowest and the highest code, from the arguments or else from the dtype.

    Raises:
        ConfigError: for a dtype that holds no codes, or a range outside of it.
    """
    if dtype in _WIDE_CODES:
        least, most = torch.iinfo(dtype).min, torch.iinfo(dtype).max
    elif dtype in SUB_BYTE_UNSIGNED:
        least, most = 0, 2 ** (1 + SUB_BYTE_UNSIGNED.index(dtype)) - 1
    elif dtype in _SUB_BYTE_SIGNED:
        half: int = 2 ** _SUB_BYTE_SIGNED.index(dtype)
        least, most = -half, half - 1
    else:
        raise ConfigError(
            f"{dtype} cannot hold codes.",
            allowed="uint8, int8, int16, int32, and torch.uint1 to uint7 and int1 to int7",
            mend="use torch.uint8 with quant_min=0 and quant_max=15",
        )
    low = least if quant_min is None else quant_min
    high = most if quant_max is None else quant_max
    if not least <= low < high <= most:
        raise ConfigError(
            f"Codes from quant_min={low} to quant_max={high}.",
            allowed=f"quant_min < quant_max, both within {least} to {most} for {dtype}",
        )
    return low, high


def middle_code(low_code: Code, high_code: Code) -> float:
    """Return the code that stands for the zero point: 8 for 0..15, 0 for -8..7."""
    return (high_code + low_code + 1) / 2


def check_mapping(
    mapping_type: MappingType,
    domain: ZeroPointDomain,
    preserve_zero: bool,
    zero_point_dtype: torch.dtype | None,
    codes: tuple[Code, Code],
) -> None:
    """Refuse settings of `choose_qparams_affine` that contradict each other.

    Raises:
        ConfigError: with the mend.
    """
    for name, value, kind in (
        ("mapping_type", mapping_type, MappingType),
        ("domain", domain, ZeroPointDomain),
    ):
        if not isinstance(value, kind):
            known = ", ".join(f"{kind.__name__}.{member.name}" for member in kind)
            raise ConfigError(f"{name}={value!r} is of type {type(value).__name__}.", allowed=known)
    asymmetric = mapping_type is MappingType.ASYMMETRIC
    if asymmetric and domain is ZeroPointDomain.NONE:
        raise ConfigError(
            "An asymmetric mapping without a zero point cannot be undone.",
            allowed="ZeroPointDomain.INT or FLOAT with ASYMMETRIC, NONE or INT with SYMMETRIC",
            mend="use MappingType.SYMMETRIC with ZeroPointDomain.NONE",
        )
    if not asymmetric and (domain is ZeroPointDomain.FLOAT or not preserve_zero):
        raise ConfigError(
            f"{mapping_type.name} with zero_point_domain={domain.name} and preserve_zero={preserve_zero}: "
            "a symmetric mapping always keeps 0 and has no float zero point.",
            allowed="ZeroPointDomain.NONE or INT, preserve_zero=True",
            mend="use MappingType.ASYMMETRIC, or ZeroPointDomain.NONE with preserve_zero=True",
        )
    if mapping_type is MappingType.SYMMETRIC_NO_CLIPPING_ERR and not codes[0] < 0 < codes[1]:
        raise ConfigError(
            f"SYMMETRIC_NO_CLIPPING_ERR with codes from {codes[0]} to {codes[1]}.",
            allowed="quant_min < 0 < quant_max",
            mend="use target_dtype=torch.int8, quant_min=-8, quant_max=7",
        )
    if zero_point_dtype is not None and domain is not ZeroPointDomain.NONE:
        _check_zero_dtype(zero_point_dtype, domain, codes)


def _check_zero_dtype(dtype: torch.dtype, domain: ZeroPointDomain, codes: tuple[Code, Code]) -> None:
    if dtype.is_floating_point:
        return
    if domain is ZeroPointDomain.FLOAT:
        raise ConfigError(
            f"zero_point_dtype={dtype} would cut a float zero point down to whole numbers.",
            allowed="a float dtype with ZeroPointDomain.FLOAT",
            mend="leave zero_point_dtype at None",
        )
    if not (torch.iinfo(dtype).min <= codes[0] and codes[1] <= torch.iinfo(dtype).max):
        raise ConfigError(
            f"zero_point_dtype={dtype} cannot hold codes from {codes[0]} to {codes[1]}.",
            allowed="an integer dtype that holds every code",
            mend="leave zero_point_dtype at None, which becomes int32",
        )


def check_domain(domain: ZeroPointDomain, zero_point: Tensor | None, *, needed: bool) -> None:
    """Refuse a zero point that does not go with its domain.

    Raises:
        ConfigError: for an unknown domain, a zero point with NONE, or a missing one where it is `needed`.
    """
    if not isinstance(domain, ZeroPointDomain):
        raise ConfigError(
            f"zero_point_domain={domain!r} is of type {type(domain).__name__}.",
            allowed="ZeroPointDomain.INT, FLOAT or NONE",
        )
    if domain is ZeroPointDomain.NONE and zero_point is not None:
        raise ConfigError("ZeroPointDomain.NONE with a zero point.", allowed="zero_point=None with NONE")
    if needed and domain is not ZeroPointDomain.NONE and zero_point is None:
        raise ConfigError(
            f"ZeroPointDomain.{domain.name} without a zero point.",
            allowed="a tensor with one zero point for each block",
            mend="pass what choose_qparams_affine returned, or use ZeroPointDomain.NONE",
        )


def check_float(name: str, dtype: torch.dtype) -> None:
    """Refuse a dtype that the primitives do not compute in.

    Raises:
        WeightError: with the dtype.
    """
    if dtype not in FLOAT_DTYPES:
        raise WeightError(
            f"{name} is {dtype}.",
            allowed="torch.float32, torch.bfloat16 or torch.float16",
            mend="convert it with .float()",
        )


def check_finite(name: str, *extremes: Tensor, mend: str = "find and repair the NaN or infinite values") -> None:
    """Refuse a tensor of which a minimum, a maximum or a result is NaN or infinite.

    Raises:
        WeightError: with the first such value.
    """
    for values in extremes:
        bad = values[~values.isfinite()]
        if bad.numel():
            raise WeightError(f"{name} holds {bad[0].item()}.", allowed="finite values", mend=mend)
