"""Live against torchao 0.11: the affine primitives over many seeds, and the configuration's fields and defaults."""

from __future__ import annotations

import ast
import dataclasses
import inspect
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from torchao.quantization import Int4WeightOnlyConfig as ReferenceConfig
from torchao.quantization import quant_primitives as torchao

import workbench as wb

TORCHAO_0_12 = Path(__file__).parents[2] / ".venv-peers" / "torchao-0.12" / "torchao"
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
NAMES = ["choose_qparams_affine", "quantize_affine", "dequantize_affine"]


def test_the_peers_are_the_pinned_ones():
    assert (version("torchao"), version("hqq")) == ("0.11.0", "0.2.8.post1")


def random_case(seed, dtype):
    """A weight of some distribution with blocks of any size in any of its dimensions."""
    generator = torch.Generator().manual_seed(seed)

    def pick(*options):
        return options[int(torch.randint(len(options), (), generator=generator))]

    group = pick(2, 8, 32, 64, 128, 256)
    shape = (pick(1, 3, 16), pick(1, 2, 5) * group)
    values = torch.randn(shape, generator=generator, dtype=torch.float64)
    values = pick(
        values, values**3, values.abs() + 1, values.sign(), values * 1e-5, torch.zeros_like(values), -(values**2)
    )
    offset = pick(0.0, 0.0, 0.3, -7.0)
    return (values * pick(0.01, 1.0, 30.0) + offset).to(dtype), (1, group)


def answers(module, values, mapping, block, domain, preserve_zero, codes, eps):
    """Scale, zero point, codes and values in two dtypes, each step on the one before."""
    target = torch.int8 if codes[0] < 0 else torch.uint8
    kind = module.ZeroPointDomain[domain]
    scale, zero = module.choose_qparams_affine(
        values,
        module.MappingType[mapping],
        block,
        target,
        *codes,
        eps,
        preserve_zero=preserve_zero,
        zero_point_domain=kind,
    )
    quantized = module.quantize_affine(values, block, scale, zero, target, *codes, kind)
    back = [
        module.dequantize_affine(quantized, block, scale, zero, target, *codes, kind, output_dtype=dtype)
        for dtype in (torch.float32, values.dtype)
    ]
    return [scale, *([] if zero is None else [zero]), quantized, *back]


SETTINGS = [
    ("ASYMMETRIC", "FLOAT", False, (0, 15)),
    ("ASYMMETRIC", "FLOAT", True, (0, 15)),
    ("ASYMMETRIC", "INT", False, (0, 15)),
    ("ASYMMETRIC", "INT", True, (0, 15)),
    ("ASYMMETRIC", "INT", True, (-8, 7)),
    ("SYMMETRIC", "INT", True, (-8, 7)),
    ("SYMMETRIC", "NONE", True, (-8, 7)),
    ("SYMMETRIC_NO_CLIPPING_ERR", "NONE", True, (-8, 7)),
    ("ASYMMETRIC", "INT", True, (None, None)),
]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("mapping", "domain", "preserve_zero", "codes"), SETTINGS)
def test_the_primitives_answer_as_torchao_bit_for_bit(mapping, domain, preserve_zero, codes, dtype):
    codes = (0, 255) if codes == (None, None) else codes
    compared = 0
    for seed in range(200):
        values, block = random_case(seed, dtype)
        arguments = (values, mapping, block, domain, preserve_zero, codes, [None, 1e-6, 1e-3][seed % 3])
        try:
            ours = answers(wb, *arguments)
        except wb.WorkbenchError:
            assert refused_for_good_reason(*arguments)
            continue
        for mine, theirs in zip(ours, answers(torchao, *arguments), strict=True):
            assert mine.dtype == theirs.dtype and mine.shape == theirs.shape
            assert torch.equal(mine.view(torch.uint8), theirs.contiguous().view(torch.uint8)), f"seed {seed}"
        compared += 1
    assert compared >= 150


def refused_for_good_reason(values, mapping, block, domain, preserve_zero, codes, eps):
    """Whether torchao divided by what its dtype rounds to 0, or lost the values for another reason."""
    scale, *_, back = answers(torchao, values, mapping, block, domain, preserve_zero, codes, eps)
    return not (1 / scale).isfinite().all() or not back.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_signatures(name):
    ours = inspect.signature(getattr(wb, name)).parameters.values()
    theirs = inspect.signature(getattr(torchao, name)).parameters.values()
    assert [(p.name, p.kind, named(p.default)) for p in ours] == [(p.name, p.kind, named(p.default)) for p in theirs]


def named(value):
    """An enum's member by its name, another value as it is: the enums are classes of their own on each side."""
    return getattr(value, "name", value)


@pytest.mark.parametrize("name", ["MappingType", "ZeroPointDomain"])
def test_enums(name):
    assert [member.name for member in getattr(wb, name)] == [member.name for member in getattr(torchao, name)]


def test_the_configuration_has_torchao_0_11_s_fields_and_defaults():
    theirs, ours = ReferenceConfig(), wb.Int4WeightOnlyConfig()
    names = [field.name for field in dataclasses.fields(theirs)]
    assert [field.name for field in dataclasses.fields(ours)] == names
    for name in names:
        if name == "layout":
            assert dataclasses.asdict(ours.layout) == dataclasses.asdict(theirs.layout)
            assert type(ours.layout).__name__ == type(theirs.layout).__name__
        else:
            assert named(getattr(ours, name)) == named(getattr(theirs, name))


def test_the_configuration_has_torchao_0_12_s_fields_and_defaults():
    """Read from its source: 0.12 does not import under the torch that the workbench needs."""
    tree = ast.parse((TORCHAO_0_12 / "quantization" / "quant_api.py").read_text(encoding="utf-8"))
    (found,) = (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Int4WeightOnlyConfig")
    fields = {node.target.id: ast.unparse(node.value) for node in found.body if isinstance(node, ast.AnnAssign)}
    ours = {
        field.name: getattr(wb.Int4WeightOnlyConfig(), field.name)
        for field in dataclasses.fields(wb.Int4WeightOnlyConfig)
    }
    assert list(ours) == list(fields)
    assert {name: source(value) for name, value in ours.items()} == fields


def source(value):
    return f"ZeroPointDomain.{value.name}" if isinstance(value, wb.ZeroPointDomain) else repr(value)
