"""A folder of safetensors as another library wrote it."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace
from pathlib import Path

from workbench.affine import QuantizedWeight
from workbench.checkpoint.contents import CONFIG_FILE, Outline
from workbench.checkpoint.files import check_config, check_files
from workbench.checkpoint.integrity import read_json
from workbench.checkpoint.native import ModuleFormat
from workbench.checkpoint.stored_contents import StoredFolder
from workbench.errors import CheckpointError, ModelError, WorkbenchError
from workbench.safetensors_folder import SafetensorsFolder


class ForeignFolder(StoredFolder):
    """The contents of a checkpoint folder of another library.

    Args:
        directory: The folder.

    Attributes:
        notes: What its quantization_config says and is not carried.

    Raises:
        CheckpointError: when it is damaged, or of a form that cannot be held in int4 codes.
    """

    notes: tuple[str, ...] = ()

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        check_files(directory)
        self.config = read_json(directory / CONFIG_FILE)
        self.settings = self.config.pop("quantization_config", {})
        try:
            self.folder = SafetensorsFolder(directory)
        except ModelError as error:
            raise CheckpointError(error.what, allowed=error.allowed, mend=error.mend) from None
        check_config(self.config, len(self.folder.names()))
        self.forms = self.read_forms()
        if not self.forms:
            raise CheckpointError(f"{str(directory)!r} holds no int4 weight.", mend="check the folder")

    def outline(self) -> Outline:
        """Say what is there; no value is read."""
        return replace(super().outline(), notes=self.notes)

    @abstractmethod
    def read_forms(self) -> dict[str, ModuleFormat]:
        """Return module path → form of each int4 weight, from settings and headers alone; every shape is checked."""

    @abstractmethod
    def convert(self, name: str, form: ModuleFormat) -> QuantizedWeight:
        """Read a module's weight; values out of range are a CheckpointError or WeightError."""

    def read_weight(self, name: str, form: ModuleFormat) -> QuantizedWeight:
        """Read a module's weight; whatever is wrong with it is a CheckpointError that names it."""
        try:
            return self.convert(name, form)
        except CheckpointError:
            raise
        except WorkbenchError as error:
            raise CheckpointError(f"{name}: {error.what}", allowed=error.allowed, mend=error.mend) from None
