"""Tiny quantized models, written to a target, and the dense models that they stand for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

import workbench as wb
from tests.tiny_models import make
from workbench.checkpoint.contents import Outline
from workbench.checkpoint.model_contents import ModelContents
from workbench.checkpoint.native import ModuleFormat
from workbench.config import Domain
from workbench.experts import Int4Experts
from workbench.hf.reverse_names import NamedContents
from workbench.recipe.recipe import Choice, Recipe, Rule
from workbench.targets.target import Target, Written

SIZES = {"hidden_size": 128, "intermediate_size": 192, "num_hidden_layers": 1}


def choice(group_size: int, domain: Domain = "int") -> Choice:
    return Choice(wb.Int4WeightOnlyConfig(group_size=group_size), solver="rtn", domain=domain)


def quantized(family: str, recipe: Recipe, dtype: torch.dtype = torch.bfloat16, **changes) -> nn.Module:
    """A tiny model in a dtype, quantized."""
    model = make(family, **changes).to(dtype)
    wb.quantize_(model, recipe)
    return model


def mixed(domain: Domain = "int", dtype: torch.dtype = torch.bfloat16) -> nn.Module:
    """Groups of 128 and 64, of which a K of 192 is no multiple, another domain, a dense layer, biases, a tied head."""
    rules = (Rule("o_proj", None), Rule("up_proj", choice(64, "symmetric")))
    return quantized("qwen2", Recipe(choice(128, domain), rules), dtype, **SIZES)


def write(target: Target, model: nn.Module, folder: Path) -> list[Written]:
    """Write a model to a target, without the atomic folder around it."""
    contents = ModelContents(model)
    outline = contents.outline()
    target.fit(outline).check()
    folder.mkdir(exist_ok=True)
    return list(target.write(contents, outline, folder))


def outline(model: nn.Module) -> Outline:
    """What is known of a model before anything is written."""
    return ModelContents(model).outline()


def a_weight(n: int = 8, k: int = 64, group_size: int = 32, scale: torch.Tensor | None = None) -> wb.QuantizedWeight:
    """A weight with random codes and zero points, and these scales."""
    generator = torch.Generator().manual_seed(3)
    groups = (n, -(-k // group_size))
    codes = torch.randint(0, 16, (n, k), dtype=torch.uint8, generator=generator)
    zero = torch.randint(0, 16, groups, dtype=torch.uint8, generator=generator)
    scale = torch.rand(groups, generator=generator).bfloat16() if scale is None else scale
    return wb.QuantizedWeight(codes, scale, zero, group_size, "int")


def hand_made(weight: wb.QuantizedWeight, dtype: str = "bfloat16", **changes) -> Outline:
    """The outline of a model with one layer "a"."""
    made = Outline("made", {"dtype": dtype}, {"a": ModuleFormat.of(weight)}, {"a": "linear"}, (), {})
    return replace(made, **changes)


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """Module path → dequantized weight of each int4 layer, in float32."""
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, wb.Int4Linear)}
    return {name: layer.quantized_weight().dequantize() for name, layer in layers.items()}


def dense_twin(family: str, model: nn.Module, folder: Path, **changes) -> nn.Module:
    """The dense model with the weights that an int4 one stands for, loaded as a person loads it."""
    dtype = next(model.parameters()).dtype
    twin = make(family, **changes).to(dtype)
    state = {name: value for name, value in model.state_dict().items() if name in twin.state_dict()}
    twin.load_state_dict({**twin.state_dict(), **{k: v for k, v in state.items() if v.dtype == dtype}})
    stand_for(twin, model)
    twin.save_pretrained(folder)
    return type(twin).from_pretrained(folder).eval()


def stand_for(twin: nn.Module, model: nn.Module) -> None:
    """Give a dense model the weights that an int4 one stands for, experts included."""
    for name, layer in model.named_modules():
        if isinstance(layer, Int4Experts):
            twin.get_parameter(name).data.copy_(layer.dequantize())
        elif isinstance(layer, wb.Int4Linear):
            twin.get_submodule(name).weight.data.copy_(layer.quantized_weight().dequantize())


def write_named(target: Target, model: nn.Module, folder: Path) -> list[Written]:
    """Write a model to a target under the names of the hub."""
    contents = NamedContents(ModelContents(model))
    outline = contents.outline()
    target.fit(outline).check()
    folder.mkdir(exist_ok=True)
    return list(target.write(contents, outline, folder))
