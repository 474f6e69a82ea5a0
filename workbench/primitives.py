"""torchao 0.11's affine primitives: the same names, arguments, defaults and results, bit for bit.

All arithmetic is in the dtype of the input. Where torchao answers with garbage or a bare assertion, these refuse.
"""

from __future__ import annotations

import torch
from torch import Tensor

from workbench.blocks import (
    SUB_BYTE_UNSIGNED,
    Code,
    check_domain,
    check_finite,
    check_float,
    check_mapping,
    code_range,
    middle_code,
    per_block_view,
    split_blocks,
)
from workbench.config import MappingType, ZeroPointDomain
from workbench.errors import WeightError


def choose_qparams_affine(
    input: Tensor,
    mapping_type: MappingType,
    block_size: tuple[int, ...],
    target_dtype: torch.dtype,
    quant_min: int | float | None = None,
    quant_max: int | float | None = None,
    eps: float | None = None,
    scale_dtype: torch.dtype | None = None,
    zero_point_dtype: torch.dtype | None = None,
    preserve_zero: bool = True,
    zero_point_domain: ZeroPointDomain = ZeroPointDomain.INT,
) -> tuple[Tensor, Tensor | None]:
    """Choose a scale and a zero point for each block (torchao 0.11's signature and, in its dtype, its results).

    Args:
        input: float32, bfloat16 or float16 of any shape; all arithmetic is in this dtype.
        mapping_type: ASYMMETRIC: scale = (max - min) / (quant_max - quant_min). SYMMETRIC: scale = max|w| over half
            of that range. SYMMETRIC_NO_CLIPPING_ERR: the larger of min / quant_min and max / quant_max.
        block_size: Sizes of a block, one for each dimension of `input`; -1 takes the whole dimension.
        target_dtype: Integer dtype of the codes: uint8, int8, int16, int32, or torch.uint1 to int7.
        quant_min: Lowest code; None takes the dtype's.
        quant_max: Highest code; None takes the dtype's.
        eps: Least scale; None takes the machine epsilon of the input's dtype.
        scale_dtype: dtype of the scale; None takes the input's.
        zero_point_dtype: dtype of the zero point; None takes int32 for INT with ASYMMETRIC, else the input's.
        preserve_zero: Widen each block's range to contain 0.
        zero_point_domain: INT: the code of the value 0. FLOAT: the value of the middle code, min + middle * scale.
            NONE: no zero point, for the symmetric mappings.

    Returns:
        Scale and zero point (None for NONE), one for each block; a dimension that a block spans is dropped.

    Raises:
        WeightError: for NaN or infinity, a range that the dtype cannot hold, or blocks that do not divide the shape.
        ConfigError: for settings that contradict each other.
    """
    check_float("input", input.dtype)
    codes = code_range(target_dtype, quant_min, quant_max)
    check_mapping(mapping_type, zero_point_domain, preserve_zero, zero_point_dtype, codes)
    view, _, block_dims = split_blocks(input.shape, block_size)
    grouped = input.detach().reshape(view)
    low, high = grouped.amin(block_dims), grouped.amax(block_dims)
    check_finite("input", low, high)
    if preserve_zero:
        low, high = low.clamp(max=0), high.clamp(min=0)
    scale = _block_scale(mapping_type, low, high, codes)
    scale = scale.clamp(min=torch.finfo(input.dtype).eps if eps is None else eps)
    zero: Tensor | None = None
    if zero_point_domain is ZeroPointDomain.FLOAT:
        zero = (low + scale * middle_code(*codes)).to(zero_point_dtype or input.dtype)
    elif zero_point_domain is ZeroPointDomain.INT and mapping_type is MappingType.ASYMMETRIC:
        zero = (codes[0] - torch.round(low / scale)).clamp(*codes).to(zero_point_dtype or torch.int32)
    elif zero_point_domain is ZeroPointDomain.INT:
        zero = torch.full_like(scale, int(middle_code(*codes)), dtype=zero_point_dtype)
    scale = scale.to(scale_dtype or input.dtype)
    check_finite("A scale or zero point", scale, *(() if zero is None else (zero,)), mend="use float32")
    return scale, zero


def _block_scale(mapping_type: MappingType, low: Tensor, high: Tensor, codes: tuple[Code, Code]) -> Tensor:
    """Return the scale that maps each range [low, high] to the codes, before `eps`."""
    if mapping_type is MappingType.ASYMMETRIC:
        return (high - low) / float(codes[1] - codes[0])
    if mapping_type is MappingType.SYMMETRIC:
        return torch.maximum(-low, high) / (float(codes[1] - codes[0]) / 2)
    return torch.maximum(low / float(codes[0]), high / float(codes[1]))


