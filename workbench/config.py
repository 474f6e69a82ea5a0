"""The int4 weight-only configuration, with torchao 0.12's fields and defaults, and what its "auto" values became.

Everything that cannot work is refused here, when the configuration is made, so that nothing fails hours later.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto

import torch

from workbench.errors import ConfigError
from workbench.not_for_transformers import NotForTransformers
from workbench.options import SolverName, SolverOptions, resolve_options
from workbench.resolved_config import DOMAINS as DOMAINS
from workbench.resolved_config import SCALE_DTYPES as SCALE_DTYPES
from workbench.resolved_config import Domain as Domain
from workbench.resolved_config import Resolution as Resolution
from workbench.resolved_config import ResolvedConfig as ResolvedConfig
from workbench.resolved_config import check_together, resolve_domain, resolve_preserve_zero, resolve_solver

GROUP_SIZES = (256, 128, 64, 32)
INNER_K_TILES = (2, 4, 8)


class MappingType(Enum):
    """How a range of weights is mapped to integer codes (torchao 0.11's names)."""

    SYMMETRIC = auto()
    SYMMETRIC_NO_CLIPPING_ERR = auto()
    ASYMMETRIC = auto()

    def __repr__(self) -> str:
        """As one writes it."""
        return str(self)


class ZeroPointDomain(Enum):
    """Where the zero point lives: an integer code, a float in weight units, or (in a configuration) "auto"."""

    INT = auto()
    FLOAT = auto()
    NONE = auto()

    def __repr__(self) -> str:
        """As one writes it."""
        return str(self)


# What a configuration names; NONE is "auto", and the symmetric domain can only be asked for beside it.
_CONFIGURED: dict[ZeroPointDomain, Domain] = {ZeroPointDomain.FLOAT: "float", ZeroPointDomain.INT: "int"}


@dataclass(frozen=True)
class TensorCoreTiledLayout:
    """The tiled layout of the CUDA kernel.

    Attributes:
        inner_k_tiles: 16-wide K tiles held by one packed tile: 2, 4 or 8. It changes speed, never values.

    Raises:
        ConfigError: for any other number of tiles.
    """

    inner_k_tiles: int = 8

    def __post_init__(self) -> None:
        if type(self.inner_k_tiles) is not int or self.inner_k_tiles not in INNER_K_TILES:
            raise ConfigError(
                f"inner_k_tiles={self.inner_k_tiles!r} is not a tile count of the tinygemm kernel.",
                allowed="2, 4 or 8",
                mend="use TensorCoreTiledLayout(inner_k_tiles=8), the default",
            )


@dataclass(frozen=True)
class Int4WeightOnlyConfig(NotForTransformers):
    """torchao 0.12's int4 weight-only configuration for the tinygemm kernels.

    Args:
        group_size: Weights per scale and zero point: 256, 128, 64 or 32.
        layout: Tile layout of the CUDA kernel.
        use_hqq: Solve for the zero points with HQQ instead of rounding to nearest.
        zero_point_domain: FLOAT, INT, or NONE, which means "auto": the domain that the device's kernel takes first.
        set_inductor_config: Whether code that compiles the model is to use the recommended inductor settings. Making
            or using a configuration changes no setting of the process: compile inside
            `with workbench.inductor.inductor_settings(cfg.set_inductor_config):`, which puts them all back.
        preserve_zero: Widen each range to contain 0. None becomes True for INT and False for FLOAT.

    Raises:
        ConfigError: for a value or a combination that cannot work, with the mend.
    """

    group_size: int = 128
    layout: TensorCoreTiledLayout = field(default_factory=TensorCoreTiledLayout)
    use_hqq: bool = False
    zero_point_domain: ZeroPointDomain = ZeroPointDomain.NONE
    set_inductor_config: bool = True
    preserve_zero: bool | None = None

    def __post_init__(self) -> None:
        _check_group_size(self.group_size)
        _check_type("layout", self.layout, TensorCoreTiledLayout, "TensorCoreTiledLayout(inner_k_tiles=8)")
        _check_type("zero_point_domain", self.zero_point_domain, ZeroPointDomain, "ZeroPointDomain.FLOAT")
        for name in ("use_hqq", "set_inductor_config"):
            _check_type(name, getattr(self, name), bool, "True or False")
        if self.preserve_zero is not None:
            _check_type("preserve_zero", self.preserve_zero, bool, "True, False or None")
        if self.use_hqq and self.preserve_zero and self.zero_point_domain is not ZeroPointDomain.INT:
            raise ConfigError(
                "preserve_zero=True with use_hqq=True and a float zero point: HQQ moves the zero point freely, "
                "so 0 would not stay representable.",
                allowed="preserve_zero=None or False with FLOAT, or any preserve_zero with INT",
                mend="use zero_point_domain=ZeroPointDomain.INT, or leave preserve_zero at None",
            )

    def resolved(
        self,
        device: torch.device | str = "cpu",
        *,
        domain: Domain | None = None,
        solver: SolverName | None = None,
        scale_dtype: torch.dtype = torch.bfloat16,
        options: SolverOptions | None = None,
    ) -> ResolvedConfig:
        """Decide everything that this configuration leaves open, for one device.

        Args:
            device: Device that will run the weights; it decides what NONE means.
            domain: "float", "int" or "symmetric", overriding an automatic domain. Symmetric can only be asked for here.
            solver: "rtn", "hqq", "refined" or "calibrated"; None follows `use_hqq`.
            scale_dtype: dtype in which scales are stored: bfloat16 (what the kernels run) or float32.
            options: Settings of the solver; None takes its defaults.

        Raises:
            ConfigError: when the arguments contradict the configuration.
        """
        configured = _CONFIGURED.get(self.zero_point_domain)
        final_domain, domain_notes = resolve_domain(configured, domain, torch.device(device))
        final_solver, solver_notes = resolve_solver(self.use_hqq, solver)
        preserve_zero, zero_notes = resolve_preserve_zero(self.preserve_zero, final_domain)
        check_together(final_solver, final_domain, preserve_zero, scale_dtype)
        return ResolvedConfig(
            group_size=self.group_size,
            domain=final_domain,
            preserve_zero=preserve_zero,
            solver=final_solver,
            inner_k_tiles=self.layout.inner_k_tiles,
            scale_dtype=scale_dtype,
            options=resolve_options(final_solver, options),
            notes=(*domain_notes, *solver_notes, *zero_notes),
        )


def _check_group_size(group_size: object) -> None:
    if type(group_size) is not int or group_size not in GROUP_SIZES:
        raise ConfigError(
            f"group_size={group_size!r} is not supported by the int4 kernels.",
            allowed="256, 128, 64 or 32",
            mend="use group_size=64 (more accurate) or 128 (smaller)",
        )


def _check_type(name: str, value: object, kind: type, allowed: str) -> None:
    if not isinstance(value, kind):
        mend = f"pass {name}={allowed}"
        if name == "zero_point_domain" and value is None:
            mend = "use ZeroPointDomain.NONE for an automatic choice"
        raise ConfigError(
            f"{name}={value!r} is of type {type(value).__name__}.", allowed=f"a {kind.__name__}", mend=mend
        )
