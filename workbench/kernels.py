"""The int4 product of every device: it checks what the kernels leave unchecked, pads, casts and takes the fastest path.

PyTorch's op and our own kernels read out of bounds, corrupt neighbouring codes or end the process on bad input, without
a message. Each precondition is therefore checked here, in Python, on every call; it costs microseconds.
"""

from __future__ import annotations

import functools
import os
import platform
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

import workbench
from workbench.cuda_paths import has_fused_path, tiles_note
from workbench.dequantize import blockwise_gradient, blockwise_linear
from workbench.errors import KernelError
from workbench.machine import device_capability, device_name
from workbench.native import native_kernels, native_note
from workbench.packed import INT4_OPS, PackedWeight, has_kernel, readable_layout
from workbench.packing import Layout
from workbench.paths import PathName, PathTable, choose_path, load_table
from workbench.triton_kernels import fused_linear

MAX_ELEMENTS_PER_CALL = 2**31 - 1  # the CPU op's offsets are 32-bit: larger weights are split along N
_SPLIT_ROWS = 64  # a multiple of every CPU layout's block of N
_FLOATS = (torch.bfloat16, torch.float16, torch.float32, torch.float64)


def int4_linear(x: Tensor, weight: PackedWeight, *, path: PathName | None = None) -> Tensor:
    """Multiply x @ W.T by the fastest path for the rows of x, as `choose_path` finds it.

    Args:
        x: float [..., K]; float16, float32 and float64 are rounded to bfloat16 inside and the result cast back.
        weight: The packed weight [N, K], on the same device.
        path: Takes this path whatever the table says.

    Returns:
        [..., N] in x's dtype (autocast's, under autocast). Its gradient with respect to x is defined.

    Raises:
        KernelError: when a precondition does not hold, or this machine has no such path.
    """
    _check_activation(x, weight)
    if not x.is_meta and torch.is_autocast_enabled(device_type := x.device.type) and x.dtype != torch.float64:
        x = x.to(torch.get_autocast_dtype(device_type))
    if _is_plain(x):
        return _product(x, weight, path)
    layout = weight.layout
    tensors = (weight.packed, weight.scales_and_zeros)
    sizes = (weight.group_size, weight.out_features, weight.in_features)
    return _operate("int4_linear", x, *tensors, *sizes, _layout_text(layout), path or "")


def available_paths(device: torch.device | str, layout: Layout | None = None) -> tuple[PathName, ...]:
    """Return the paths that this machine has on `device`, for the layout of its op unless another is given."""
    device = torch.device(device)
    if not has_kernel(device):
        return ("dequantize",)
    if device.type != "cpu":
        layout = layout or readable_layout(device.type, 8)
        return ("op", "fused", "dequantize") if has_fused_path(device, layout) else ("op", "dequantize")
    native = native_kernels()
    layout = layout or readable_layout("cpu", 8)
    return ("op", "fused", "dequantize") if native and native.fits(layout) else ("op", "dequantize")


def chosen_path(weight: PackedWeight, batch: int, dtype: torch.dtype = torch.bfloat16) -> PathName:
    """Return the path that `int4_linear` takes for `batch` rows of `dtype`."""
    shape = (weight.out_features, weight.in_features, weight.group_size)
    return _chosen(weight.packed.device, weight.layout, dtype, *shape, batch)


@functools.lru_cache(maxsize=4096)
def _chosen(
    device: torch.device, layout: Layout | None, dtype: torch.dtype, n: int, k: int, group_size: int, batch: int
) -> PathName:
    paths = available_paths(device, layout)
    if layout is None or len(paths) == 1:
        return "dequantize"
    table = current_table(device.type)
    chosen = choose_path(table, dtype=_NAMES[dtype], n=n, k=k, group_size=group_size, batch=batch)
    return chosen if chosen in paths else "dequantize"


@functools.cache
def current_table(device_type: str) -> PathTable:
    """Return the table that decides on a kind of device: the measured one of the user's cache, or the defaults."""
    return load_table(table_kind(device_type), table_machine(device_type), device_type)


def forget_tables() -> None:
    """Read the measured tables again, and choose anew, from the next product on."""
    current_table.cache_clear()
    _chosen.cache_clear()


def table_kind(device_type: str) -> str:
    """Return which built-in defaults hold for a kind of device here (see `workbench.paths.DEFAULTS`)."""
    if device_type != "cpu":
        return "cuda" if device_type in INT4_OPS else "other"
    if "DEFAULT" in device_capability("cpu") and platform.machine().lower() in ("x86_64", "amd64"):
        return "cpu/scalar"
    native = native_kernels()
    if native is None:
        return "cpu/none"
    fused = "fused" in available_paths("cpu")
    return f"cpu/{native.kind}" if fused else "cpu/dequantize"


