"""A module whose state dict holds its int4 weight as portable tensors, so that it fits every device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from workbench.affine import QuantizedWeight
from workbench.config import Domain
from workbench.errors import WeightError, WorkbenchError
from workbench.portable import PortableWeight, portable_names, portable_tensors, portable_weight


@dataclass(frozen=True)
class Fit:
    """What a weight has to be to fit a module: int4 [rows, in_features] in groups along in_features.

    Attributes:
        rows: Rows of the weight, those of all experts.
        in_features: K.
        group_size: Weights per group along K.
        domain: Where the zero point lives.
        owner: What has so many rows, in words.
    """

    rows: int
    in_features: int
    group_size: int
    domain: Domain
    owner: str = "this layer"

    def joined(self, tensors: dict[str, Tensor]) -> PortableWeight:
        """Join the tensors of a weight (see `portable_tensors`).

        Raises:
            WeightError: when a shape or dtype does not fit.
            CheckpointError: when a tensor is missing or damaged.
        """
        form: dict[str, Any] = {"in_features": self.in_features, "group_size": self.group_size, "domain": self.domain}
        weight = portable_weight(tensors, **form)
        if weight.shape[0] != self.rows:
            raise WeightError(f"weight has {weight.shape[0]} rows.", allowed=f"{self.rows} for {self.owner}")
        return weight


class PortableModule(nn.Module):
    """Saves and loads its weight as portable tensors; a subclass says how it holds one."""

    @property
    def device(self) -> torch.device:
        """Device of the weight."""
        raise NotImplementedError

    def quantized_weight(self) -> QuantizedWeight:
        """Return the portable weight, exactly as it was given."""
        raise NotImplementedError

    def _fit(self) -> Fit:
        """Return what a weight has to be to take this one's place."""
        raise NotImplementedError

    def _take(self, weight: PortableWeight, device: torch.device) -> None:
        """Hold another weight of this shape in the layout of a device."""
        raise NotImplementedError

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination.update(portable_tensors(self.quantized_weight(), prefix))

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        fit = self._fit()
        names = portable_names(fit.domain)
        given = {name: state_dict[prefix + name] for name in names if prefix + name in state_dict}
        rest = {key: value for key, value in state_dict.items() if key.removeprefix(prefix) not in given}
        super()._load_from_state_dict(rest, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs)
        missing_keys.extend(prefix + name for name in names if name not in given)
        if len(given) < len(names):
            return
        assigned = local_metadata.get("assign_to_params_buffers", False)  # load_state_dict(assign=True)
        try:
            self._take(fit.joined(given), given["weight"].device if assigned else self.device)
        except WorkbenchError as error:
            error_msgs.append(f"{prefix.rstrip('.') or type(self).__name__}: {error}")
