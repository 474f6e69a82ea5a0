"""A module that holds an int4 weight: it moves, is copied, and is saved without a change of a single code.

The weight lies in the layout of the device where it is, and is packed anew when it lands on another; state dicts hold
the portable codes, so that they fit every device.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn

from workbench.affine import QuantizedWeight, group_count
from workbench.config import TensorCoreTiledLayout
from workbench.layout import Layout
from workbench.packed import PackedWeight, kernel_layout, pack_weight
from workbench.portable import PortableWeight
from workbench.portable_module import Fit, PortableModule

_BUFFERS = ("packed", "scales_and_zeros", "zero_points", "stored_scale", "stored_zero")


class PackedModule(PortableModule):
    """The int4 weight W [out_features, in_features] of a layer, in groups along in_features.

    Attributes:
        in_features: K.
        out_features: N.
        group_size: Weights per group along K.
        domain: Where the zero point lives: "float", "int" or "symmetric".
        inner_k_tiles: Tile count of the CUDA layout.
        dtype: dtype of the dense weight that this stands for; `.to(dtype)` changes it, and no code.
        solved_by: The form of the solver that found the codes, for instance "refined/1"; "" where nobody knows.
    """

    packed: Tensor
    scales_and_zeros: Tensor
    zero_points: Tensor | None
    stored_scale: Tensor | None
    stored_zero: Tensor | None
    _ready: PackedWeight | None = None

    def __init__(
        self,
        weight: QuantizedWeight | PortableWeight,
        *,
        device: torch.device | str | None,
        dtype: torch.dtype,
        inner_k_tiles: int,
    ) -> None:
        """Pack `weight` for `device` (None: where its codes are).

        Raises:
            ConfigError: for another tile count than 2, 4 or 8.
            KernelError: when the kernel cannot hold the weight.
        """
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.group_size, self.domain, self.inner_k_tiles, self.dtype = (
            weight.group_size,
            weight.domain,
            TensorCoreTiledLayout(inner_k_tiles).inner_k_tiles,
            dtype,
        )
        self.solved_by = weight.solved_by
        self._layout: Layout | None = None
        for name in _BUFFERS:
            self.register_buffer(name, None, persistent=False)
        self._land(weight, weight.device if device is None else torch.device(device))

    @property
    def device(self) -> torch.device:
        """Device of the packed weight."""
        return self.packed.device

    @property
    def size_bytes(self) -> int:
        """Bytes held in memory for the weight: packed codes, scales and zeros."""
        held = (self._buffers[name] for name in _BUFFERS)
        return sum(tensor.numel() * tensor.element_size() for tensor in held if tensor is not None)

    def quantized_weight(self) -> QuantizedWeight:
        """Return the portable weight, exactly as it was given."""
        packed = self.packed_weight()
        scale = packed.scale() if self.stored_scale is None else self.stored_scale
        zero: Tensor | None = None
        if self.domain == "int":
            zero = self.zero_points
        elif self.domain == "float":
            zero = packed.zero() if self.stored_zero is None else self.stored_zero
        return QuantizedWeight(packed.codes(), scale, zero, self.group_size, self.domain, self.solved_by)

    def packed_weight(self) -> PackedWeight:
        """Return the packed weight that the kernels multiply with; remembered, since each forward asks for it."""
        if torch.compiler.is_compiling():
            return self._joined()
        ready, buffers = self._ready, self._buffers
        if (
            ready is None
            or ready.packed is not buffers["packed"]
            or ready.scales_and_zeros is not buffers["scales_and_zeros"]
            or ready.layout is not self._layout
            or ready.group_size != self.group_size
            or ready.in_features != self.in_features
        ):
            ready = self._joined()
            object.__setattr__(self, "_ready", ready)
            if _kind(self._layout) != _kind(kernel_layout(self.device, self.inner_k_tiles)):
                return self._landed_here()
        return ready

    def _landed_here(self) -> PackedWeight:
        """Make the layout anew after tensors were moved one by one and not by `.to()`, as accelerate's hooks do."""
        if self.device.type != "meta":
            with torch.inference_mode(False), torch.no_grad():
                self._land(self.quantized_weight(), self.device)
            object.__setattr__(self, "_ready", self._joined())
        assert self._ready is not None
        return self._ready

    def _joined(self) -> PackedWeight:
        shape = (self.out_features, self.in_features)
        return PackedWeight(self.packed, self.scales_and_zeros, self._layout, *shape, self.group_size)

    def _land(self, weight: QuantizedWeight | PortableWeight, device: torch.device) -> None:
        """Make the layout of `device`; what the kernel's bfloat16 cannot give back is kept beside it."""
        packed = pack_weight(weight, device, self.inner_k_tiles)
        self.packed, self.scales_and_zeros, self._layout = (
            packed.packed,
            packed.scales_and_zeros,
            packed.layout,
        )
        in_full = weight.scale.dtype != torch.bfloat16
        self.stored_scale = weight.scale.to(device) if in_full else None
        zero = None if weight.zero is None else weight.zero.to(device)
        self.stored_zero = zero if in_full and self.domain == "float" else None
        self.zero_points = zero if self.domain == "int" else None
        # accelerate moves every buffer of this set, and stumbles over one that is None.
        self._non_persistent_buffers_set = {name for name in _BUFFERS if self._buffers[name] is not None}

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Follow `.to()` and its kin: a new device repacks, a new float dtype changes bias and `.weight` only."""
        probe = fn(torch.empty(0, dtype=self.dtype, device=self.device))
        if probe.device != self.device:
            weight = self._empty_weight() if self.device.type == "meta" else self.quantized_weight()
            self._land(weight.to("cpu") if self.device.type == "meta" else weight, probe.device)
        if probe.dtype.is_floating_point:
            self.dtype = probe.dtype
        buffers, self._buffers = self._buffers, {}
        try:
            nn.Module._apply(self, fn, recurse)
        finally:
            self._buffers = buffers
        return self

    def _empty_weight(self) -> QuantizedWeight:
        """All codes 8 and all scales 0, of this layer's shapes: what `.to_empty()` finds to fill."""
        groups = (self.out_features, group_count(self.in_features, self.group_size))
        scale = torch.zeros(groups, dtype=torch.bfloat16 if self.stored_scale is None else self.stored_scale.dtype)
        zero = {"float": scale, "int": torch.full(groups, 8, dtype=torch.uint8), "symmetric": None}[self.domain]
        codes = torch.full((self.out_features, self.in_features), 8, dtype=torch.uint8)
        return QuantizedWeight(codes, scale, zero, self.group_size, self.domain)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Unpickle; a layout of another machine is unpacked by formula and made anew for this one."""
        nn.Module.__setstate__(self, state)
        if self._layout != kernel_layout(self.device, self.inner_k_tiles):
            self._land(self.quantized_weight(), self.device)

    def _fit(self) -> Fit:
        return Fit(self.out_features, self.in_features, self.group_size, self.domain)

    def _take(self, weight: PortableWeight, device: torch.device) -> None:
        self.solved_by = weight.solved_by
        self._land(weight, device)


def _kind(layout: Layout | None) -> str | None:
    return None if layout is None else layout.kind
