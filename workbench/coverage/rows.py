"""The row of one weight: its bytes before and after, and what is said of how it is stored."""

from __future__ import annotations

from dataclasses import replace

import torch

from workbench.affine import group_count
from workbench.config import ResolvedConfig
from workbench.kinds import STACK
from workbench.packed import padding_bits, padding_note
from workbench.records.layers import CoverageRow, LayerRecord


def dense_row(record: LayerRecord, reason: str) -> CoverageRow:
    """Return the row of a weight that stays dense, and why."""
    bits = 8.0 * record.dense_bytes / max(1, record.parameters)
    if record.tied_to is not None:
        reason = f"tied to {record.tied_to}"
        bits = 0.0
    return CoverageRow(
        record.name,
        record.kind,
        record.shape,
        record.parameters,
        "dense",
        reason + _on_the_way(record, record.dense_bytes),
        record.size_bytes,
        record.dense_bytes,
        bits,
    )


def int4_row(record: LayerRecord, config: ResolvedConfig, reason: str, device: torch.device | str) -> CoverageRow:
    """Return the row of a weight that becomes int4: how, by which rule, and what it costs."""
    after = planned_bytes(record, config)
    how = f"g{config.group_size} {config.domain} {config.solver}{_short_group(record, config)}"
    return CoverageRow(
        record.name,
        record.kind,
        record.shape,
        record.parameters,
        "int4",
        f"{reason}: {how}{_on_the_way(record, after)}{_adapted(record)}",
        record.size_bytes,
        after,
        8.0 * after / record.parameters,
        _padding(record, config, device),
    )


def planned_bytes(record: LayerRecord, config: ResolvedConfig) -> int:
    """Bytes of a weight in the portable form, scales and zero points included."""
    n, k = record.matrix
    scale = config.scale_dtype.itemsize
    zero = {"float": scale, "int": 1, "symmetric": 0}[config.domain]
    return n * ((k + 1) // 2) + n * group_count(k, config.group_size) * (scale + zero)


def _on_the_way(record: LayerRecord, after_bytes: int) -> str:
    """Say what a weight is dequantized from; its bytes may then grow, for nothing here runs in the stored format."""
    if not record.stored_format:
        return ""
    grows = f", {after_bytes / record.size_bytes:.2f} times its bytes" if after_bytes > record.size_bytes else ""
    return f"; stored in {record.stored_format}: dequantized to {record.dtype} on the way{grows}"


def _padding(record: LayerRecord, config: ResolvedConfig, device: torch.device | str) -> str:
    """Say what the kernel's layout pads, and what that costs in memory; "" for nothing."""
    (n, k), g, tiles = record.shape[-2:], config.group_size, config.inner_k_tiles
    note = padding_note(n, k, g, device, tiles)
    return note and f"{note} (+{padding_bits(n, k, g, device, tiles):.2f} bits in memory)"


def _short_group(record: LayerRecord, config: ResolvedConfig) -> str:
    """Say that the last group of a row is short, and what that costs in stored bits; "" where K divides."""
    k = record.shape[-1]
    if k % config.group_size == 0:
        return ""
    whole = replace(record, shape=(1, config.group_size), size_bytes=0)
    extra = 8 * planned_bytes(record, config) / record.parameters - 8 * planned_bytes(whole, config) / config.group_size
    return f", last group of {k % config.group_size} (+{extra:.2f} bits)"


def _adapted(record: LayerRecord) -> str:
    return "; its module's own forward multiplies with a stand-in for the parameter" if record.kind == STACK else ""
