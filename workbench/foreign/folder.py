"""A folder of safetensors as another library wrote it: what differs between formats is how a weight is read."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from workbench.affine import QuantizedWeight
from workbench.checkpoint.contents import CONFIG_FILE, Outline, Part, copy_companions, stop_when, write_config
from workbench.checkpoint.files import check_config, check_files
from workbench.checkpoint.integrity import read_json, torch_dtype
from workbench.checkpoint.native import ModuleFormat
from workbench.errors import CheckpointError, ModelError, WorkbenchError
from workbench.safetensors_folder import SafetensorsFolder


class ForeignFolder(ABC):
    """The contents of a checkpoint folder of another library.

    Attributes:
        directory: The folder.
        folder: Its tensors, read by header and slice.
        config: Its config.json, without quantization_config.
        settings: Its quantization_config.

    Raises:
        CheckpointError: when it is damaged, or of a form that cannot be held in int4 codes.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        check_files(directory)
        self.config: dict[str, Any] = read_json(directory / CONFIG_FILE)
        self.settings: dict[str, Any] = self.config.pop("quantization_config", {})
        try:
            self.folder = SafetensorsFolder(directory)
        except ModelError as error:
            raise CheckpointError(error.what, allowed=error.allowed, mend=error.mend) from None
        check_config(self.config, len(self.folder.names()))
        self.forms = self.read_forms()
        if not self.forms:
            raise CheckpointError(f"{str(directory)!r} holds no int4 weight.", mend="check the folder")

    # --- what a format says -----------------------------------------------------------------------------------------

    @abstractmethod
    def read_forms(self) -> dict[str, ModuleFormat]:
        """Return module path → form of each int4 weight, from settings and headers alone; every shape is checked."""

    @abstractmethod
    def own_names(self, name: str) -> list[str]:
        """Return the full names of the tensors that hold a module's weight, its bias apart."""

    @abstractmethod
    def read_weight(self, name: str, form: ModuleFormat) -> QuantizedWeight:
        """Read a module's weight; values out of range are a CheckpointError or WeightError."""

    # --- the same for all -------------------------------------------------------------------------------------------

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
            yield Part(name, beside.pop(name, {}), self._weight(name, form))

    def write_files(self, folder: Path) -> None:
        """Write config.json (without quantization_config), generation configuration and tokenizer."""
        copy_companions(self.directory, folder)
        write_config(folder, self.config)

    def _weight(self, name: str, form: ModuleFormat) -> QuantizedWeight:
        try:
            return self.read_weight(name, form)
        except CheckpointError:
            raise
        except WorkbenchError as error:
            raise CheckpointError(f"{name}: {error.what}", allowed=error.allowed, mend=error.mend) from None

    def _own(self) -> set[str]:
        return {name for module in self.forms for name in self.own_names(module)}