def table_machine(device_type: str) -> dict[str, str]:
    """Return what a measured table holds for: the device and all versions that change its speed."""
    found = {
        "device": device_name(device_type),
        "capability": device_capability(device_type),
        "torch": torch.__version__,
        "workbench": workbench.__version__,
    }
    return {**found, "cores": str(os.cpu_count())} if device_type == "cpu" else found


def device_note(device: torch.device | str) -> str:
    """Say in a phrase how weights run on `device`."""
    device = torch.device(device)
    if not has_kernel(device):
        return f"{device.type} has no int4 op here ({', '.join(INT4_OPS)} have): weights are dequantized at every call"
    if device.type != "cpu":
        return f"int4 op of {device.type}, bfloat16 inside; large batches {tiles_note(device)}"
    return f"int4 op of cpu, bfloat16 inside; {native_note()}"


def path_note(device: torch.device | str) -> str:
    """Say in a sentence where the choice between the paths of `device` comes from."""
    device = torch.device(device)
    return f"path by batch size: {current_table(device.type).note}" if has_kernel(device) else ""


# --- forward and backward -------------------------------------------------------------------------------------------


def _is_plain(x: Tensor) -> bool:
    """Say whether x is a tensor of numbers that nobody traces, transforms or differentiates."""
    return (
        not torch.compiler.is_compiling()
        and (type(x) is Tensor or type(x) is torch.nn.Parameter)
        and not (x.requires_grad and torch.is_grad_enabled())
        and not torch._C._are_functorch_transforms_active()
    )


def _product(x: Tensor, weight: PackedWeight, path: PathName | None) -> Tensor:
    flat = x.ndim == 2  # a decoding step is not reshaped back and forth
    rows = x if flat else x.reshape(-1, weight.in_features)
    if rows.shape[0] == 0:
        return x.new_zeros((*x.shape[:-1], weight.out_features))
    result = _forward(rows, weight, path)
    return result if flat else result.view(*x.shape[:-1], weight.out_features)


def _forward(rows: Tensor, weight: PackedWeight, path: PathName | None) -> Tensor:
    check_packed(weight)
    chosen = path or chosen_path(weight, rows.shape[0], rows.dtype)
    if path is not None and path not in (paths := available_paths(rows.device, weight.layout)):
        raise KernelError(f"path={path!r} on {rows.device}.", allowed=", ".join(paths), mend=native_note())
    if chosen == "op":
        return _op_path(rows, weight)
    if chosen == "fused":
        return _fused_path(rows, weight)
    return blockwise_linear(rows, weight, _product_dtype(rows, weight))


def _op_path(rows: Tensor, weight: PackedWeight) -> Tensor:
    result = _call_op(_widened(rows, weight), weight.packed, weight.scales_and_zeros, weight.group_size)
    return _narrowed(result, rows, weight)


def _widened(rows: Tensor, weight: PackedWeight) -> Tensor:
    """Return rows as the kernels take them: bfloat16 [M, K_padded], contiguous."""
    inside = rows if rows.dtype == torch.bfloat16 else rows.to(torch.bfloat16)
    if missing := weight.padded[1] - weight.in_features:
        inside = functional.pad(inside, (0, missing))
    return inside.contiguous()


def _narrowed(result: Tensor, rows: Tensor, weight: PackedWeight) -> Tensor:
    """Return a kernel's result [M, N_padded] as the caller wants it: [M, N] in rows' dtype."""
    if weight.padded[0] != weight.out_features:
        result = result[:, : weight.out_features].contiguous()
    return result if rows.dtype == torch.bfloat16 else result.to(rows.dtype)


