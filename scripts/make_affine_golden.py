"""Write tests/data/affine_torchao_0_11.safetensors: what torchao 0.11's affine primitives really answer.

Run it in the environment that `make peers` makes: .venv-peers/bin/python scripts/make_affine_golden.py
Each case has its arguments as JSON in the file's metadata, and its tensors under "<case>/<name>".
"""

from __future__ import annotations

import itertools
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

PATH = Path(__file__).resolve().parents[1] / "tests" / "data" / "affine_torchao_0_11.safetensors"
DTYPES = ("float32", "bfloat16", "float16")
# (shape, block size): every group size of the int4 kernels, tiny groups, a whole row, and blocks of several dimensions
BLOCKS = (
    ((3, 64), (1, 32)),
    ((2, 192), (1, 64)),
    ((2, 256), (1, 128)),
    ((1, 512), (1, 256)),
    ((5, 6), (1, 2)),
    ((4, 33), (1, 33)),
    ((2, 3, 40), (1, 3, 8)),
)
KINDS = ("normal", "heavy-tailed", "positive", "negative", "constant", "zero", "tiny")
# (zero-point domain, preserve_zero, target dtype, eps)
SETTINGS = (
    ("FLOAT", False, "int32", 1e-6),
    ("FLOAT", True, "uint8", None),
    ("INT", False, "uint8", None),
    ("INT", True, "int32", None),
)


def make_input(kind: str, shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    normal = torch.randn(shape, generator=generator, dtype=torch.float64) * 0.05
    values = {
        "normal": normal,
        "heavy-tailed": normal.sign() * (normal.abs() * 20).exp() * 0.01,
        "positive": normal.abs() + 0.5,
        "negative": -normal.abs() - 0.25,
        "constant": torch.full_like(normal, 0.7),
        "zero": torch.zeros_like(normal),
        "tiny": normal * 1e-4,
    }[kind]
    return values.to(dtype)


def answer(case: dict[str, Any], values: Tensor) -> dict[str, Tensor]:
    """Call the three primitives one after the other, as torchao's own int4 quantization does."""
    from torchao.quantization import quant_primitives as torchao

    domain = torchao.ZeroPointDomain[case["zero_point_domain"]]
    target, codes = getattr(torch, case["target_dtype"]), (case["quant_min"], case["quant_max"])
    block = tuple(case["block_size"])
    scale, zero = torchao.choose_qparams_affine(
        values,
        torchao.MappingType.ASYMMETRIC,
        block,
        target,
        *codes,
        case["eps"],
        preserve_zero=case["preserve_zero"],
        zero_point_domain=domain,
    )
    quantized = torchao.quantize_affine(values, block, scale, zero, target, *codes, domain)
    found = {"input": values, "scale": scale, "zero_point": zero, "codes": quantized.to(torch.uint8)}
    for name in {"float32", case["dtype"]}:
        found[f"dequantized.{name}"] = torchao.dequantize_affine(
            quantized, block, scale, zero, target, *codes, domain, output_dtype=getattr(torch, name)
        )
    return found


def main() -> None:
    assert version("torchao").startswith("0.11."), f"torchao {version('torchao')} is not the reference: 0.11 is"
    tensors: dict[str, Tensor] = {}
    cases: dict[str, dict[str, Any]] = {}
    for index, (dtype, kind, setting) in enumerate(itertools.product(DTYPES, KINDS, SETTINGS)):
        for shape, block in (BLOCKS[index % len(BLOCKS)], BLOCKS[(index // 4 + 3) % len(BLOCKS)]):
            domain, preserve_zero, target, eps = setting
            case = {
                "dtype": dtype,
                "block_size": block,
                "target_dtype": target,
                "quant_min": 0,
                "quant_max": 15,
                "eps": eps,
                "preserve_zero": preserve_zero,
                "zero_point_domain": domain,
            }
            name = f"{kind}.{dtype}.{domain}.{'preserve' if preserve_zero else 'free'}.{'x'.join(map(str, block))}"
            found = answer(case, make_input(kind, shape, getattr(torch, dtype), seed=index))
            assert all(value.isfinite().all() for value in found.values()), f"{name}: torchao's answer is not finite"
            cases[name] = case
            tensors.update({f"{name}/{key}": value.contiguous() for key, value in sorted(found.items())})
    save_file(tensors, PATH, metadata={"cases": json.dumps(cases, sort_keys=True)})  # two keys come in any order
    print(f"{len(cases)} cases, {PATH.stat().st_size} bytes: {PATH.name}")


if __name__ == "__main__":
    main()
