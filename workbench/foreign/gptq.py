"""GPTQ folders, v1 and v2; the format is described in `workbench.targets.gptq`.

Keys of its configuration: GPTQModel 5, `QuantizeConfig`; its `dynamic` has settings of single layers under patterns.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from workbench.affine import QUANT_MAX, group_count
from workbench.errors import CheckpointError
from workbench.foreign.int_words import FLOATS, WORDS, Stored, WordFolder
from workbench.foreign.settings import MADE_BY, left_out
from workbench.targets.int32_codes import PER_WORD, unpack_int32

_READ = (
    "quant_method bits group_size sym format checkpoint_format dynamic pack_dtype is_marlin_format rotation act_bits "
    "data_type"
).split()
_READ_OF_LAYER = ("bits", "group_size", "sym")


class GptqFolder(WordFolder):
    """The contents of a GPTQ folder."""

    codes_part = "qweight"
    own_parts = ("qweight", "qzeros", "scales", "g_idx")

    def check_settings(self) -> list[str]:
        """Refuse a quantization_config that does not stand for 4-bit integer codes; return what it says besides."""
        self.wanted("bits", self.settings.get("bits"), (4,))
        self.wanted("sym", self.settings.get("sym", True), (True, False))
        self.wanted("checkpoint_format", self._format, ("gptq", "gptq_v2"))
        group_size = self.settings.get("group_size")
        if type(group_size) is not int or (group_size < 1 and group_size != -1):
            raise CheckpointError(f"{str(self.directory)!r} has group_size {group_size!r}.", allowed="-1, or 32 and up")
        self.wanted("pack_dtype", str(self.settings.get("pack_dtype") or "int32").removeprefix("torch."), ("int32",))
        self.wanted("is_marlin_format", self.settings.get("is_marlin_format") or False, (False,))
        self.wanted("rotation", self.settings.get("rotation") or None, (None,))
        self.wanted("data_type", self.settings.get("data_type") or "int", ("int",))
        self.wanted("act_bits", self.settings.get("act_bits") or 16, (16, 32))
        return left_out(self.settings, (*_READ, *MADE_BY)) + self._check_layers()

    def _check_layers(self) -> list[str]:
        """Look at the settings of single layers; their tensors say which these are."""
        dynamic = self.settings.get("dynamic") or {}
        if not isinstance(dynamic, dict) or not all(isinstance(own, dict) for own in dynamic.values()):
            raise CheckpointError(f"{str(self.directory)!r} has dynamic {dynamic!r}"[:200] + ".", allowed="an object")
        changed: list[dict[str, Any]] = [own for key, own in dynamic.items() if not key.startswith("-:")]
        notes: list[str] = []
        for own in changed:
            self.wanted("dynamic: bits", own.get("bits", 4), (4,))
            self.wanted("dynamic: sym", own.get("sym", True), (True, False))
            notes += left_out(own, (*_READ_OF_LAYER, *MADE_BY), "dynamic: ")
        self._own_groups = any("group_size" in own for own in changed)
        self._symmetric = all(bool(own.get("sym", True)) for own in (self.settings, *changed))
        return list(dict.fromkeys(notes))

    @property
    def _format(self) -> str:
        return str(self.settings.get("checkpoint_format") or self.settings.get("format") or "gptq")

    def stored(self, name: str) -> Stored:
        """Return how a layer is stored, with every header checked."""
        words, n = self.shape_of(f"{name}.qweight", WORDS)
        k, group_size = words * PER_WORD, int(self.settings["group_size"])
        if self._own_groups:
            groups = self.shape_of(f"{name}.scales", FLOATS)[0]
            whole = groups <= k and k % groups == 0
            group_size = k // groups if whole else group_size
        found = Stored(n, k, k if group_size == -1 else min(group_size, k), self._symmetric)
        self.hold(f"{name}.scales", FLOATS, (found.groups, n))
        self.hold(f"{name}.qzeros", WORDS, (found.groups, group_count(n, PER_WORD)))
        if f"{name}.g_idx" in self.folder:
            self.hold(f"{name}.g_idx", WORDS, (k,))
            self.hold_in_order(name, "g_idx", found)
        elif self.settings.get("desc_act"):
            raise CheckpointError(f"The tensor '{name}.g_idx' is missing.", mend="the checkpoint is incomplete")
        return found

    def codes_and_zeros(self, name: str, stored: Stored) -> tuple[Tensor, Tensor | None, Tensor]:
        """Read codes, zero points and scales; v1 stores one less than the zero point."""
        codes = unpack_int32(self.folder.read(f"{name}.qweight").t(), stored.in_features)
        zero = unpack_int32(self.folder.read(f"{name}.qzeros"), stored.out_features).t().contiguous()
        if self._format == "gptq":
            if int(zero.max()) == QUANT_MAX:
                raise CheckpointError(
                    f"{name} stores the zero point 15 in GPTQ v1, which some loaders read as 16 and others as 0.",
                    allowed="0 to 14",
                    mend="convert the folder to gptq_v2 with GPTQModel",
                )
            zero = zero + 1
        if stored.symmetric:
            self.hold_symmetric(name, zero)
        return codes, None if stored.symmetric else zero, self.folder.read(f"{name}.scales").t()