def _call_op(x: Tensor, packed: Tensor, scales_and_zeros: Tensor, group_size: int) -> Tensor:
    """Run the op, split along N where its 32-bit offsets would overflow."""
    n, k = scales_and_zeros.shape[1], x.shape[1]
    op = INT4_OPS[x.device.type]
    if x.device.type != "cpu" or n * k <= MAX_ELEMENTS_PER_CALL:
        return op(x, packed, group_size, scales_and_zeros)
    step = max(_SPLIT_ROWS, MAX_ELEMENTS_PER_CALL // k // _SPLIT_ROWS * _SPLIT_ROWS)
    pieces = [
        op(x, packed[start : start + step], group_size, scales_and_zeros[:, start : start + step].contiguous())
        for start in range(0, n, step)
    ]
    return torch.cat(pieces, dim=1)


def _fused_path(rows: Tensor, weight: PackedWeight) -> Tensor:
    if rows.device.type != "cpu":
        assert weight.layout is not None and weight.layout.inner_k_tiles is not None
        parts = (weight.packed, weight.scales_and_zeros, weight.group_size, weight.layout.inner_k_tiles)
        return _narrowed(fused_linear(_widened(rows, weight), *parts), rows, weight)
    native = native_kernels()
    assert native is not None
    inside = rows.to(torch.float32) if rows.dtype == torch.float64 else rows
    arguments = (weight.packed, weight.scales_and_zeros, weight.group_size, weight.out_features)
    return native.linear(inside.contiguous(), *arguments).to(rows.dtype)


def _product_dtype(rows: Tensor, weight: PackedWeight) -> torch.dtype:
    """Return what the dequantizing path multiplies in: bfloat16 where the device is good at it."""
    if weight.layout is None:
        return rows.dtype
    return torch.bfloat16 if rows.dtype == torch.bfloat16 or _has_fast_bf16(rows.device.type) else torch.float32


@functools.cache
def _has_fast_bf16(device_type: str) -> bool:
    """Say whether a device multiplies bfloat16 by instructions of its own; without them float32 is faster."""
    if device_type != "cpu":
        return True
    if platform.machine().lower() in ("x86_64", "amd64"):
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()) if torch.backends.mkldnn.is_available() else False


def _gradient(grad: Tensor, weight: PackedWeight) -> Tensor:
    rows = grad.reshape(-1, weight.out_features)
    if rows.shape[0] == 0:
        return grad.new_zeros((*grad.shape[:-1], weight.in_features))
    check_packed(weight)
    wide = rows.dtype in (torch.float32, torch.float64) or weight.layout is None
    result = blockwise_gradient(rows, weight, rows.dtype if wide else torch.bfloat16)
    return result.view(*grad.shape[:-1], weight.in_features)


# --- the operator that torch.compile, torch.export, autograd and vmap see ---------------------------------------------

_ARGUMENTS = (
    "Tensor x, Tensor packed, Tensor scales_and_zeros, int group_size, int out_features, int in_features, str layout"
)
_LIBRARY = torch.library.Library("workbench", "DEF")
_LIBRARY.define(f"int4_linear({_ARGUMENTS}, str path) -> Tensor", tags=(torch.Tag.pt2_compliant_tag,))
_LIBRARY.define(f"int4_linear_gradient({_ARGUMENTS}) -> Tensor", tags=(torch.Tag.pt2_compliant_tag,))


def _layout_text(layout: Layout | None) -> str:
    return "" if layout is None else str(layout)


@functools.cache
def _layout_of(text: str) -> Layout | None:
    return Layout.parse(text) if text else None


def _joined(packed: Tensor, scales_and_zeros: Tensor, group_size: int, n: int, k: int, layout: str) -> PackedWeight:
    return PackedWeight(packed, scales_and_zeros, _layout_of(layout), n, k, group_size)


def _run_linear(x: Tensor, *arguments: Any) -> Tensor:
    weight, path = _joined(*arguments[:-1]), arguments[-1]
    _check_activation(x, weight)
    return _product(x, weight, path or None)


def _run_gradient(grad: Tensor, *arguments: Any) -> Tensor:
    return _gradient(grad, _joined(*arguments))


def _fake_linear(x: Tensor, packed: Tensor, scales_and_zeros: Tensor, group_size: int, n: int, *rest: Any) -> Tensor:
    return x.new_empty((*x.shape[:-1], n))


def _fake_gradient(
    grad: Tensor, packed: Tensor, scales_and_zeros: Tensor, group_size: int, n: int, k: int, layout: str
) -> Tensor:
    return grad.new_empty((*grad.shape[:-1], k))


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, packed, scales_and_zeros, *ctx.rest = inputs
    ctx.save_for_backward(packed, scales_and_zeros)


