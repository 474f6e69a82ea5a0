"""The base of compressed-tensors, GPTQ and AWQ: integer folders, with each expert a matrix of its own."""

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
from workbench.targets.group_sizes import common_group_size, group_notes, own_group_sizes
from workbench.targets.int_family import (
    asymmetric,
    family_lines,
    family_misfits,
    family_notes,
    gptqmodel_lines,
    is_decoder,
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
        packages: What transformers asks for to load it.
        by_gptqmodel: Whether GPTQModel itself loads a decoder.
    """

    domains: tuple[Domain, ...] = ("int", "symmetric")
    expert_domains: tuple[Domain, ...] = ("symmetric",)
    packs_rows = False
    packages = ""
    by_gptqmodel = False

    @abstractmethod
    def scale_dtype(self, outline: Outline) -> torch.dtype:
        """Return the dtype that scales are stored in."""

    def mixes_groups(self, outline: Outline) -> bool:
        """Whether the folder of this model holds each layer in its own group size, which its loaders must know."""
        return False

    def misfits(self, outline: Outline) -> list[Misfit]:
        """Say why a model does not fit; [] when it does."""
        found = family_misfits(outline, self.domains, self.expert_domains)
        return found + (row_misfits(outline) if self.packs_rows else [])

    def rounds(self, outline: Outline) -> str:
        """Say what is rounded, "" for nothing."""
        return rounded_scales(outline, self.scale_dtype(outline))

    def notes(self, outline: Outline) -> list[str]:
        """Say what a person must know before exporting."""
        groups = [] if family_misfits(outline, self.domains, self.expert_domains) else self._group_notes(outline)
        return [*groups, *family_notes(outline)]

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
        stored = stored_outline(outline)
        sizes = own_group_sizes(stored) if self.mixes_groups(outline) else {}
        group_size = common_group_size(stored)
        domain: Domain = "int" if asymmetric(outline) else "symmetric"
        scale = str(self.scale_dtype(outline)).removeprefix("torch.")
        forms = {
            name: replace(form, group_size=sizes.get(name, group_size), domain=domain, scale_dtype=scale)
            for name, form in stored.int4.items()
        }
        return replace(stored, int4=forms)

    def _group_notes(self, outline: Outline) -> list[str]:
        return group_notes(stored_outline(outline), self.written(outline))

    def load_lines(self, directory: Path, outline: Outline) -> LoadLines:
        """Return the lines that load a folder that was written."""
        if self.by_gptqmodel and is_decoder(outline):
            return gptqmodel_lines(directory, outline)
        return family_lines(directory, outline, packages=self.packages)
