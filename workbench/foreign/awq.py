"""AWQ folders in the GEMM layout; the format is described in `workbench.targets.awq`."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from workbench.errors import CheckpointError
from workbench.foreign.int_words import FLOATS, WORDS, Stored, WordFolder
from workbench.targets.awq import ORDER
from workbench.targets.int32_codes import PER_WORD, unpack_int32


class AwqFolder(WordFolder):
    """The contents of an AWQ folder."""

    codes_part = "qweight"
    own_parts = ("qweight", "qzeros", "scales")

    def check_settings(self) -> None:
        """Refuse a quantization_config that does not stand for 4-bit integer codes."""
        self.wanted("bits", self._setting("bits", "w_bit"), (4,))
        self.wanted("zero_point", self.settings.get("zero_point", True), (True,))
        self.wanted("version", str(self._setting("version", "format") or "gemm").lower(), ("gemm",))
        group_size = self._group_size
        if type(group_size) is not int or (group_size < 1 and group_size != -1):
            raise CheckpointError(f"{str(self.directory)!r} has group_size {group_size!r}.", allowed="-1, or 32 and up")

    def _setting(self, *keys: str) -> Any:
        return next((self.settings[key] for key in keys if self.settings.get(key) is not None), None)

    @property
    def _group_size(self) -> Any:
        return self._setting("group_size", "q_group_size")

    def stored(self, name: str) -> Stored:
        """Return how a layer is stored, with every header checked."""
        k, words = self.shape_of(f"{name}.qweight", WORDS)
        n = words * PER_WORD
        found = Stored(n, k, k if self._group_size == -1 else min(self._group_size, k), symmetric=False)
        self.hold(f"{name}.scales", FLOATS, (found.groups, n))
        self.hold(f"{name}.qzeros", WORDS, (found.groups, words))
        return found

    def codes_and_zeros(self, name: str, stored: Stored) -> tuple[Tensor, Tensor | None, Tensor]:
        """Read codes, zero points and scales."""
        codes = unpack_int32(self.folder.read(f"{name}.qweight"), stored.out_features, ORDER).t().contiguous()
        zero = unpack_int32(self.folder.read(f"{name}.qzeros"), stored.out_features, ORDER).t().contiguous()
        return codes, zero, self.folder.read(f"{name}.scales").t()
