"""Give `int4_linear` everything that the CUDA op leaves unchecked, in a process of its own, and print what was said.

The op would read out of bounds, hang or poison the process: `python -m tests.cuda.bad_inputs refused cuda` ends alone.
"""

from __future__ import annotations

import json
import sys

import torch

from tests.oracles import random_weight
from workbench.choice import available_paths
from workbench.kernels import int4_linear
from workbench.layout import Layout
from workbench.packed import PackedWeight, pack_weight
from workbench.packing import pack

N, K, GROUP = 64, 256, 64


def bfloat16(*shape, device):
    return torch.ones(shape, dtype=torch.bfloat16, device=device)


def bad_weights(device):
    """Name → what is changed in a good weight [64, 256]."""
    sz = "scales_and_zeros"
    codes = torch.zeros(N, K, dtype=torch.uint8)
    other = Layout("rocm", 8) if device == "cuda" else Layout("cuda", 8)
    tiles = {4: pack(codes, Layout("cuda", 4)).to(device), 8: pack(codes, Layout("cuda", 8)).to(device)}
    return {
        "group size 48": {"group_size": 48},
        "group size 0": {"group_size": 0},
        "another group size": {"group_size": 128},
        "another K": {"in_features": 512},
        "another N": {"out_features": 128},
        "float32 scales": {sz: bfloat16(4, N, 2, device=device).float()},
        "float16 scales": {sz: bfloat16(4, N, 2, device=device).half()},
        "too few groups": {sz: bfloat16(2, N, 2, device=device)},
        "no groups": {sz: bfloat16(0, N, 2, device=device)},
        "too many groups": {sz: bfloat16(6, N, 2, device=device)},
        "scales of fewer rows": {sz: bfloat16(4, N - 8, 2, device=device)},
        "no zeros": {sz: bfloat16(4, N, 1, device=device)},
        "flat scales": {sz: bfloat16(4, N, device=device)},
        "strided scales": {sz: bfloat16(N, 4, 2, device=device).transpose(0, 1)},
        "scales elsewhere": {sz: bfloat16(4, N, 2, device="meta")},
        "codes elsewhere": {"packed": torch.zeros(8, 2, 32, 4, dtype=torch.int32, device="meta")},
        "unpacked codes": {"packed": codes.to(device)},
        "codes of fewer rows": {"packed": tiles[8][:-1]},
        "strided codes": {"packed": torch.cat((tiles[8], tiles[8]))[::2]},
        "codes of another tile count": {"packed": tiles[4]},
        "codes for another device": {"layout": other, "packed": tiles[8]},
    }


def bad_activations(device):
    return {
        "int8 activation": torch.zeros(3, K, dtype=torch.int8, device=device),
        "another width": bfloat16(3, K - 1, device=device),
        "no dimension": bfloat16(device=device),
        "activation elsewhere": bfloat16(3, K, device="meta"),
    }


def said(call):
    try:
        call()
    except Exception as error:
        return [type(error).__name__, str(error)]
    return ["nothing", ""]


def multiply_changed(good, change, path):
    fields = ("packed", "scales_and_zeros", "layout", "out_features", "in_features", "group_size")
    weight = PackedWeight(*(change.get(name, getattr(good, name)) for name in fields))
    x = torch.ones(3, weight.in_features, dtype=torch.bfloat16, device=good.packed.device)
    return int4_linear(x, weight, path=path)


def main(device):
    good = pack_weight(random_weight(N, K, GROUP), device)
    found = {}
    for path in available_paths(device):
        for name, change in bad_weights(device).items():
            found[f"{path}: {name}"] = said(lambda change=change, path=path: multiply_changed(good, change, path))
        for name, x in bad_activations(device).items():
            found[f"{path}: {name}"] = said(lambda x=x, path=path: int4_linear(x, good, path=path))
    x = torch.ones(3, K, dtype=torch.bfloat16, device=device)
    found["a path that there is not"] = said(lambda: int4_linear(x, good, path="best"))
    assert int4_linear(x, good).isfinite().all().item(), "the process still multiplies"
    sys.stdout.write(json.dumps(found))


def misaligned(device):
    """Activations that start in the middle of a word: no path may read them as if they did not."""
    good = pack_weight(random_weight(N, K, GROUP), device)
    for path in available_paths(device):
        for m in (1, 20):
            x = torch.randn(m, K, generator=torch.Generator().manual_seed(m)).to(device, torch.bfloat16)
            shifted = torch.zeros(m * K + 1, dtype=torch.bfloat16, device=device)[1:].view(m, K).copy_(x)
            same = torch.equal(int4_linear(shifted, good, path=path), int4_linear(x, good, path=path))
            assert same, f"{path} misreads activations that start in the middle of a word"


if __name__ == "__main__":
    {"refused": main, "misaligned": misaligned}[sys.argv[1]](sys.argv[2])
