"""compressed-tensors' pack-quantized folders; the format is described in `workbench.targets.compressed_tensors`."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from workbench.affine import group_count
from workbench.errors import CheckpointError
from workbench.foreign.int_words import FLOATS, WORDS, Stored, WordFolder
from workbench.targets.int32_codes import PER_WORD, unpack_int32

_FORMAT = "pack-quantized"
_INTS = ("I64", "I32")


class CompressedTensorsFolder(WordFolder):
    """The contents of a pack-quantized folder."""

    codes_part = "weight_packed"
    own_parts = ("weight_packed", "weight_scale", "weight_shape", "weight_zero_point", "weight_g_idx")

    def check_settings(self) -> None:
        """Refuse a quantization_config that does not stand for 4-bit integer codes."""
        groups = self.settings.get("config_groups")
        if not isinstance(groups, dict) or not groups or not all(isinstance(group, dict) for group in groups.values()):
            raise CheckpointError(f"{str(self.directory)!r} has config_groups {groups!r}.", allowed="a JSON object")
        for key in ("transform_config", "sparsity_config"):
            self.wanted(key, self.settings.get(key) or None, (None,))
        for group in groups.values():
            self._check_group(group)

    def _check_group(self, group: dict[str, Any]) -> None:
        weights = group.get("weights")
        if not isinstance(weights, dict):
            raise CheckpointError(f"{str(self.directory)!r} has weights {weights!r}.", allowed="a JSON object")
        self.wanted("format", group.get("format") or self.settings.get("format"), (_FORMAT,))
        self.wanted("num_bits", weights.get("num_bits"), (4,))
        self.wanted("type", weights.get("type", "int"), ("int",))
        self.wanted("strategy", weights.get("strategy"), ("group", "channel"))
        self.wanted("input_activations", group.get("input_activations"), (None,))

    def stored(self, name: str) -> Stored:
        """Return how a layer is stored, with every header checked."""
        n, words = self.shape_of(f"{name}.weight_packed", WORDS)
        rows, groups = self.shape_of(f"{name}.weight_scale", FLOATS)
        self.hold(f"{name}.weight_shape", _INTS, (2,))
        said = self.folder.read(f"{name}.weight_shape").tolist()
        k = said[1]
        if said[0] != n or rows != n or k < 1 or -(-k // PER_WORD) != words or groups > k or k % groups:
            raise CheckpointError(
                f"{name} has weight_shape {said}, {words} words and {groups} scales a row for {rows} rows.",
                allowed=f"weight_shape [{n}, up to {words * PER_WORD}] with scales that divide it",
                mend="the file is damaged: fetch it again",
            )
        symmetric = f"{name}.weight_zero_point" not in self.folder
        if not symmetric:
            self.hold(f"{name}.weight_zero_point", WORDS, (group_count(n, PER_WORD), groups))
        found = Stored(n, k, k // groups, symmetric)
        if f"{name}.weight_g_idx" in self.folder:
            self.hold(f"{name}.weight_g_idx", WORDS, (k,))
            self.hold_in_order(name, "weight_g_idx", found)
        return found

    def codes_and_zeros(self, name: str, stored: Stored) -> tuple[Tensor, Tensor | None, Tensor]:
        """Read codes, zero points and scales."""
        codes = unpack_int32(self.folder.read(f"{name}.weight_packed"), stored.in_features)
        zero = None
        if not stored.symmetric:
            words = self.folder.read(f"{name}.weight_zero_point")
            zero = unpack_int32(words.t(), stored.out_features).t().contiguous()
        return codes, zero, self.folder.read(f"{name}.weight_scale")
