"""A source under a recipe, solved layer by layer while a checkpoint is written."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from workbench.calibration import Calibration
from workbench.checkpoint.contents import CONFIG_FILE, Header, Outline, Part, copy_companions, stop_when, write_config
from workbench.checkpoint.integrity import read_json
from workbench.checkpoint.model_tensors import config_of, model_tensors, write_model_files
from workbench.checkpoint.native import ModuleFormat
from workbench.coverage.coverage import Coverage
from workbench.errors import CheckpointError
from workbench.kinds import QUANTIZABLE_KINDS
from workbench.layers import unties_head
from workbench.recipe.recipe import Recipe
from workbench.safetensors_folder import DTYPES
from workbench.solving import SolvedBefore, iter_quantize
from workbench.sources import FolderSource, ModelSource, Source


class SolvedContents:
    """A source under a recipe, solved layer by layer while it is written.

    Args:
        source: A live model or a model folder.
        coverage: What becomes int4, and how.
        recipe: What the person asked for.
        tokenizer: Written beside it when given; a folder brings its own.
        calibration: The text, when a layer is to be calibrated.
        model: The model to run it through; a live source brings its own.

    Attributes:
        coverage: What becomes int4, and how.
        solved: What was solved before, which is not solved again; None for nothing.

    Raises:
        CheckpointError: when weights of the model are missing, or the source cannot be written.
    """

    def __init__(
        self,
        source: Source,
        coverage: Coverage,
        recipe: Recipe,
        *,
        tokenizer: Any = None,
        calibration: Calibration | None = None,
        model: nn.Module | None = None,
    ) -> None:
        if not isinstance(source, FolderSource | ModelSource):
            raise CheckpointError(f"{type(source).__name__} cannot be written.", allowed="a live model or a folder")
        _refuse_lost(source)
        self.coverage = coverage
        self.solved: SolvedBefore | None = None
        self._source, self._recipe, self._tokenizer = source, recipe, tokenizer
        self._calibration, self._model = calibration, model
        self._int4 = set(coverage.configs)

    def calibrate(self, calibration: Calibration | None, model: nn.Module | None) -> None:
        """Give the text and the model later, once the coverage has shown that they are needed."""
        self._calibration, self._model = calibration, model

    def outline(self) -> Outline:
        """Say what will be written; no value is read."""
        configs = self.coverage.configs
        forms = {row.name: ModuleFormat.planned(row.shape, configs[row.name]) for row in self.coverage.int4_rows}
        kinds = {row.name: row.kind for row in self.coverage.int4_rows}
        rows = self.coverage.rows
        dense = tuple(row.name for row in rows if row.kind in QUANTIZABLE_KINDS and row.decision == "dense")
        headers, name = dict(self._headers()), self._source.name
        notes = () if self._calibration is None else self._calibration.notes
        return Outline(name, self._config(), forms, kinds, dense, headers, self._recipe, notes=notes)

    def parts(self, cancel: threading.Event | None = None) -> Iterator[Part]:
        """Yield everything once, the dense parts first; the layers are solved as they come."""
        rest: dict[str, dict[str, Tensor]] = {}
        for name, tensors in self._dense_tensors():
            stop_when(cancel)
            if name in self._int4:
                rest.setdefault(name, {}).update(tensors)  # a bias, which goes beside its codes
            else:
                yield Part(name, tensors)
        given = {"calibration": self._calibration, "model": self._model, "solved": self.solved}
        for step in iter_quantize(self._source, self.coverage, cancel=cancel, **given):  # type: ignore[arg-type]
            yield Part(step.result.name, rest.pop(step.result.name, {}), step.weight, step)

    def write_files(self, folder: Path) -> None:
        """Write config.json (without quantization_config), generation configuration and tokenizer."""
        if isinstance(self._source, FolderSource):
            copy_companions(self._source.path, folder)
            if self._tokenizer is not None:
                self._tokenizer.save_pretrained(folder)
        elif isinstance(self._source, ModelSource):
            write_model_files(self._source.model, self._tokenizer, folder)
        write_config(folder, self._config())

    def _config(self) -> dict[str, Any]:
        unties = unties_head(self._source.records(), self._int4)
        if isinstance(self._source, ModelSource):
            return config_of(self._source.model, tied=False if unties else None)
        assert isinstance(self._source, FolderSource)
        data = read_json(self._source.path / CONFIG_FILE)
        data.pop("quantization_config", None)
        if data.get("dtype") is None and data.get("torch_dtype") is None:  # else guessed from a tensor, a scale perhaps
            data["dtype"] = self._source.usual_dtype()
        return {**data, "tie_word_embeddings": False} if unties else data

    def _headers(self) -> Iterator[tuple[str, Header]]:
        if isinstance(self._source, ModelSource):
            for _, tensors in self._live_tensors(read=False):
                yield from ((name, (tensor.dtype, tuple(tensor.shape))) for name, tensor in tensors.items())
            return
        assert isinstance(self._source, FolderSource)
        folder = self._source.folder
        for name, stored in self._folder_names():
            yield name, (DTYPES[folder.dtype(stored)], folder.shape(stored))

    def _dense_tensors(self) -> Iterator[tuple[str, dict[str, Tensor]]]:
        """Yield everything of a source but the weights that become int4, grouped by module where it is one of those."""
        if isinstance(self._source, ModelSource):
            yield from self._live_tensors()
            return
        assert isinstance(self._source, FolderSource)
        for name, stored in self._folder_names():
            module = name.rpartition(".")[0]
            own = name == f"{module}.weight" and name not in self._source.folder
            yield module, {name: self._source.weight(module) if own else self._source.folder.read(stored)}

    def _live_tensors(self, *, read: bool = True) -> Iterator[tuple[str, dict[str, Tensor]]]:
        assert isinstance(self._source, ModelSource)
        for module, tensors in model_tensors(self._source.model, read=read):
            weight = {f"{module}.weight"} if module in self._int4 else self._int4  # its own, or stacks of experts
            kept = {name: tensor for name, tensor in tensors.items() if name not in weight}
            if kept:
                yield module, kept

    def _folder_names(self) -> Iterator[tuple[str, str]]:
        """Yield (name in the model, name of the tensor that holds it) of all that stays dense."""
        assert isinstance(self._source, FolderSource)
        for name in self._source.folder.names():
            module, _, parameter = name.rpartition(".")
            if name not in self._int4 and not (module in self._int4 and parameter == "weight"):
                yield name, name
        for record in self._source.records():
            stored = self._source.tensor(record.name)
            if stored.removesuffix(".weight") in self._int4 and record.name not in self._int4:  # shares its values
                yield f"{record.name}.weight", stored


def _refuse_lost(source: Source) -> None:
    lost = [record.name for record in source.records() if source.missing(record.tied_to or record.name)]
    if isinstance(source, FolderSource) and lost:
        raise CheckpointError(
            f"{str(source.path)!r} lacks {len(lost)} weights of the model, first {lost[0]!r}.",
            mend="download or copy the folder again, or name the folder of the whole model",
        )
