"""A native checkpoint on disk, as the contents of another one."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from workbench.checkpoint.contents import CONFIG_FILE, Outline, Part, copy_companions, stop_when, write_config
from workbench.checkpoint.integrity import check_before_load, read_json, read_quantization, torch_dtype
from workbench.checkpoint.native import ModuleFormat, parse
from workbench.portable import quantized_from_portable
from workbench.recipe import Recipe
from workbench.safetensors_folder import SafetensorsFolder


@dataclass
class CheckpointContents:
    """A native checkpoint on disk.

    Attributes:
        directory: The folder.

    Raises:
        CheckpointError: when it is damaged or no native checkpoint.
    """

    directory: Path
    _forms: dict[str, ModuleFormat] = field(init=False)
    _folder: SafetensorsFolder = field(init=False)

    def __post_init__(self) -> None:
        """Read configuration and headers."""
        self.directory = Path(self.directory)
        self._forms = parse(read_quantization(self.directory))
        self._folder = check_before_load(self.directory)

    def outline(self) -> Outline:
        """Say what will be written; no value is read."""
        config = read_json(self.directory / CONFIG_FILE)
        settings = config.pop("quantization_config")
        kinds = {name: "experts" if form.experts else "linear" for name, form in self._forms.items()}
        kinds |= {name: "output_head" for name in kinds if name.rpartition(".")[2] == "lm_head"}
        names = [name for name in self._folder.names() if name not in self._own()]
        dense = {name: (torch_dtype(self._folder, name), self._folder.shape(name)) for name in names}
        recipe = settings.get("recipe")
        return Outline(
            str(config.get("_name_or_path") or self.directory.name),
            config,
            self._forms,
            kinds,
            tuple(settings.get("modules_to_not_convert") or ()),
            dense,
            None if recipe is None else Recipe.from_json(recipe),
        )

    def parts(self, cancel: threading.Event | None = None) -> Iterator[Part]:
        """Yield everything once, the dense parts first."""
        own = self._own()
        beside: dict[str, dict[str, Tensor]] = {}
        for name in self._folder.names():
            stop_when(cancel)
            module = name.rpartition(".")[0]
            if name in own:
                continue
            if module in self._forms:
                beside.setdefault(module, {})[name] = self._folder.read(name)
            else:
                yield Part(module, {name: self._folder.read(name)})
        for name, form in self._forms.items():
            stop_when(cancel)
            tensors = {suffix: self._folder.read(f"{name}.{suffix}") for suffix in form.tensors()}
            weight = quantized_from_portable(
                tensors,
                in_features=form.in_features,
                group_size=form.group_size,
                domain=form.domain,
                solved_by=form.solved_by,
            )
            yield Part(name, beside.pop(name, {}), weight)

    def write_files(self, folder: Path) -> None:
        """Write config.json (without quantization_config), generation configuration and tokenizer."""
        copy_companions(self.directory, folder)
        write_config(folder, self.outline().config)

    def _own(self) -> set[str]:
        return {f"{name}.{suffix}" for name, form in self._forms.items() for suffix in form.tensors()}
