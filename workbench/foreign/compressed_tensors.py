"""compressed-tensors' pack-quantized folders; the format is described in `workbench.targets.compressed_tensors`.

Keys of its configuration: compressed-tensors 0.20, `QuantizationConfig`, `QuantizationScheme`, `QuantizationArgs`.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from workbench.affine import group_count
from workbench.errors import CheckpointError
from workbench.foreign.int_words import FLOATS, WORDS, Stored, WordFolder
from workbench.foreign.settings import left_out
from workbench.targets.int32_codes import PER_WORD, unpack_int32

_FORMAT = "pack-quantized"
_INTS = ("I64", "I32")
_READ = ("quant_method", "format", "config_groups", "transform_config", "sparsity_config", "moe_sparsity_config")
_NO_ACCOUNT = ("ignore", "quantization_status", "global_compression_ratio", "version")  # the tensors say what is int4
_READ_OF_GROUP = ("targets", "weights", "format", "input_activations", "output_activations")
_READ_OF_WEIGHTS = ("num_bits", "type", "symmetric", "strategy", "group_size", "dynamic", "block_structure", "actorder")
_NO_ACCOUNT_OF_WEIGHTS = ("observer", "observer_kwargs", "scale_dtype", "zp_dtype")  # the tensors have their dtypes
_BY_ACTIVATION = ("group", "dynamic", True)


class CompressedTensorsFolder(WordFolder):
    """The contents of a pack-quantized folder."""

    codes_part = "weight_packed"
    own_parts = ("weight_packed", "weight_scale", "weight_shape", "weight_zero_point", "weight_g_idx")

    def check_settings(self) -> list[str]:
        """Refuse a quantization_config that does not stand for 4-bit integer codes; return what it says besides."""
        groups = self.settings.get("config_groups")
        if not isinstance(groups, dict) or not groups or not all(isinstance(group, dict) for group in groups.values()):
            raise CheckpointError(f"{str(self.directory)!r} has config_groups {groups!r}.", allowed="a JSON object")
        sparsity = self.settings.get("sparsity_config")
        self.wanted("transform_config", self.settings.get("transform_config") or None, (None,))
        self.wanted("sparsity_config", sparsity or None, (None, {"format": "dense"}))
        self.wanted("moe_sparsity_config", self.settings.get("moe_sparsity_config") or None, (None,))
        notes = left_out(self.settings, (*_READ, *_NO_ACCOUNT, "kv_cache_scheme"))
        if self.settings.get("kv_cache_scheme"):
            notes.append("kv_cache_scheme is not carried: keys and values are cached in the model's dtype")
        for group in groups.values():
            notes += self._check_group(group)
        self._symmetric = {bool(group["weights"].get("symmetric", True)) for group in groups.values()}
        self._sizes = {_group_size(group["weights"]) for group in groups.values()}
        self._by_activation = any(group["weights"].get("actorder") in _BY_ACTIVATION for group in groups.values())
        return list(dict.fromkeys(notes))

    def _check_group(self, group: dict[str, Any]) -> list[str]:
        weights = group.get("weights")
        if not isinstance(weights, dict):
            raise CheckpointError(f"{str(self.directory)!r} has weights {weights!r}.", allowed="a JSON object")
        self.wanted("format", group.get("format") or self.settings.get("format"), (_FORMAT,))
        self.wanted("num_bits", weights.get("num_bits"), (4,))
        self.wanted("type", weights.get("type", "int"), ("int",))
        self.wanted("symmetric", weights.get("symmetric", True), (True, False))
        self.wanted("strategy", weights.get("strategy"), ("group", "channel"))
        self.wanted("dynamic", weights.get("dynamic", False), (False,))
        self.wanted("block_structure", weights.get("block_structure"), (None,))
        self.wanted("actorder", weights.get("actorder"), (None, False, "weight", "static", *_BY_ACTIVATION))
        for key in ("input_activations", "output_activations"):
            self.wanted(key, group.get(key), (None,))
        notes = left_out(group, _READ_OF_GROUP, "config_groups: ")
        return notes + left_out(weights, (*_READ_OF_WEIGHTS, *_NO_ACCOUNT_OF_WEIGHTS), "config_groups: weights.")

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
        self._hold_as_said(name, found)
        if f"{name}.weight_g_idx" in self.folder:
            self.hold(f"{name}.weight_g_idx", WORDS, (k,))
            self.hold_in_order(name, "weight_g_idx", found)
        elif self._by_activation:
            raise CheckpointError(f"The tensor '{name}.weight_g_idx' is missing.", mend="the checkpoint is incomplete")
        return found

    def _hold_as_said(self, name: str, stored: Stored) -> None:
        """Refuse a layer that no config group describes: its loader would read it otherwise."""
        if stored.symmetric not in self._symmetric:
            has = "no weight_zero_point" if stored.symmetric else "a weight_zero_point"
            raise CheckpointError(f"{name} has {has}, and symmetric is {not stored.symmetric}.", mend="fetch it again")
        whole_rows = stored.groups == 1 and any(size == 0 or size >= stored.in_features for size in self._sizes)
        if stored.group_size not in self._sizes and not whole_rows:
            allowed = ", ".join("one for a row" if size == 0 else str(size) for size in sorted(self._sizes))
            raise CheckpointError(f"{name} has a scale for each {stored.group_size}.", allowed=allowed)

    def codes_and_zeros(self, name: str, stored: Stored) -> tuple[Tensor, Tensor | None, Tensor]:
        """Read codes, zero points and scales."""
        codes = unpack_int32(self.folder.read(f"{name}.weight_packed"), stored.in_features)
        zero = None
        if not stored.symmetric:
            words = self.folder.read(f"{name}.weight_zero_point")
            zero = unpack_int32(words.t(), stored.out_features).t().contiguous()
        return codes, zero, self.folder.read(f"{name}.weight_scale")


def _group_size(weights: dict[str, Any]) -> int:
    """Return the group size that a config group says, 0 for one scale a row."""
    size = weights.get("group_size")
    return size if weights.get("strategy") == "group" and type(size) is int and size > 0 else 0
