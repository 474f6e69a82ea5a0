"""Solved layers that need not be solved again: those of the views, and on disk those of an export that was cut short.

What is on disk is found by a hash of all that decides a result (the weight itself, its settings, what stands for its
inputs, the versions of the workbench and of PyTorch), so that it is never taken for another weight's. It is let go of
when the checkpoint that it is for is whole. A file that cannot be read back as it was written is no result.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

import workbench
from workbench.config import ResolvedConfig
from workbench.digests import add_values
from workbench.errors import WorkbenchError
from workbench.portable import portable_tensors, quantized_from_portable
from workbench.records.errors import ErrorTrace
from workbench.solvers import SolveResult
from workbench.stopped_run import StoppedRun
from workbench.user_cache import cache_folder
from workbench.views.cache import ViewCache

MAX_BYTES = 4 * 2**30
_MAX_AGE_S = 7 * 24 * 3600
_SUFFIX = ".safetensors"


class SolvedLayers:
    """What one export, or sweep, finds solved already, and what it leaves for the next try.

    Round-to-nearest is not kept: it takes no longer than reading its result would.

    Args:
        cache: Layers that were solved to be looked at; None for none.
        folder: Where results are kept; None is a folder of the user's cache.
        max_bytes: Most bytes of files; the oldest are let go of.
        stopped: What a run in the order of the model held in memory when it was stopped; None for nothing.
    """

    def __init__(
        self,
        cache: ViewCache | None = None,
        folder: Path | None = None,
        *,
        max_bytes: int = MAX_BYTES,
        stopped: StoppedRun | None = None,
    ) -> None:
        self.stopped = stopped
        self.folder = cache_folder() / "solved" if folder is None else folder
        self.max_bytes = max_bytes
        self._cache, self._used = cache, set[str]()

    def recall(self, name: str, weight: Tensor, config: ResolvedConfig, inputs: str) -> tuple[str, SolveResult | None]:
        """Return what to `keep` the result under ("" for not at all), and the result if it is known.

        Args:
            name: Module path.
            weight: Any float dtype [N, K].
            config: Everything resolved.
            inputs: Stands for the inputs that a calibrated solver is given; "" for none.
        """
        viewed = self._viewed(name, weight, config)
        if viewed is not None or config.solver == "rtn":
            return "", viewed
        key = key_of(weight, config, inputs)
        self._used.add(key)
        return key, self._read(key, weight.device)

    def keep(self, key: str, result: SolveResult) -> None:
        """Keep a result under its key; a disk that is full, or may not be written to, keeps none."""
        if not key:
            return
        draft = self.folder / f"{uuid.uuid4().hex}.tmp"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            tensors = {name: part.cpu().contiguous() for name, part in portable_tensors(result.weight).items()}
            save_file(tensors, draft, {"result": json.dumps(_plain(result)), "sha256": _digest(tensors)})
            draft.replace(self._place(key))
            self._trim()
        except (OSError, SafetensorError):
            with contextlib.suppress(OSError):
                draft.unlink(missing_ok=True)

    def forget(self) -> None:
        """Let go of all results that were recalled or kept here: what they are for is whole."""
        for key in self._used:
            with contextlib.suppress(OSError):
                self._place(key).unlink(missing_ok=True)
        self._used = set()

    def _viewed(self, name: str, weight: Tensor, config: ResolvedConfig) -> SolveResult | None:
        """Return what a view of this very weight has solved, or None; calibrated views see other inputs."""
        seen = None if self._cache is None or config.solver == "calibrated" else self._cache.get(name, config)
        if seen is None or seen.solver != config.solver or not seen.is_of(seen.weight):
            return None
        if not (seen.is_of(weight) or torch.equal(seen.weight, weight)):  # a folder's weight is read anew each time
            return None
        return SolveResult(seen.quantized, seen.trace, seen.solver, seen.notes)

    def _place(self, key: str) -> Path:
        return self.folder / f"{key}{_SUFFIX}"

    def _read(self, key: str, device: torch.device) -> SolveResult | None:
        try:
            with safe_open(self._place(key), "pt", device="cpu") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}
                said: dict[str, str] = file.metadata() or {}
            if said.get("sha256") != _digest(tensors):
                return None
            plain = json.loads(said["result"])
            weight = quantized_from_portable(tensors, **plain["weight"]).to(device)
            trace = ErrorTrace.from_json(plain["trace"])
            return SolveResult(weight, trace, plain["solver"], tuple(plain["notes"]))
        except (OSError, SafetensorError, WorkbenchError, LookupError, TypeError, ValueError):
            return None

    def _trim(self) -> None:
        """Let go of what is too old, and of the oldest beyond the bound."""
        files = [(path.stat(), path) for path in self.folder.glob(f"*{_SUFFIX}")]
        room = self.max_bytes
        for stat, path in sorted(files, key=lambda one: -one[0].st_mtime):
            room -= stat.st_size
            if room < 0 or time.time() - stat.st_mtime > _MAX_AGE_S:
                path.unlink(missing_ok=True)


def key_of(weight: Tensor, config: ResolvedConfig, inputs: str) -> str:
    """Return a hash of all that decides the result of solving a weight.

    Args:
        weight: Any float dtype [N, K].
        config: Everything resolved.
        inputs: Stands for the inputs that a calibrated solver is given; "" for none.
    """
    settings = replace(config, notes=(), inner_k_tiles=8)
    versions = (workbench.__version__, torch.__version__)
    found = hashlib.sha256(repr((versions, settings, inputs)).encode())
    add_values(found, weight)
    return found.hexdigest()


def _digest(tensors: dict[str, Tensor]) -> str:
    found = hashlib.sha256()
    for name in sorted(tensors):
        found.update(f"{name} ".encode())
        add_values(found, tensors[name])
    return found.hexdigest()


def _plain(result: SolveResult) -> dict[str, Any]:
    weight = result.weight
    settings = {"in_features": weight.shape[1], "group_size": weight.group_size, "domain": weight.domain}
    return {
        "weight": {**settings, "solved_by": weight.solved_by},
        "trace": result.trace.to_json(),
        "solver": result.solver,
        "notes": list(result.notes),
    }
