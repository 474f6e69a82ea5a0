"""Compile the Triton kernels for GPUs that are not there, and print what became of them, a JSON object to a line.

Run it in a process of its own: `python -m tests.peers.triton_compiling`. Triton carries the assembler for all GPUs.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from workbench.triton import jit as triton_jit
from workbench.triton import products as triton_products
from workbench.triton.blocks import LARGE, SMALL

DUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
TYPES = {"x": "*bf16", "packed": "*i32", "scales": "*i32", "out": "*bf16", "partial": "*fp32"}
ALIGNED = ("x", "packed", "scales", "out", "partial", "N", "K")  # multiples of 16, as large tensors are


def compiled(kernel, constants, capability, warps=4, stages=3, **types):
    names = kernel.arg_names
    kinds = {name: "constexpr" if name in constants else {**TYPES, **types}.get(name, "i32") for name in names}
    source = ASTSource(
        kernel,
        signature=kinds,
        constexprs={(names.index(name),): value for name, value in constants.items()},
        attrs={(names.index(name),): [["tt.divisibility", 16]] for name in ALIGNED if name in names},
    )
    target = GPUTarget("cuda", capability, 32)
    return triton.compile(source, target=target, options={"num_warps": warps, "num_stages": stages})


def fused(size, capability, inner_k_tiles=8, group_size=64, out="*bf16"):
    constants = {
        "GROUP": group_size,
        "INNER_K_TILES": inner_k_tiles,
        "BLOCK_M": size.m,
        "BLOCK_N": size.n,
        "BLOCK_K": size.k,
        "EARLY": capability >= 90,
    }
    if size.parts > 1:
        kernel, constants = triton_products.few_rows_kernel, {**constants, "PARTS": size.parts, "WHOLE": True}
    else:
        kernel, constants = (
            triton_products.fused_kernel,
            {**constants, "TOGETHER": 8, "SWAP": capability not in (90, 100)},
        )
    return compiled(kernel, constants, capability, size.warps, size.stages, out=out)


def dequantize(capability, inner_k_tiles, group_size, out):
    constants = {"GROUP": group_size, "INNER_K_TILES": inner_k_tiles, "BLOCK_N": 32, "BLOCK_K": 128}
    return compiled(triton_jit.dequantize_kernel, constants, capability, out=out)


def report(what, capability, made):
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(made.asm["cubin"])
        file.flush()
        usage = subprocess.run([DUMP, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    registers, stack = (int(re.search(rf"{name}:(\d+)", usage)[1]) for name in ("REG", "STACK"))
    loop = made.asm["ttgir"].partition("scf.for")[2].partition("scf.yield")[0]
    found = {
        "what": what,
        "capability": capability,
        "registers": registers,
        "stack_bytes": stack,
        "shared_bytes": made.metadata.shared,
        "wgmma": "wgmma.mma_async" in made.asm["ptx"],
        "weights_in_shared": "ttg.local_alloc" in loop or "ttg.local_store" in loop,
        "matrix_unit": "mma" in made.asm["ptx"],
        "loads_ahead": "ttg.async_copy_global_to_local" in loop,
    }
    sys.stdout.write(json.dumps(found) + "\n")


def main():
    for table, capabilities in (("LARGE", (90,)), ("SMALL", (80, 86, 100, 120))):
        sizes = {"LARGE": LARGE, "SMALL": SMALL}[table]
        for capability in capabilities:
            for most, size in sizes.items():
                kind = "few rows" if size.parts > 1 else "fused"
                report(f"{kind} {table} {most}", capability, fused(size, capability))
    for tiles in (2, 4):
        report(f"fused LARGE 64, inner_k_tiles {tiles}", 90, fused(LARGE[64], 90, tiles, 128, "*fp32"))
        report(f"few rows LARGE 8, inner_k_tiles {tiles}", 90, fused(LARGE[8], 90, tiles, 128))
    report("few rows of a long K", 90, fused(replace(LARGE[8], parts=8, stages=3), 90))
    for tiles, group_size, out in ((2, 32, "*bf16"), (4, 256, "*fp16"), (8, 64, "*bf16"), (8, 32, "*fp32")):
        report(f"dequantize {tiles} {group_size} {out}", 90, dequantize(90, tiles, group_size, out))
    report("sum", 90, compiled(triton_products.sum_splits_kernel, {"SPLITS": 4, "BLOCK": 256, "EARLY": True}, 90))


if __name__ == "__main__":
    main()
