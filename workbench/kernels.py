"""The int4 product that everything calls, and the operator that compilers, autograd and vmap see in its place."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any
from weakref import ReferenceType, ref

import torch
from torch import Tensor

from workbench.errors import KernelError
from workbench.layout import Layout
from workbench.packed import PackedWeight
from workbench.paths import PathName
from workbench.products import check_activation, gradient, product


def int4_linear(x: Tensor, weight: PackedWeight, *, path: PathName | None = None) -> Tensor:
    """Multiply x @ W.T by the fastest path for the rows of x, as `choose_path` finds it.

    Against the product in float64 of the same weights, the relative error (of the Frobenius norm) is up to
        bfloat16 x: 1.8e-3 by the op; 2.6e-3 fused or dequantized, as of a dense bfloat16 layer (weights rounded too)
        other x: 2.7e-3 by the op or fused, 3.3e-3 dequantized (x, weights and the result rounded to bfloat16)
        fused with few rows (up to 32 with a matrix unit, else up to 6): 2.0e-3 (weights are not rounded).
    A CPU without bfloat16 instructions dequantizes for float16 and float32 x to float32: 1e-3 and 1e-5.

    Args:
        x: float [..., K]; float16, float32 and float64 are rounded to bfloat16 inside and the result cast back.
        weight: The packed weight [N, K], on the same device.
        path: Takes this path whatever the table says.

    Returns:
        [..., N] in x's dtype (autocast's, under autocast). Its gradient with respect to x is defined.

    Raises:
        KernelError: when a precondition does not hold, or this machine has no such path.
    """
    check_activation(x, weight)
    if not x.is_meta and torch.is_autocast_enabled(device_type := x.device.type) and x.dtype != torch.float64:
        x = x.to(torch.get_autocast_dtype(device_type))
    if _is_plain(x):
        return product(x, weight, path)
    layout = weight.layout
    tensors = (weight.packed, weight.scales_and_zeros)
    sizes = (weight.group_size, weight.out_features, weight.in_features)
    return _operate("int4_linear", x, *tensors, *sizes, _layout_text(layout), path or "")


def _is_plain(x: Tensor) -> bool:
    """Say whether x is a tensor of numbers that nobody traces, transforms or differentiates."""
    return (
        not torch.compiler.is_compiling()
        and (type(x) is Tensor or type(x) is torch.nn.Parameter)
        and not (x.requires_grad and torch.is_grad_enabled())
        and not torch._C._are_functorch_transforms_active()
    )


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


@dataclass(frozen=True)
class _Seen:
    """A weight that an operator was called with. It holds aliases of its tensors, and is forgotten when these die."""

    tensors: tuple[ReferenceType[Tensor], ReferenceType[Tensor]]
    rest: tuple[Any, ...]
    weight: PackedWeight

    def is_of(self, packed: Tensor, scales_and_zeros: Tensor, rest: tuple[Any, ...]) -> bool:
        return (
            self.tensors[0]() is packed
            and self.tensors[1]() is scales_and_zeros
            and self.rest == rest
            and self.weight.packed.data_ptr() == packed.data_ptr()
            and self.weight.scales_and_zeros.data_ptr() == scales_and_zeros.data_ptr()
        )


_seen: dict[int, _Seen] = {}  # by the id of the packed tensor: what was checked and chosen once holds for later calls


def _joined(packed: Tensor, scales_and_zeros: Tensor, *rest: Any) -> PackedWeight:
    key = id(packed)
    seen = _seen.get(key)
    if seen is not None and seen.is_of(packed, scales_and_zeros, rest):
        return seen.weight
    group_size, n, k, layout = rest
    weight = PackedWeight(packed.detach(), scales_and_zeros.detach(), _layout_of(layout), n, k, group_size)

    def forget(_: object) -> None:
        _seen.pop(key, None)

    _seen[key] = _Seen((ref(packed, forget), ref(scales_and_zeros, forget)), rest, weight)
    return weight


def _run_linear(x: Tensor, *arguments: Any) -> Tensor:
    weight, path = _joined(*arguments[:-1]), arguments[-1]
    check_activation(x, weight)
    return product(x, weight, path or None)


def _run_gradient(grad: Tensor, *arguments: Any) -> Tensor:
    return gradient(grad, _joined(*arguments))


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
