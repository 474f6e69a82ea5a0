"""The layout that the int4 op of a device reads in this process."""

from __future__ import annotations

import functools

import torch

from workbench.errors import EnvironmentProblem, KernelError
from workbench.layout import CPU_VARIANTS, Layout
from workbench.packing import pack

_PROBE_ROWS = 64


def required_layout(device: torch.device | str, inner_k_tiles: int = 8) -> Layout:
    """Return the layout that the int4 op of `device` reads in this process.

    Raises:
        KernelError: for a device without an int4 op in PyTorch that the workbench knows.
    """
    device = torch.device(device)
    if device.type == "cuda":
        return Layout("cuda" if torch.version.hip is None else "rocm", inner_k_tiles)
    if device.type == "cpu":
        return _cpu_layout()
    raise KernelError(
        f"There is no packed int4 layout for the device {str(device)!r}.",
        allowed="cpu, cuda (ROCm included)",
        mend="weights on other devices are dequantized at every call",
    )


@functools.cache
def _cpu_layout() -> Layout:
    """Find the layout of this process's CPU op by packing known blocks and looking.

    64 rows of 2 columns tell all four apart, by block size and pairing; each row's number goes in as two nibbles.
    """
    probe = torch.arange(_PROBE_ROWS, dtype=torch.int32)
    low, high = (probe % 16)[:, None].expand(-1, 2), (probe // 16)[:, None].expand(-1, 2)
    try:
        seen = [torch.ops.aten._convert_weight_to_int4pack_for_cpu(part.contiguous(), 1) for part in (low, high)]
    except (AttributeError, RuntimeError, NotImplementedError) as error:
        raise EnvironmentProblem(
            f"This PyTorch ({torch.__version__}) has no int4 packing op for the CPU ({error}).",
            allowed="torch 2.11 or newer",
            mend="pip install --upgrade torch",
        ) from None
    for variant in CPU_VARIANTS:
        layout = Layout("cpu", variant=variant)
        made = [pack(part.to(torch.uint8).contiguous(), layout) for part in (low, high)]
        if all(torch.equal(ours.view(-1), theirs.view(-1)) for ours, theirs in zip(made, seen, strict=True)):
            return layout
    raise EnvironmentProblem(
        f"PyTorch {torch.__version__} packs int4 weights for the CPU in a layout that is not known.",
        allowed=", ".join(CPU_VARIANTS),
        mend="report it with the CPU's name, and run the weights dequantized until then",
    )
