"""`Int4Linear`: the linear layer y = x W^T + b over an int4 weight."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from workbench.affine import QuantizedWeight
from workbench.choice import device_note, path_note
from workbench.config import Domain, Int4WeightOnlyConfig, ResolvedConfig
from workbench.dequantize import dequantized
from workbench.errors import KernelError, WeightError
from workbench.kernels import int4_linear
from workbench.options import SolverName, SolverOptions
from workbench.packed import padding_note
from workbench.packed_module import PackedModule
from workbench.portable import PortableWeight
from workbench.solvers import solve


class Int4Linear(PackedModule):
    """A linear layer y = x W^T + b whose weight W [out_features, in_features] is int4 in groups along in_features.

    It is not an `nn.Linear`, so walks over a model do not count it as dense. Its state dict holds the portable
    codes; the device's layout is made when they land on a device, and made anew by `.to(device)`.

    Attributes:
        in_features: K.
        out_features: N.
        group_size: Weights per group along K.
        domain: Where the zero point lives: "float", "int" or "symmetric".
        inner_k_tiles: Tile count of the CUDA layout.
        bias: Parameter [N] or None.
        dtype: dtype of `.weight` and of a bias made here; activations of any float dtype are taken.
        solved_by: The form of the solver that found the codes, for instance "refined/1"; "" where nobody knows.
    """

    bias: nn.Parameter | None

    def __init__(
        self,
        weight: QuantizedWeight | PortableWeight,
        bias: Tensor | None = None,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.bfloat16,
        inner_k_tiles: int = 8,
    ) -> None:
        """Pack `weight` for `device` (default: where its codes are); `bias` is float [N] or None, and copied.

        Raises:
            WeightError: when the bias or the dtype does not fit.
            ConfigError: for another tile count than 2, 4 or 8.
            KernelError: when the kernel cannot hold the weight.
        """
        if not dtype.is_floating_point:
            raise WeightError(f"dtype={dtype}.", allowed="a float dtype, for instance torch.bfloat16")
        super().__init__(weight, device=device, inner_k_tiles=inner_k_tiles, dtype=dtype)
        if bias is not None and (bias.shape != (self.out_features,) or not bias.is_floating_point()):
            raise WeightError(
                f"bias is {bias.dtype} {list(bias.shape)}.",
                allowed=f"a float dtype, [{self.out_features}] for {self.out_features} rows",
            )
        self.bias = None if bias is None else _as_parameter(bias, self.device)

    @classmethod
    def from_linear(
        cls,
        linear: nn.Linear,
        cfg: Int4WeightOnlyConfig | ResolvedConfig | None = None,
        *,
        solver: SolverName | None = None,
        domain: Domain | None = None,
        options: SolverOptions | None = None,
        name: str = "weight",
    ) -> Int4Linear:
        """Quantize a dense linear layer.

        Args:
            linear: Its weight is of any float dtype [out_features, in_features].
            cfg: The configuration; the default one when not given.
            solver: "rtn", "hqq" or "refined"; None follows `cfg.use_hqq`.
            domain: "float", "int" or "symmetric"; None follows the configuration.
            options: Settings of the solver; None takes its defaults.
            name: What the weight is called in errors.

        Raises:
            WeightError: when the weight holds NaN or infinity.
            ConfigError: when the arguments contradict the configuration.
        """
        if not isinstance(linear, nn.Linear):
            raise WeightError(f"{name} is a {type(linear).__name__}.", allowed="an nn.Linear")
        weight = linear.weight.detach()
        if not isinstance(cfg, ResolvedConfig):
            cfg = (cfg or Int4WeightOnlyConfig()).resolved(weight.device, solver=solver, domain=domain, options=options)
        solved = solve(weight, cfg, name=name).weight
        return cls(solved, linear.bias, dtype=weight.dtype, inner_k_tiles=cfg.inner_k_tiles)

    @property
    def weight(self) -> Tensor:
        """The weights that the kernel multiplies with, dequantized: `dtype` [N, K]. Read-only; made at each access."""
        return dequantized(self.packed_weight(), self.dtype)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "weight":
            raise WeightError(
                "The weight of an Int4Linear is read-only: it is dequantized anew at each access.",
                mend="make a new layer: Int4Linear(wb.quantize_weight(tensor, cfg), bias)",
            )
        super().__setattr__(name, value)

    def forward(self, x: Tensor) -> Tensor:
        """Return x W^T + b: x float [..., in_features] -> [..., out_features] in x's dtype.

        Raises:
            KernelError: when x does not fit, or the bias is on another device than the weight.
        """
        result = int4_linear(x, self.packed_weight())
        bias = self.bias
        if bias is None:
            return result
        if bias.device != result.device:
            raise KernelError(
                f"The bias is on {bias.device}, the packed weight on {result.device}.",
                allowed="one device for both",
                mend=f"move the whole layer with .to({str(result.device)!r})",
            )
        return result + bias.to(result.dtype)

    def notes(self) -> list[str]:
        """Say how this layer runs where it is: kernel, padding, casts."""
        padding = padding_note(self.out_features, self.in_features, self.group_size, self.device, self.inner_k_tiles)
        found = [device_note(self.device)]
        if choice := path_note(self.device):
            found.append(choice)
        if padding:
            found.append(f"padded in the kernel's layout: {padding}")
        if self.dtype != torch.bfloat16:
            found.append(
                f"activations of {self.dtype} are cast to bfloat16 for the kernel and back".replace("torch.", "")
            )
        if self.stored_scale is not None:
            found.append("scales are stored in float32 and rounded to bfloat16 for the kernel")
        return found

    def extra_repr(self) -> str:
        """Summarize the layer for `print(model)`."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}, "
            f"group_size={self.group_size}, domain={self.domain}"
        )


def _as_parameter(bias: Tensor, device: torch.device) -> nn.Parameter:
    return nn.Parameter(bias.detach().to(device, copy=True), requires_grad=bias.requires_grad)
