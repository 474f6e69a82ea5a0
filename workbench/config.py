"""The int4 weight-only configuration, with torchao 0.12's fields and defaults, and what its "auto" values became.

Everything that cannot work is refused here, when the configuration is made, so that nothing fails hours later.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any, Literal, get_args

import torch

from workbench.errors import ConfigError
from workbench.options import FORMS, SOLVERS, SolverName, SolverOptions, options_to_json, resolve_options

Domain = Literal["float", "int", "symmetric"]

GROUP_SIZES = (256, 128, 64, 32)
INNER_K_TILES = (2, 4, 8)
SCALE_DTYPES = (torch.bfloat16, torch.float32)
DOMAINS: tuple[Domain, ...] = get_args(Domain)

# Device type -> the zero-point domain that its kernel takes first (torchao 0.12, LAYOUT_TO_ZERO_POINT_DOMAIN).
_AUTO_DOMAIN: dict[str, Domain] = {"xpu": "int"}


class MappingType(Enum):
    """How a range of weights is mapped to integer codes (torchao 0.11's names)."""

    SYMMETRIC = auto()
    SYMMETRIC_NO_CLIPPING_ERR = auto()
    ASYMMETRIC = auto()


class ZeroPointDomain(Enum):
    """Where the zero point lives: an integer code, a float in weight units, or (in a configuration) "auto"."""

    INT = auto()
    FLOAT = auto()
    NONE = auto()


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
class Resolution:
    """One setting that was left to the workbench, and what became of it.

    Attributes:
        setting: Name of the setting.
        asked: What the configuration said.
        became: What is used.
        why: The rule that decided it.
    """

    setting: str
    asked: str
    became: str
    why: str

    def __str__(self) -> str:
        return f"{self.setting}: {self.asked} → {self.became} ({self.why})"


@dataclass(frozen=True)
class ResolvedConfig:
    """A configuration with nothing left open: what the solvers, the packer and the reports read.

    Attributes:
        group_size: Weights per group along in_features.
        domain: Where the zero point lives; never "none" or "auto".
        preserve_zero: Whether each group's range is widened to contain 0.
        solver: The method that finds the codes.
        inner_k_tiles: Tile count of the CUDA layout.
        scale_dtype: dtype in which scales (and float zero points) are stored.
        options: Settings of the solver; None for round-to-nearest.
        notes: Each "auto" with what it became and why.
    """

    group_size: int
    domain: Domain
    preserve_zero: bool
    solver: SolverName
    inner_k_tiles: int = 8
    scale_dtype: torch.dtype = torch.bfloat16
    options: SolverOptions | None = None
    notes: tuple[Resolution, ...] = ()

    @property
    def form(self) -> str:
        """The form of the solver whose results are stored, for instance "hqq/2"."""
        return FORMS[self.solver]

    def to_json(self) -> dict[str, Any]:
        """Return the settings (without notes) as JSON types, for checkpoints and reports."""
        return {
            "group_size": self.group_size,
            "zero_point_domain": self.domain,
            "preserve_zero": self.preserve_zero,
            "solver": self.solver,
            "solver_form": self.form,
            "solver_options": {} if self.options is None else options_to_json(self.options),
            "inner_k_tiles": self.inner_k_tiles,
            "scale_dtype": str(self.scale_dtype).removeprefix("torch."),
        }


@dataclass(frozen=True)
class Int4WeightOnlyConfig:
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
        notes: list[Resolution] = []
        final_domain = self._resolve_domain(torch.device(device), domain, notes)
        final_solver = self._resolve_solver(solver, notes)
        preserve_zero = self._resolve_preserve_zero(final_domain, notes)
        if scale_dtype not in SCALE_DTYPES:
            raise ConfigError(
                f"scale_dtype={scale_dtype} cannot be stored.",
                allowed="torch.bfloat16 or torch.float32",
                mend="use bfloat16",
            )
        if final_solver == "hqq" and final_domain == "symmetric":
            raise ConfigError(
                "HQQ moves the zero point, and the symmetric domain has none.",
                allowed="'rtn', 'refined' or 'calibrated' with symmetric; any solver with float and int",
                mend="use the float or int domain, or solver='refined' with use_hqq=False",
            )
        if final_solver == "hqq" and final_domain == "float" and preserve_zero:
            raise ConfigError(
                "preserve_zero=True with HQQ and a float zero point: HQQ moves the zero point freely.",
                allowed="preserve_zero=None or False",
                mend="use the int domain, or leave preserve_zero at None",
            )
        return ResolvedConfig(
            group_size=self.group_size,
            domain=final_domain,
            preserve_zero=preserve_zero,
            solver=final_solver,
            inner_k_tiles=self.layout.inner_k_tiles,
            scale_dtype=scale_dtype,
            options=resolve_options(final_solver, options),
            notes=tuple(notes),
        )

    def _resolve_domain(self, device: torch.device, domain: Domain | None, notes: list[Resolution]) -> Domain:
        if domain is not None and domain not in DOMAINS:
            raise ConfigError(
                f"domain={domain!r} is unknown.", allowed=_quoted(DOMAINS), mend=_nearest("domain", domain, DOMAINS)
            )
        named: dict[ZeroPointDomain, Domain] = {ZeroPointDomain.FLOAT: "float", ZeroPointDomain.INT: "int"}
        configured = named.get(self.zero_point_domain)
        if configured is None:
            final = domain or _AUTO_DOMAIN.get(device.type, "float")
            why = "asked for beside the configuration" if domain else f"the {device.type} kernel takes it first"
            notes.append(Resolution("zero_point_domain", "NONE (auto)", final, why))
            return final
        if domain is not None and domain != configured:
            raise ConfigError(
                f"domain={domain!r} contradicts zero_point_domain={self.zero_point_domain.name}.",
                allowed=f"domain=None or {configured!r} with this configuration",
                mend="set zero_point_domain=ZeroPointDomain.NONE in the configuration to choose the domain outside it",
            )
        return configured

    def _resolve_solver(self, solver: SolverName | None, notes: list[Resolution]) -> SolverName:
        if solver is None:
            final: SolverName = "hqq" if self.use_hqq else "rtn"
            notes.append(Resolution("solver", "None", final, f"use_hqq={self.use_hqq}"))
            return final
        if solver not in SOLVERS:
            raise ConfigError(
                f"solver={solver!r} is unknown.", allowed=_quoted(SOLVERS), mend=_nearest("solver", solver, SOLVERS)
            )
        if self.use_hqq and solver != "hqq":
            raise ConfigError(
                f"solver={solver!r} contradicts use_hqq=True.",
                allowed="solver=None or 'hqq' with use_hqq=True",
                mend="set use_hqq=False in the configuration, or leave solver at None",
            )
        return solver

    def _resolve_preserve_zero(self, domain: Domain, notes: list[Resolution]) -> bool:
        if domain == "symmetric":
            if self.preserve_zero is False:
                raise ConfigError(
                    "preserve_zero=False with the symmetric domain, whose code 8 is always exactly 0.",
                    allowed="preserve_zero=True or None",
                    mend="leave preserve_zero at None",
                )
            notes.append(
                Resolution(
                    "preserve_zero",
                    str(self.preserve_zero),
                    "True",
                    "code 8 is exactly 0 in the symmetric domain",
                )
            )
            return True
        if self.preserve_zero is not None:
            return self.preserve_zero
        final = domain == "int"
        why = "an integer zero point keeps 0 exact" if final else "a float zero point need not be representable"
        notes.append(Resolution("preserve_zero", "None", str(final), why))
        return final


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


def _nearest(name: str, value: object, names: tuple[str, ...]) -> str:
    """Say which of the names was meant, by its spelling; the first where none is like it."""
    close = difflib.get_close_matches(str(value).lower(), names, n=1, cutoff=0.5)
    return f"use {name}={(close or names)[0]!r}"


def _quoted(values: tuple[str, ...]) -> str:
    return ", ".join(repr(value) for value in values)
