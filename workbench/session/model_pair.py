"""The original model and its int4 form under a recipe, side by side over the same weights."""

from __future__ import annotations

import threading
from collections.abc import Generator

import torch
from torch import nn

from workbench.coverage.coverage import Coverage
from workbench.errors import Cancelled
from workbench.measure.causal import check_causal
from workbench.measure.remembered import LogitsStore, Remembered
from workbench.records.progress import Progress
from workbench.session.calibration import SessionCalibration
from workbench.session.twin import twin_of
from workbench.sources import FolderSource, ModelSource
from workbench.views.cache import ViewCache
from workbench.views.int4_layers import Int4Layers, Wanted


class ModelPair:
    """Makes both models when they are needed. Beside the original, only the int4 layers take memory.

    Args:
        calibration: Loads a folder's model, once for all, and has the text for layers that are to be calibrated.
        cache: Layers that were solved to be looked at.
    """

    def __init__(self, calibration: SessionCalibration, cache: ViewCache) -> None:
        self._calibration = calibration
        self._layers = Int4Layers(calibration.source, cache)
        self._logits = LogitsStore()
        self._checked: object = None

    @property
    def weights(self) -> int:
        """A number that differs when a weight of a live model was changed, in place or by another."""
        source = self._calibration.source
        return stamp_of(source.model) if isinstance(source, ModelSource) else 0

    def device_note(self, device: str) -> str:
        """Say that a folder's model is measured on the CPU, where its layers will run on another device; else ""."""
        if not isinstance(self._calibration.source, FolderSource) or torch.device(device).type == "cpu":
            return ""
        mend = f"to measure on {device}, open the model itself: wb.Workbench(*wb.load_model(path, device={device!r}))"
        return f"measured on the CPU, where a folder's model is loaded, and not on {device}; {mend}"

    def make(
        self, coverage: Coverage, cancel: threading.Event
    ) -> Generator[Progress, None, tuple[Remembered, nn.Module]]:
        """Yield where the work stands, and return the original and the int4 model, both in evaluation mode.

        Args:
            coverage: What becomes int4, and how.
            cancel: Set it to stop between blocks of a layer.

        Raises:
            Cancelled: when `cancel` was set.
            ModelError: when there is no model, it cannot be loaded, or it is no causal language model.
            ConfigError: when a layer is to be calibrated and its text cannot be used.
            WeightError: when a weight holds NaN or infinity.
        """
        yield from self._calibration.load(cancel)
        if cancel.is_set():
            raise Cancelled("Cancelled after the model was loaded.")
        dense, stamp = twin_of(self._calibration.model), self.weights
        if stamp != self._checked:
            check_causal(dense, self._calibration.source.name)
            self._checked = stamp
        self._logits.keep_for(stamp)
        wanted = Wanted(dense, coverage, self._calibration.prepared, self._calibration.stamp, self._calibration.stopped)
        layers = yield from self._layers.update(wanted, cancel)
        return Remembered(dense, self._logits), twin_of(dense, layers)


def stamp_of(model: nn.Module) -> int:
    """Return a number that differs when a parameter of a model was changed, in place or by another."""
    return hash(tuple((p.data_ptr(), 0 if p.is_inference() else p._version) for p in model.parameters()))