def _backward_linear(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    rest = ctx.rest[:-1]  # all but the path
    back = _operate("int4_linear_gradient", grad, *ctx.saved_tensors, *rest)
    return (back, *(None for _ in range(7)))


def _backward_gradient(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    again = _operate("int4_linear", grad, *ctx.saved_tensors, *ctx.rest, "")
    return (again, *(None for _ in range(6)))


def _batched(name: str) -> Any:
    def rule(info: Any, in_dims: tuple[int | None, ...], x: Tensor, *arguments: Any) -> tuple[Tensor, int]:
        if any(place is not None for place in in_dims[1:]):
            raise KernelError("vmap over an int4 weight.", allowed="vmap over activations", mend="loop over the layers")
        rows = x.movedim(in_dims[0] or 0, 0)
        return getattr(torch.ops.workbench, name)(rows, *arguments), 0

    return rule


def _operate(name: str, x: Tensor, *arguments: Any) -> Tensor:
    """Call an operator; torch.func's transforms cannot see its registered derivative (torch 2.13), but a Function's."""
    if not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active():
        return _Transformed.apply(name, x, *arguments)  # type: ignore[no-any-return, no-untyped-call]
    result: Tensor = getattr(torch.ops.workbench, name)(x, *arguments)
    return result


class _Transformed(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(name: str, x: Tensor, *arguments: Any) -> Tensor:
        result: Tensor = getattr(torch.ops.workbench, name)(x, *arguments)
        return result

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.name = inputs[0]
        _keep(ctx, inputs[1:], output)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        backward = _backward_linear if ctx.name == "int4_linear" else _backward_gradient
        return (None, *backward(ctx, *grads))


for _name, _run, _fake, _backward in (
    ("int4_linear", _run_linear, _fake_linear, _backward_linear),
    ("int4_linear_gradient", _run_gradient, _fake_gradient, _backward_gradient),
):
    _LIBRARY.impl(_name, _run, "CompositeExplicitAutograd")
    torch.library.register_fake(f"workbench::{_name}", _fake, lib=_LIBRARY)
    torch.library.register_autograd(f"workbench::{_name}", _backward, setup_context=_keep, lib=_LIBRARY)
    torch.library.register_vmap(f"workbench::{_name}", _batched(_name), lib=_LIBRARY)


# --- checks ---------------------------------------------------------------------------------------------------------


def check_packed(weight: PackedWeight) -> None:
    """Check every precondition of the kernels about a packed weight, those that they leave unchecked too.

    Raises:
        KernelError: for the first precondition that does not hold.
    """
    packed, sz, layout = weight.packed, weight.scales_and_zeros, weight.layout
    n, k = weight.padded
    if packed.device != sz.device:
        raise KernelError(
            f"The packed weight is on {packed.device}, its scales on {sz.device}.",
            allowed="one device for both",
            mend="move the layer with .to(device), which repacks it",
        )
    if sz.dtype != torch.bfloat16 or sz.shape != (k // weight.group_size, n, 2) or not sz.is_contiguous():
        wanted = [k // weight.group_size, n, 2]
        raise _bad("scales_and_zeros", sz, f"a contiguous torch.bfloat16 {wanted}: [K/group_size, N, 2]")
    if layout is None:
        shape: tuple[int, ...] = (weight.out_features, -(-weight.in_features // 2))
        dtype = torch.uint8
    else:
        readable = readable_layout(packed.device.type, layout.inner_k_tiles or 8)
        if layout != readable:
            raise KernelError(
                f"The weight is packed for {layout}, but this process reads {readable}.",
                mend="load the checkpoint again (its codes are portable) or move the layer with .to(device)",
            )
        shape, dtype = layout.packed_shape(n, k), layout.packed_dtype
    if packed.dtype != dtype or packed.shape != shape or not packed.is_contiguous():
        raise _bad("packed", packed, f"a contiguous {dtype} {list(shape)}")
    if layout is not None and layout.kind == "cpu" and packed.untyped_storage().nbytes() != packed.numel():
        raise KernelError(
            f"packed is {list(shape)} cut out of {packed.untyped_storage().nbytes()} bytes.",
            allowed="a packed weight as a whole: its rows lie in blocks",
            mend="cut the codes, quantized_weight().part(rows), and pack them: Int4Linear(part)",
        )


def _check_activation(x: Tensor, weight: PackedWeight) -> None:
    if x.dtype not in _NAMES:
        raise _bad("The activation", x, "bfloat16, float16, float32 or float64", "cast it with x.to(torch.bfloat16)")
    if x.ndim == 0 or x.shape[-1] != weight.in_features:
        raise _bad("The activation", x, f"[..., {weight.in_features}]", "check which layer feeds this one")
    if x.device != weight.packed.device:
        raise KernelError(
            f"The activation is on {x.device}, the weight on {weight.packed.device}.",
            allowed="one device for both",
            mend=f"move the layer with .to({str(x.device)!r}), which repacks it",
        )


def _bad(name: str, tensor: Tensor, allowed: str, mend: str | None = None) -> KernelError:
    contiguous = "" if tensor.is_contiguous() else ", not contiguous"
    return KernelError(f"{name} is {tensor.dtype} {list(tensor.shape)}{contiguous}.", allowed=allowed, mend=mend)


_NAMES = {dtype: str(dtype).removeprefix("torch.") for dtype in _FLOATS}
