"""Kinds of weight, told by what a module computes and by how its parameters lie, never by a model's name."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList

LINEAR, HEAD, CONV1D, EXPERTS, STACK = "linear", "output_head", "conv1d", "experts", "stack"
INT4 = "int4_linear"  # a layer, or a stack of experts, that is int4 already
QUANTIZABLE_KINDS = (LINEAR, HEAD, CONV1D, EXPERTS, STACK)
_STACKS = ("gate_up_proj", "up_proj", "down_proj")  # what transformers' registry of expert implementations reads


def weight_kind(module: nn.Module, name: str, parameter: Tensor, head: nn.Module | None = None) -> str:
    """Return the kind of a parameter: one of `QUANTIZABLE_KINDS`, or what it is otherwise.

    Args:
        module: The module that holds it.
        name: Its name there, for instance "weight".
        parameter: The parameter, on any device, "meta" included.
        head: The model's output head.
    """
    if parameter.ndim == 3 and stack_is_transposed(module, name) is not None:
        return EXPERTS if in_registry(module) else STACK
    if isinstance(module, ParametrizationList):  # torch makes a weight of it: of a normed convolution, for instance
        return "parametrization"
    if name == "bias":
        return "bias"
    if name != "weight":
        return "parameter"
    if computes_linear(module):
        return HEAD if module is head else LINEAR
    if is_conv1d(module):
        return CONV1D
    if isinstance(module, nn.Embedding):
        return "embedding"
    if isinstance(module, nn.modules.conv._ConvNd):
        return "convolution"
    if "norm" in type(module).__name__.lower():
        return "norm"
    return type(module).__name__


def computes_linear(module: nn.Module) -> bool:
    """Say whether a module is an `nn.Linear` reached through its forward, and this forward is x W^T + b.

    A subclass with a forward of its own is tried on a small instance. A module whose weight others read instead of
    calling it (the output projection of `nn.MultiheadAttention`) is none.
    """
    if not isinstance(module, nn.Linear) or isinstance(module, torch.nn.modules.linear.NonDynamicallyQuantizableLinear):
        return False
    return type(module).forward is nn.Linear.forward or _forward_is_linear(type(module))  # type: ignore[arg-type]


def is_conv1d(module: nn.Module) -> bool:
    """Say whether a module is a linear layer stored [in_features, out_features], as transformers' `Conv1D` is."""
    return type(module).__name__ == "Conv1D" and _forward_is_transposed_linear(type(module))  # type: ignore[arg-type]


def in_registry(module: nn.Module) -> bool:
    """Say whether a module runs through transformers' registry of expert implementations."""
    return all(hasattr(module, flag) for flag in ("is_transposed", "has_gate", "has_bias"))


def stack_is_transposed(module: nn.Module, name: str) -> bool | None:
    """Say whether a stack of matrices lies [E, K, N] instead of [E, N, K]; None for what is no stack, or tells neither.

    Outside the registry the shapes tell: what `down_proj` gives is as wide as what the first projection takes; or a
    module with one stack names its `input_size` and `output_size` (where these are equal, a small one of its class
    tells).
    """
    if name in _STACKS and in_registry(module):
        return bool(module.is_transposed)
    first = getattr(module, "gate_up_proj", getattr(module, "up_proj", None))
    shapes = [tuple(getattr(stack, "shape", ())) for stack in (first, getattr(module, "down_proj", None))]
    if name in _STACKS and all(len(shape) == 3 for shape in shapes):
        (_, rows, columns), (_, down_rows, down_columns) = shapes
        straight = columns == down_rows and rows % down_columns == 0
        turned = rows == down_columns and columns % down_rows == 0
        return turned if straight != turned else None
    sides = (getattr(module, "output_size", None), getattr(module, "input_size", None))
    shape = tuple(getattr(getattr(module, "weight", None), "shape", ()))
    if name != "weight" or len(shape) != 3 or None in sides:
        return None
    if sides[0] == sides[1]:
        return _class_is_transposed(type(module)) if sides == shape[1:] else None  # type: ignore[arg-type]
    return {sides: False, sides[::-1]: True}.get(shape[1:])


def shape_as_used(module: nn.Module, name: str, parameter: Tensor) -> tuple[int, ...]:
    """Return a parameter's shape as it is used: [N, K] of a linear layer, [E, N, K] of experts, else as it lies."""
    shape = tuple(parameter.shape)
    if stored_transposed(module, name, parameter):
        return (*shape[:-2], shape[-1], shape[-2])
    return shape


def stored_transposed(module: nn.Module, name: str, parameter: Tensor) -> bool:
    """Say whether a parameter lies [..., K, N] instead of [..., N, K]."""
    if parameter.ndim == 3:
        return bool(stack_is_transposed(module, name))
    return name == "weight" and is_conv1d(module)


@contextlib.contextmanager
def _unnoticed() -> Iterator[None]:
    """Make a probe on the CPU, whatever the default device is; the random numbers that it draws are given back."""
    with torch.device("cpu"), torch.random.fork_rng(devices=[]):
        yield


@functools.cache
def _class_is_transposed(kind: Any) -> bool | None:
    try:
        with _unnoticed():
            probe = kind(num_experts=2, input_size=3, output_size=5)
        return {(2, 5, 3): False, (2, 3, 5): True}.get(tuple(probe.weight.shape))
    except Exception:  # a class that is made in another way does not tell
        return None


@functools.cache
def _forward_is_linear(kind: Any) -> bool:
    try:
        probe = kind.__new__(kind)
        with _unnoticed():
            nn.Linear.__init__(probe, 5, 3, dtype=torch.float64, device="cpu")
        return _agrees(probe, probe.weight.t(), probe.bias)
    except Exception:  # a forward that needs more than a linear layer has is no linear layer
        return False


@functools.cache
def _forward_is_transposed_linear(kind: Any) -> bool:
    try:
        with _unnoticed():
            probe = kind(3, 5).double()  # as Conv1D(nf, nx)
        weight, bias = probe.weight, probe.bias
        if not isinstance(weight, Tensor) or not isinstance(bias, Tensor) or weight.shape != (5, 3):
            return False
        return _agrees(probe, weight, bias)
    except Exception:  # as above
        return False


def _agrees(probe: nn.Module, weight: Tensor, bias: Tensor) -> bool:
    """Say whether probe(x) is x @ weight [K, N] + bias for x of two and of three dimensions."""
    with torch.no_grad(), torch.device("cpu"):
        numbers = torch.linspace(-1, 1, 30, dtype=torch.float64)
        weight.copy_(numbers[: weight.numel()].sin().view(weight.shape))
        bias.copy_(numbers[: bias.numel()])
        for shape in ((6, 5), (2, 3, 5)):
            x = numbers.view(shape)
            if not torch.allclose(probe(x), x @ weight + bias):
                return False
    return True
