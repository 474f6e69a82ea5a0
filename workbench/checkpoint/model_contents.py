"""A quantized model in memory, as the contents of a checkpoint."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import nn

from workbench.checkpoint.contents import Header, Outline, Part, stop_when, write_config
from workbench.checkpoint.model_tensors import config_of, model_tensors, refuse_empty, write_model_files
from workbench.checkpoint.native import ModuleFormat, describe_model, int4_layers
from workbench.errors import CheckpointError
from workbench.experts import Int4Experts
from workbench.layers import refuse_adapters
from workbench.quantize import RECIPE_ATTRIBUTE
from workbench.sources import ModelSource


class ModelContents:
    """A quantized model in memory.

    Args:
        model: A transformers model with int4 layers.
        tokenizer: Written beside it when given.

    Raises:
        CheckpointError: when the model has no int4 layer, or weights without values.
        ModelError: when the model has adapters of PEFT.
    """

    def __init__(self, model: nn.Module, tokenizer: Any = None) -> None:
        self.model, self._tokenizer, self._int4 = model, tokenizer, int4_layers(model)
        if not self._int4:
            raise CheckpointError("The model has no int4 layer.", mend="quantize it first: wb.quantize_(model, cfg)")
        refuse_adapters(model, "save the adapters with model.save_pretrained, then take them off: model.unload()")
        refuse_empty(model)

    def outline(self) -> Outline:
        """Say what will be written; no value is read."""
        dense: dict[str, Header] = {}
        for _, tensors in model_tensors(self.model, read=False):
            dense |= {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}
        recipe = getattr(self.model, RECIPE_ATTRIBUTE, None)
        settings = describe_model(self.model, recipe)
        kinds = {name: "experts" if isinstance(layer, Int4Experts) else "linear" for name, layer in self._int4.items()}
        for name in _heads(self.model) & set(kinds):
            kinds[name] = "output_head"
        return Outline(
            ModelSource(self.model).name,
            config_of(self.model, tied=_is_tied(self.model)),
            {name: ModuleFormat.of(layer) for name, layer in self._int4.items()},
            kinds,
            tuple(settings["modules_to_not_convert"]),
            dense,
            recipe,
        )

    def parts(self, cancel: threading.Event | None = None) -> Iterator[Part]:
        """Yield everything once, module by module."""
        for name, tensors in model_tensors(self.model):
            stop_when(cancel)
            yield Part(name, tensors, self._int4[name].quantized_weight() if name in self._int4 else None)

    def write_files(self, folder: Path) -> None:
        """Write config.json (without quantization_config), generation configuration and tokenizer."""
        write_model_files(self.model, self._tokenizer, folder)
        write_config(folder, config_of(self.model, tied=_is_tied(self.model)))


def _is_tied(model: nn.Module) -> bool | None:
    """What config.json must say of tied embeddings: False where quantizing ended the tie, None for nothing new."""
    return False if getattr(getattr(model, "config", None), "tie_word_embeddings", None) is False else None


def _heads(model: nn.Module) -> set[str]:
    found = getattr(model, "get_output_embeddings", lambda: None)()
    return {name for name, module in model.named_modules() if module is found} if found is not None else set()