@torch.no_grad()
def quantize_affine(
    input: Tensor,
    block_size: tuple[int, ...],
    scale: Tensor,
    zero_point: Tensor | None,
    output_dtype: torch.dtype,
    quant_min: int | float | None = None,
    quant_max: int | float | None = None,
    zero_point_domain: ZeroPointDomain = ZeroPointDomain.INT,
) -> Tensor:
    """Return the codes of a tensor (torchao 0.11's signature and, in the input's dtype, its results).

    INT: round(w * (1 / scale)) + zp. FLOAT: round((w - (zero - middle * scale)) / scale). NONE: round(w * (1 / scale))
    + middle, where the middle code is 0 for -8..7 and 8 for 0..15. All are clamped to the codes.

    Args:
        input: float32, bfloat16 or float16 of any shape.
        block_size: Sizes of a block, one for each dimension of `input`; -1 takes the whole dimension.
        scale: One value for each block.
        zero_point: One value for each block, or None with NONE.
        output_dtype: Integer dtype of the codes; torch.uint1 to uint7 come as uint8.
        quant_min: Lowest code; None takes the dtype's.
        quant_max: Highest code; None takes the dtype's.
        zero_point_domain: What the zero point means: see `choose_qparams_affine`.

    Returns:
        Codes of the input's shape.

    Raises:
        WeightError: for NaN or infinity, a scale that cannot be divided by, or blocks that do not divide the shape.
        ConfigError: for settings that contradict each other.
    """
    check_float("input", input.dtype)
    codes = code_range(output_dtype, quant_min, quant_max)
    zero_point = _present(zero_point)
    check_domain(zero_point_domain, zero_point, needed=True)
    view, per_block, _ = split_blocks(input.shape, block_size)
    grouped = input.reshape(view)
    check_finite("input", grouped.amin(), grouped.amax())
    scale = per_block_view("scale", scale, per_block)
    check_finite("scale", scale)
    if bool((scale == 0).any()):
        raise WeightError("scale holds 0.", allowed="scales other than 0", mend="give choose_qparams_affine an eps")
    if zero_point_domain is not ZeroPointDomain.FLOAT:
        check_finite("1 / scale", 1.0 / scale, mend="use float32, or scales further from 0")
    zero = 0 if zero_point is None else per_block_view("zero_point", zero_point, per_block)
    if zero_point_domain is ZeroPointDomain.FLOAT:
        base = zero - scale * middle_code(*codes)
        check_finite("The value of the lowest code", base, mend="use float32")
        values = torch.round((grouped - base) / scale)
    elif zero_point_domain is ZeroPointDomain.INT:
        values = torch.round(grouped * (1.0 / scale)) + zero
    else:
        values = torch.round(grouped * (1.0 / scale)) + int(middle_code(*codes))
    stored = torch.uint8 if output_dtype in SUB_BYTE_UNSIGNED else output_dtype
    return values.clamp(*codes).reshape(input.shape).to(stored)


def dequantize_affine(
    input: Tensor,
    block_size: tuple[int, ...],
    scale: Tensor,
    zero_point: Tensor | None,
    input_dtype: torch.dtype,
    quant_min: int | float | None = None,
    quant_max: int | float | None = None,
    zero_point_domain: ZeroPointDomain = ZeroPointDomain.INT,
    *,
    output_dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Return the values of codes (torchao 0.11's signature and results).

    INT: (q - zp) * scale. FLOAT: (q - middle) * scale + zero. NONE: (q - middle) * scale. The difference is rounded to
    `output_dtype`, then the product, then the sum.

    Args:
        input: Codes of any shape.
        block_size: Sizes of a block, one for each dimension of `input`; -1 takes the whole dimension.
        scale: One value for each block.
        zero_point: One value for each block; None is 0, and has to be None with NONE.
        input_dtype: dtype of the codes; torch.uint1 to uint7 mean uint8.
        quant_min: Lowest code; None takes the dtype's.
        quant_max: Highest code; None takes the dtype's.
        zero_point_domain: What the zero point means: see `choose_qparams_affine`.
        output_dtype: float32, bfloat16 or float16.

    Returns:
        Values of the input's shape in `output_dtype`.

    Raises:
        WeightError: for codes of another dtype or outside their range, or blocks that do not divide the shape.
        ConfigError: for settings that contradict each other.
    """
    check_float("output_dtype", output_dtype)
    codes = code_range(input_dtype, quant_min, quant_max)
    zero_point = _present(zero_point)
    check_domain(zero_point_domain, zero_point, needed=False)
    view, per_block, _ = split_blocks(input.shape, block_size)
    _check_codes(input, input_dtype, codes)
    grouped = input.reshape(view)
    scale = per_block_view("scale", scale, per_block)
    zero = None if zero_point is None else per_block_view("zero_point", zero_point, per_block)
    if zero_point_domain is ZeroPointDomain.FLOAT:
        values = ((grouped.float() - middle_code(*codes)).to(output_dtype) * scale).to(output_dtype)
        values = values if zero is None else values + zero
    else:
        none = zero_point_domain is ZeroPointDomain.NONE
        offset = int(middle_code(*codes)) if none else 0 if zero is None else zero.to(torch.int32)
        values = (grouped.to(torch.int32) - offset).to(output_dtype) * scale
    return values.to(output_dtype).reshape(input.shape)


def _present(zero_point: Tensor | None) -> Tensor | None:
    """Return the zero point, or None for one without elements, as torchao has it."""
    return None if zero_point is None or zero_point.numel() == 0 else zero_point


def _check_codes(values: Tensor, dtype: torch.dtype, codes: tuple[Code, Code]) -> None:
    stored = torch.uint8 if dtype in SUB_BYTE_UNSIGNED else dtype
    if values.dtype != stored:
        raise WeightError(f"The codes are {values.dtype}.", allowed=f"{stored} for input_dtype={dtype}")
    least, most = int(values.min()), int(values.max())
    if least < codes[0] or most > codes[1]:
        raise WeightError(
            f"The codes run from {least} to {most}.",
            allowed=f"{codes[0]} to {codes[1]} (quant_min to quant_max)",
        )
