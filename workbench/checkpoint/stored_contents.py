"""Int4 checkpoints on disk, as the contents of another one: a base for every format, and the native one."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from workbench.affine import QuantizedWeight
from workbench.checkpoint.contents import CONFIG_FILE, Outline, Part, copy_companions, stop_when, write_config
from workbench.checkpoint.integrity import check_before_load, read_json, read_quantization, torch_dtype
from workbench.checkpoint.native import ModuleFormat, parse
from workbench.portable import quantized_from_portable
from workbench.recipe.recipe import Recipe
from workbench.safetensors_folder import SafetensorsFolder


class StoredFolder(ABC):
    """The contents of a folder of safetensors: what differs between formats is how a weight is read.

    Attributes:
        directory: The folder.
        folder: Its tensors, read by header and slice.
        config: Its config.json, without quantization_config.
        settings: Its quantization_config.
        forms: Module path → form of each int4 weight.
    """

    directory: Path
    folder: SafetensorsFolder
    config: dict[str, Any]
    settings: dict[str, Any]
    forms: dict[str, ModuleFormat]

    @abstractmethod
    def own_names(self, name: str) -> list[str]:
        """Return the full names of the tensors that hold a module's weight, its bias apart."""

    @abstractmethod
    def read_weight(self, name: str, form: ModuleFormat) -> QuantizedWeight:
        """Read a module's weight.

        Raises:
            CheckpointError: for values out of range.
        """

    def outline(self) -> Outline:
        """Say what is there; no value is read."""
        own = self._own()
        names = [name for name in self.folder.names() if name not in own]
        dense = {name: (torch_dtype(self.folder, name), self.folder.shape(name)) for name in names}
        kinds = {name: "experts" if form.experts else "linear" for name, form in self.forms.items()}
        kinds |= {name: "output_head" for name in kinds if name.rpartition(".")[2] == "lm_head"}
        called = str(self.config.get("_name_or_path") or self.directory.name)
        return Outline(called, self.config, self.forms, kinds, (), dense)

    def parts(self, cancel: threading.Event | None = None) -> Iterator[Part]:
        """Yield everything once, the dense parts first; one layer at a time is in memory."""
        own = self._own()
        beside: dict[str, dict[str, Tensor]] = {}
        for name in self.folder.names():
            stop_when(cancel)
            module = name.rpartition(".")[0]
            if name in own:
                continue
            if module in self.forms:
                beside.setdefault(module, {})[name] = self.folder.read(name)
            else:
                yield Part(module, {name: self.folder.read(name)})
        for name, form in self.forms.items():
            stop_when(cancel)
            yield Part(name, beside.pop(name, {}), self.read_weight(name, form))

    def write_files(self, folder: Path) -> None:
        """Write config.json (without quantization_config), generation configuration and tokenizer."""
        copy_companions(self.directory, folder)
        write_config(folder, self.config)

    def _own(self) -> set[str]:
        return {name for module in self.forms for name in self.own_names(module)}


class CheckpointContents(StoredFolder):
    """A native checkpoint on disk.

    Args:
        directory: The folder.

    Raises:
        CheckpointError: when it is damaged or no native checkpoint.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = Path(directory)
        self.settings = read_quantization(self.directory)
        self.forms = parse(self.settings)
        self.folder = check_before_load(self.directory)
        self.config = read_json(self.directory / CONFIG_FILE)
        del self.config["quantization_config"]

    def outline(self) -> Outline:
        """Say what is there; no value is read."""
        recipe = self.settings.get("recipe")
        return replace(
            super().outline(),
            dense_layers=tuple(self.settings.get("modules_to_not_convert") or ()),
            recipe=None if recipe is None else Recipe.from_json(recipe),
        )

    def own_names(self, name: str) -> list[str]:
        """Return the full names of the tensors that hold a module's weight, its bias apart."""
        return [f"{name}.{suffix}" for suffix in self.forms[name].tensors()]

    def read_weight(self, name: str, form: ModuleFormat) -> QuantizedWeight:
        """Read a module's weight."""
        return quantized_from_portable(
            {suffix: self.folder.read(f"{name}.{suffix}") for suffix in form.tensors()},
            in_features=form.in_features,
            group_size=form.group_size,
            domain=form.domain,
            solved_by=form.solved_by,
        )
