"""Folders of other libraries, packed by loops that follow their definitions."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
IN_ORDER = tuple(range(8))


def folder(path: Path, tensors: dict[str, torch.Tensor], quantization: dict, **config) -> Path:
    """Write a folder with these tensors."""
    path.mkdir(exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path / "model.safetensors")
    text = {"model_type": "llama", "dtype": "float16", **config, "quantization_config": quantization}
    (path / "config.json").write_text(json.dumps(text))
    return path


def packed_rows(values: torch.Tensor, order=IN_ORDER) -> torch.Tensor:
    """Pack along the last dimension, word by word."""
    rows, columns = values.shape
    words = torch.zeros(rows, -(-columns // 8), dtype=torch.int64)
    for row in range(rows):
        for column in range(columns):
            words[row, column // 8] |= int(values[row, column]) << (4 * order.index(column % 8))
    return torch.where(words >= 2**31, words - 2**32, words).to(torch.int32)


def parts(n: int, k: int, groups: int, *, zero_below: int = 16) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Random codes [N, K], zero points [N, groups] and float16 scales [N, groups]."""
    generator = torch.Generator().manual_seed(5)
    codes = torch.randint(0, 16, (n, k), dtype=torch.uint8, generator=generator)
    zero = torch.randint(0, zero_below, (n, groups), dtype=torch.uint8, generator=generator)
    return codes, zero, (torch.rand(n, groups, generator=generator) * 0.01).half()


def dequantized(codes, zero, scale, group_size):
    """(q - zero) * scale in float32."""
    columns = torch.arange(codes.shape[1]) // group_size
    return (codes.float() - zero.float()[:, columns]) * scale.float()[:, columns]


def only_weight(contents):
    """The single int4 weight of a folder."""
    (weight,) = [part.weight for part in contents.parts() if part.weight is not None]
    return weight
