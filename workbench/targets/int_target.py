"""The base of compressed-tensors, GPTQ and AWQ: folders in one group size, with each expert a matrix of its own."""

from __future__ import annotations

import threading
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch

from workbench.checkpoint.contents import Contents, Outline
from workbench.config import Domain
from workbench.targets.folder import FolderTarget
from workbench.targets.int_family import (
    asymmetric,
    common_group_size,
    family_lines,
    family_misfits,
    family_notes,
    rounded_scales,
    row_misfits,
)
from workbench.targets.stored_names import StoredContents, stored_outline
from workbench.targets.target import LoadLines, Misfit, Written


class IntTarget(FolderTarget):
    """A folder of integer codes and integer zero points.

    `encode`, `layer_bytes` and `configured` get the outline that is written: under the names of the hub, every form
    with the group size, the domain and the dtype of scales that the folder has.

    Attributes:
        expert_domains: Domains that engines take of a mixture of experts.
        packs_rows: Whether eight rows share a word.
    """

    domains: tuple[Domain, ...] = ("int", "symmetric")
    expert_domains: tuple[Domain, ...] = ("symmetric",)
    packs_rows = False

    @abstractmethod
    def scale_dtype(self, outline: Outline) -> torch.dtype:
        """Return the dtype that scales are stored in."""

    def misfits(self, outline: Outline) -> list[Misfit]:
        """Say why a model does not fit; [] when it does."""
        found = family_misfits(outline, self.domains, self.expert_domains)
        return found + (row_misfits(outline) if self.packs_rows else [])

    def rounds(self, outline: Outline) -> str:
        """Say what is rounded, "" for nothing."""
        return rounded_scales(outline, self.scale_dtype(outline))

    def notes(self, outline: Outline) -> list[str]:
        """Say what a person must know before exporting."""
        return family_notes(outline)

    def size_bytes(self, outline: Outline) -> int:
        """Bytes of all tensors."""
        return super().size_bytes(self.written(outline))

    def write(
        self, contents: Contents, outline: Outline, folder: Path, cancel: threading.Event | None = None
    ) -> Iterator[Written]:
        """Write shards, configuration and tokenizer into an empty folder; yields each int4 layer."""
        return super().write(StoredContents(contents, outline), self.written(outline), folder, cancel)

    def written(self, outline: Outline) -> Outline:
        """Return the outline of what the folder holds."""
        stored, group_size = stored_outline(outline), common_group_size(outline)
        domain: Domain = "int" if asymmetric(outline) else "symmetric"
        scale = str(self.scale_dtype(outline)).removeprefix("torch.")
        forms = {
            name: replace(form, group_size=group_size, domain=domain, scale_dtype=scale)
            for name, form in stored.int4.items()
        }
        return replace(stored, int4=forms)

    def load_lines(self, directory: Path, outline: Outline) -> LoadLines:
        """Return the lines that load a folder that was written."""
        return family_lines(directory, outline)
