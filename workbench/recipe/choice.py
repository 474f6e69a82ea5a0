"""How one layer is quantized, and the same as JSON, whose every error says which setting it is about."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import torch

from workbench.config import (
    DOMAINS,
    Domain,
    Int4WeightOnlyConfig,
    ResolvedConfig,
    TensorCoreTiledLayout,
    ZeroPointDomain,
)
from workbench.errors import ConfigError
from workbench.options import (
    OPTIONS_OF,
    SOLVERS,
    SolverName,
    SolverOptions,
    options_from_json,
    options_to_json,
)
from workbench.recipe.text import Cursor, dotted, reading


@dataclass(frozen=True)
class Choice:
    """How one layer is quantized: a configuration, and the solver, options and domain that it leaves open."""

    config: Int4WeightOnlyConfig = field(default_factory=Int4WeightOnlyConfig)
    solver: SolverName | None = None
    domain: Domain | None = None
    options: SolverOptions | None = None

    def __post_init__(self) -> None:
        self.resolved("cpu")

    def resolved(self, device: torch.device | str) -> ResolvedConfig:
        """Decide everything that the choice leaves open, for the device that will run the weights.

        Raises:
            ConfigError: when the settings contradict each other.
        """
        return self.config.resolved(device, solver=self.solver, domain=self.domain, options=self.options)

    def to_json(self) -> dict[str, Any]:
        """Return only what differs from the defaults, and always the group size, as JSON types."""
        config, default = self.config, Int4WeightOnlyConfig()
        given: dict[str, Any] = {
            "group_size": config.group_size,
            "use_hqq": config.use_hqq or None,
            "zero_point_domain": config.zero_point_domain.name,
            "preserve_zero": config.preserve_zero,
            "inner_k_tiles": config.layout.inner_k_tiles,
            "set_inductor_config": None if config.set_inductor_config else False,
            "domain": self.domain,
            "solver": self.solver,
            "solver_options": None if self.options is None else options_to_json(self.options),
        }
        usual = {"zero_point_domain": default.zero_point_domain.name, "inner_k_tiles": 8}
        return {key: value for key, value in given.items() if value is not None and usual.get(key) != value}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Choice:
        """Build from `to_json`'s dictionary.

        Raises:
            ConfigError: for an unknown setting or a value that cannot work, saying which.
        """
        with reading(dotted) as cursor:
            return read_choice(data, cursor)


def read_choice(data: Mapping[str, Any], cursor: Cursor) -> Choice:
    """Build a choice from its JSON; the cursor shows where that failed.

    Raises:
        ConfigError: for an unknown setting or a value that cannot work.
    """
    refuse_unknown(data, _CHECKS, cursor)
    for key, value in data.items():
        with cursor.at(key):
            _CHECKS[key](value)
    config = Int4WeightOnlyConfig(
        group_size=data.get("group_size", 128),
        layout=TensorCoreTiledLayout(data.get("inner_k_tiles", 8)),
        use_hqq=data.get("use_hqq", False),
        zero_point_domain=ZeroPointDomain[data.get("zero_point_domain", "NONE")],
        set_inductor_config=data.get("set_inductor_config", True),
        preserve_zero=data.get("preserve_zero"),
    )
    solver, given = data.get("solver"), data.get("solver_options")
    options = None
    if given is not None:
        with cursor.at("solver_options"):
            options = _read_options(solver or ("hqq" if config.use_hqq else "rtn"), given, cursor)
    return Choice(config, solver, data.get("domain"), options)


def check_type(value: object, kind: Any, allowed: str) -> None:
    """Refuse a value of the wrong type.

    Raises:
        ConfigError: with what is allowed.
    """
    if not isinstance(value, kind):
        raise ConfigError(f"{value!r:.60} is of the wrong type.", allowed=allowed)


def refuse_unknown(data: Mapping[str, Any], known: Iterable[str], cursor: Cursor) -> None:
    """Refuse a key that is not known, with the nearest that is.

    Raises:
        ConfigError: for the first such key.
    """
    names = list(known)
    for key in data:
        if key not in names:
            with cursor.at(key):
                raise unknown_name(f"Unknown setting {key!r}", key, names)


def unknown_name(what: str, name: str, known: Iterable[str]) -> ConfigError:
    """Return the error for a name that is not known, with the nearest that is."""
    names = list(known)
    near = _MEANT.get(name) or next(iter(difflib.get_close_matches(name, names, n=1)), None)
    mend = f"write {near!r}" if near in names else "take one of them, or delete it"
    return ConfigError(f"{what}.", allowed=", ".join(names), mend=mend)


def _read_options(solver: SolverName, data: Any, cursor: Cursor) -> SolverOptions | None:
    kind = OPTIONS_OF[solver]
    if kind is not None and isinstance(data, dict):
        names = [one.name for one in fields(kind)]
        for key, value in data.items():
            with cursor.at(key):
                if key not in names:
                    raise unknown_name(f"Unknown option {key!r} of the solver {solver!r}", key, names)
                options_from_json(solver, {key: value})
    return options_from_json(solver, data)


def _one_of(name: str, allowed: Iterable[str], *, null: bool = True) -> Callable[[Any], None]:
    names = list(allowed)

    def check(value: Any) -> None:
        if not (value in names or (null and value is None)):
            raise unknown_name(f"{name}={value!r}", value if isinstance(value, str) else "", names)

    return check


def _setting(name: str) -> Callable[[Any], Any]:
    return lambda value: Int4WeightOnlyConfig(**{name: value})


# Setting → what refuses a value that can work beside none other.
_CHECKS: dict[str, Callable[[Any], Any]] = {
    "group_size": _setting("group_size"),
    "use_hqq": _setting("use_hqq"),
    "zero_point_domain": _one_of("zero_point_domain", ZeroPointDomain.__members__, null=False),
    "preserve_zero": _setting("preserve_zero"),
    "inner_k_tiles": TensorCoreTiledLayout,
    "set_inductor_config": _setting("set_inductor_config"),
    "domain": _one_of("domain", DOMAINS),
    "solver": _one_of("solver", SOLVERS),
    "solver_options": lambda value: None,
}
SETTINGS = tuple(_CHECKS)
# What others call a setting → our name.
_MEANT = {"skip": "dense", "exclude": "dense", "name": "pattern", "options": "solver_options", "hqq": "use_hqq"}
