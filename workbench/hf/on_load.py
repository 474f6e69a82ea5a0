"""Quantize while transformers loads a dense model: each weight is solved as it comes, so that no dense copy is made."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers.core_model_loading import ConversionOps
from transformers.utils import logging

from workbench.checkpoint.native import ModuleFormat
from workbench.coverage.coverage import Coverage, needs_calibration
from workbench.coverage.preflight import preflight_source
from workbench.errors import ConfigError, WorkbenchError
from workbench.hf.portable_linear import PortableLinear, portable_layer
from workbench.layers import get_layer, swap_layer
from workbench.recipe.recipe import Recipe
from workbench.solvers import solve
from workbench.solvers.result import stacked
from workbench.sources import ModelSource

_log = logging.get_logger(__name__)


class Coming(ModelSource):
    """A model on the meta device whose values are about to be loaded.

    What transformers ties once all is loaded is known by name only: each still has a weight of its own here.
    """

    def __init__(self, model: nn.Module) -> None:
        """Read from `model`, which is not changed."""
        super().__init__(model)
        names = dict(getattr(model, "all_tied_weights_keys", None) or {})
        owners = {tied.removesuffix(".weight"): owner.removesuffix(".weight") for tied, owner in names.items()}
        listed = {record.name for record in self._records}
        self._records = [
            replace(record, size_bytes=0, tied_to=owners[record.name])
            if record.tied_to is None and owners.get(record.name) in listed
            else record
            for record in self._records
        ]

    def missing(self, name: str) -> str:
        """Nothing is missing: it comes."""
        return ""


class OnLoad:
    """What becomes int4 while a model is loaded.

    Args:
        model: The dense model, on the meta device.
        recipe: What the person asked for.
        device: Device that will run the layers.
        dtype: dtype that the model is loaded in.

    Attributes:
        coverage: What becomes int4, what does not, and why.

    Raises:
        ConfigError: when a layer is to be calibrated, or shares its weight with the embedding.
    """

    def __init__(self, model: nn.Module, recipe: Recipe, device: torch.device | str, dtype: torch.dtype) -> None:
        self.recipe, self._dtype = recipe, dtype
        source = Coming(model)
        with torch.device("cpu"):  # transformers calls this where all new tensors go to the meta device
            self.coverage: Coverage = preflight_source(source, recipe, device=device)
        if calibrated := needs_calibration(self.coverage):
            raise ConfigError(
                f"{calibrated[0]} is to be calibrated, which needs the whole model.",
                allowed="rtn, hqq, refined while loading",
                mend="load the model, then call wb.quantize_(model, recipe, calibration=text, tokenizer=tokenizer)",
            )
        shared = set(getattr(model, "all_tied_weights_keys", None) or ())  # transformers ties them after loading
        if shared & {f"{name}.weight" for name in self.coverage.configs}:
            raise ConfigError(
                "The output head shares the embedding's weight, and is to become int4 while it is loaded.",
                allowed="an output head with a weight of its own",
                mend="load the model, then call wb.quantize_(model, recipe, output_head=True)",
            )
        self._waiting: dict[str, tuple[str, PortableLinear]] = {}  # parameter → layer's name, and what takes its place
        for row in self.coverage.int4_rows:
            form = ModuleFormat.planned(row.shape, self.coverage.configs[row.name])
            parameter = row.name if form.experts else f"{row.name}.weight"
            self._waiting[parameter] = row.name, portable_layer(model, row.name, form, dtype)
        self._problem: WorkbenchError | None = None
        _log.warning("int4: %s", self.coverage.verdict())

    def waits_for(self, parameter: str) -> bool:
        """Say whether a parameter becomes int4."""
        return parameter in self._waiting

    def take(self, model: nn.Module, parameter: str, values: Tensor) -> None:
        """Solve a weight and put its portable tensors where the dense layer stood; nothing more after a problem."""
        if self._problem is not None:
            return
        name, layer = self._waiting[parameter]
        config = self.coverage.configs[name]
        weight = values.transpose(-1, -2) if layer.transposed else values
        try:
            if weight.ndim == 3:
                solved = stacked([solve(one, config, name=f"{name}[{e}]") for e, one in enumerate(weight)])
            else:
                solved = solve(weight, config, name=name)
        except WorkbenchError as error:  # raised by `check`: the loader would only note it
            self._problem = error
            return
        layer.fill(solved.weight)
        if weight.ndim == 2:
            layer.bias = getattr(get_layer(model, name), "bias", None)  # loaded already, or still to come
        swap_layer(model, name, layer)

    def check(self) -> None:
        """Raise what kept a weight from being solved.

        Raises:
            WeightError: when one holds NaN or infinity.
        """
        if self._problem is not None:
            raise self._problem


class SolveOnLoad(ConversionOps):
    """The step of transformers' loader that makes a weight int4."""

    def __init__(self, taking: OnLoad) -> None:
        self._taking = taking

    def convert(self, input_dict: dict[str, Any], *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Take the weights that become int4; give back the others."""
        left = {}
        for parameter, found in input_dict.items():
            values = found[0] if isinstance(found, list) else found
            if not self._taking.waits_for(parameter):
                left[parameter] = found
                continue
            self._taking.take(kwargs["model"], parameter, values)
            if (missing := kwargs.get("missing_keys")) is not None:
                missing.discard(parameter)
        return left
