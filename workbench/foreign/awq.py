"""AWQ folders in the GEMM layout; the format is described in `workbench.targets.awq`.

Keys of its configuration: AutoAWQ's `AwqConfig`, transformers 5.23's, and GPTQModel 5's `QuantizeConfig`.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from workbench.errors import CheckpointError
from workbench.foreign.int_words import FLOATS, WORDS, Stored, WordFolder
from workbench.foreign.settings import MADE_BY, left_out
from workbench.targets.awq import ORDER
from workbench.targets.int32_codes import PER_WORD, unpack_int32

_READ = (
    "quant_method bits w_bit group_size q_group_size zero_point sym version format checkpoint_format "
    "dynamic pack_dtype rotation act_bits data_type"
).split()


class AwqFolder(WordFolder):
    """The contents of an AWQ folder."""

    codes_part = "qweight"
    own_parts = ("qweight", "qzeros", "scales")

    def check_settings(self) -> list[str]:
        """Refuse a quantization_config that does not stand for 4-bit integer codes; return what it says besides."""
        self.wanted("bits", self._setting("bits", "w_bit"), (4,))
        self.wanted("zero_point", self.settings.get("zero_point", True), (True,))
        for key in ("version", "format", "checkpoint_format"):
            self.wanted(key, str(self.settings.get(key) or "gemm").lower(), ("gemm",))
        if str(self.settings.get("backend")).lower() == "llm-awq":  # which packs the same tensors otherwise
            raise CheckpointError(f"{str(self.directory)!r} has backend 'llm-awq'.", allowed="AutoAWQ's layout")
        self.wanted("pack_dtype", str(self.settings.get("pack_dtype") or "int32").removeprefix("torch."), ("int32",))
        self.wanted("rotation", self.settings.get("rotation") or None, (None,))
        self.wanted("act_bits", self.settings.get("act_bits") or 16, (16, 32))
        self.wanted("data_type", self.settings.get("data_type") or "int", ("int",))
        self.wanted("desc_act", self.settings.get("desc_act") or False, (False,))
        dynamic = self.settings.get("dynamic") or {}
        skips = isinstance(dynamic, dict) and all(key.startswith("-:") for key in dynamic)
        self.wanted("dynamic", None if skips else dynamic, (None,))  # what is left dense shows in the tensors
        group_size = self._group_size
        if type(group_size) is not int or (group_size < 1 and group_size != -1):
            raise CheckpointError(f"{str(self.directory)!r} has group_size {group_size!r}.", allowed="-1, or 32 and up")
        return left_out(self.settings, (*_READ, *MADE_BY))

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
