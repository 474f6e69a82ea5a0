"""What a configuration leaves open, and what each "auto" became: nothing is open in a `ResolvedConfig`."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch

from workbench.errors import ConfigError
from workbench.options import FORMS, SOLVERS, SolverName, SolverOptions, options_to_json

Domain = Literal["float", "int", "symmetric"]
Notes = tuple["Resolution", ...]

DOMAINS: tuple[Domain, ...] = get_args(Domain)
SCALE_DTYPES = (torch.bfloat16, torch.float32)

# Device type -> the zero-point domain that its kernel takes first (torchao 0.12, LAYOUT_TO_ZERO_POINT_DOMAIN).
_AUTO_DOMAIN: dict[str, Domain] = {"xpu": "int"}


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
    notes: Notes = ()

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


def resolve_domain(configured: Domain | None, asked: Domain | None, device: torch.device) -> tuple[Domain, Notes]:
    """Return where the zero point lives, and the note of it where that was left open.

    Args:
        configured: What the configuration says; None is "auto".
        asked: What was asked for beside the configuration, or None.
        device: Device that will run the weights.

    Raises:
        ConfigError: for an unknown domain, or one that contradicts the configuration.
    """
    if asked is not None and asked not in DOMAINS:
        raise _unknown("domain", asked, DOMAINS)
    if configured is None:
        final = asked or _AUTO_DOMAIN.get(device.type, "float")
        why = "asked for beside the configuration" if asked else f"the {device.type} kernel takes it first"
        return final, (Resolution("zero_point_domain", "NONE (auto)", final, why),)
    if asked is not None and asked != configured:
        raise ConfigError(
            f"domain={asked!r} contradicts zero_point_domain={configured.upper()}.",
            allowed=f"domain=None or {configured!r} with this configuration",
            mend="set zero_point_domain=ZeroPointDomain.NONE in the configuration to choose the domain outside it",
        )
    return configured, ()


def resolve_solver(use_hqq: bool, asked: SolverName | None) -> tuple[SolverName, Notes]:
    """Return the solver, and the note of it where that was left to `use_hqq`.

    Args:
        use_hqq: What the configuration says.
        asked: What was asked for beside the configuration, or None.

    Raises:
        ConfigError: for an unknown solver, or one that contradicts the configuration.
    """
    if asked is None:
        final: SolverName = "hqq" if use_hqq else "rtn"
        return final, (Resolution("solver", "None", final, f"use_hqq={use_hqq}"),)
    if asked not in SOLVERS:
        raise _unknown("solver", asked, SOLVERS)
    if use_hqq and asked != "hqq":
        raise ConfigError(
            f"solver={asked!r} contradicts use_hqq=True.",
            allowed="solver=None or 'hqq' with use_hqq=True",
            mend="set use_hqq=False in the configuration, or leave solver at None",
        )
    return asked, ()


def resolve_preserve_zero(configured: bool | None, domain: Domain) -> tuple[bool, Notes]:
    """Return whether ranges are widened to contain 0, and the note of it where the domain decides.

    Args:
        configured: What the configuration says; None is "auto".
        domain: Where the zero point lives.

    Raises:
        ConfigError: for False with the symmetric domain.
    """
    if domain == "symmetric":
        if configured is False:
            raise ConfigError(
                "preserve_zero=False with the symmetric domain, whose code 8 is always exactly 0.",
                allowed="preserve_zero=True or None",
                mend="leave preserve_zero at None",
            )
        why = "code 8 is exactly 0 in the symmetric domain"
        return True, (Resolution("preserve_zero", str(configured), "True", why),)
    if configured is not None:
        return configured, ()
    final = domain == "int"
    why = "an integer zero point keeps 0 exact" if final else "a float zero point need not be representable"
    return final, (Resolution("preserve_zero", "None", str(final), why),)


def check_together(solver: SolverName, domain: Domain, preserve_zero: bool, scale_dtype: torch.dtype) -> None:
    """Refuse settings that are each known, but cannot work together or cannot be stored.

    Args:
        solver: The method that finds the codes.
        domain: Where the zero point lives.
        preserve_zero: Whether each group's range is widened to contain 0.
        scale_dtype: dtype in which scales are stored.

    Raises:
        ConfigError: with the mend.
    """
    if scale_dtype not in SCALE_DTYPES:
        raise ConfigError(
            f"scale_dtype={scale_dtype} cannot be stored.",
            allowed="torch.bfloat16 or torch.float32",
            mend="use bfloat16",
        )
    if solver == "hqq" and domain == "symmetric":
        raise ConfigError(
            "HQQ moves the zero point, and the symmetric domain has none.",
            allowed="'rtn', 'refined' or 'calibrated' with symmetric; any solver with float and int",
            mend="use the float or int domain, or solver='refined' with use_hqq=False",
        )
    if solver == "hqq" and domain == "float" and preserve_zero:
        raise ConfigError(
            "preserve_zero=True with HQQ and a float zero point: HQQ moves the zero point freely.",
            allowed="preserve_zero=None or False",
            mend="use the int domain, or leave preserve_zero at None",
        )


def _unknown(name: str, value: object, known: tuple[str, ...]) -> ConfigError:
    """Return the error for a word that is not known; the one nearest in spelling is meant, or else the first."""
    close = difflib.get_close_matches(str(value).lower(), known, n=1, cutoff=0.5)
    allowed = ", ".join(map(repr, known))
    return ConfigError(f"{name}={value!r} is unknown.", allowed=allowed, mend=f"use {name}={(close or known)[0]!r}")
