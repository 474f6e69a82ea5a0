"""The solvers by name, the settings of each, and the form in which each stores its results."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from workbench.errors import ConfigError

SolverName = Literal["rtn", "hqq", "refined", "calibrated"]
SOLVERS: tuple[SolverName, ...] = get_args(SolverName)

# The one form of each solver whose results are stored; the number grows whenever its codes would come out otherwise.
FORMS: dict[SolverName, str] = {"rtn": "rtn/1", "hqq": "hqq/2", "refined": "refined/1", "calibrated": "calibrated/2"}


class _Checked:
    """Settings that refuse what cannot work, by name."""

    def _check(self, name: str, good: bool, allowed: str, default: str) -> None:
        if not good:
            kind = type(self).__name__.removesuffix("Options")
            kind = kind.upper() if kind == "Hqq" else kind
            value = getattr(self, name)
            raise ConfigError(f"{kind}: {name}={value!r}.", allowed=allowed, mend=f"leave {name} at {default}")

    def _check_number(self, name: str, good: Callable[[float], bool], allowed: str, default: str) -> None:
        value = getattr(self, name)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        self._check(name, number and good(value), allowed, default)

    def _check_count(self, name: str, least: int, most: int, default: int | None) -> None:
        value = getattr(self, name)
        good = type(value) is int and least <= value <= most
        self._check(name, good, f"a whole number from {least} to {most}", str(default))


@dataclass(frozen=True)
class HqqOptions(_Checked):
    """Settings of the half-quadratic solver (defaults of the HQQ reference implementation).

    Attributes:
        lp_norm: Exponent p of the sparse error norm, 0 < p <= 1.
        beta: Penalty weight of the first iteration, > 0.
        kappa: Growth of beta per iteration, >= 1.
        iters: Most iterations, >= 0; 0 is round-to-nearest.
        tolerance: A group has come to rest when its zero point moves by no more than this many codes, >= 0.

    Raises:
        ConfigError: for a value out of range.
    """

    lp_norm: float = 0.7
    beta: float = 10.0
    kappa: float = 1.01
    iters: int = 20
    tolerance: float = 0.0

    def __post_init__(self) -> None:
        self._check_number("lp_norm", lambda value: 0 < value <= 1, "0 < lp_norm <= 1", "0.7")
        self._check_number("beta", lambda value: 0 < value < float("inf"), "a finite beta > 0", "10.0")
        self._check_number("kappa", lambda value: 1 <= value < float("inf"), "a finite kappa >= 1", "1.01")
        self._check_count("iters", 0, 10_000, 20)
        self._check_number("tolerance", lambda value: 0 <= value < 1, "0 <= tolerance < 1 codes", "0.0")


@dataclass(frozen=True)
class RefinedOptions(_Checked):
    """Settings of the refined solver: least squares on scale and zero point in turn, from several starting ranges.

    Attributes:
        norm: Exponent of the error that chooses between candidates: the mean of |w - w_r|^norm, 0 < norm <= 8.
        ranges: Starting ranges that are tried (for each zero point of the int domain), 1 to 256; None takes what suits
            the domain.
        starts: Starts, the best of those ranges, from which least squares goes on, 1 to 16.
        iters: Steps of least squares from each start, >= 0.

    Raises:
        ConfigError: for a value out of range.
    """

    norm: float = 2.0
    ranges: int | None = None
    starts: int = 1
    iters: int = 2

    def __post_init__(self) -> None:
        self._check_number("norm", lambda value: 0 < value <= 8, "0 < norm <= 8", "2.0")
        if self.ranges is not None:
            self._check_count("ranges", 1, 256, None)
        self._check_count("starts", 1, 16, 1)
        self._check_count("iters", 0, 1000, 2)


@dataclass(frozen=True)
class CalibratedOptions(_Checked):
    """Settings of the calibrated solver: error feedback, column by column, against the moments of real inputs.

    Attributes:
        damping: First damping of the moments, as a share of their mean diagonal, > 0; it grows until they factorize.
        activation_order: Take the groups, and the columns of a group, of largest input first; in the stored layout
            all stay where they are.
        candidates: Scales and zero points that are tried for each group, with the feedback inside it, 1 to 64.
        sweeps: Passes over all groups afterwards, each against the errors of all others, 0 to 100.
        min_tokens: Tokens that have to reach a layer; with fewer it falls back to the refined solver.

    Raises:
        ConfigError: for a value out of range.
    """

    damping: float = 0.01
    activation_order: bool = True
    candidates: int = 16
    sweeps: int = 2
    min_tokens: int = 128

    def __post_init__(self) -> None:
        self._check_number("damping", lambda value: 0 < value < float("inf"), "a finite damping > 0", "0.01")
        self._check("activation_order", isinstance(self.activation_order, bool), "True or False", "True")
        self._check_count("candidates", 1, 64, 16)
        self._check_count("sweeps", 0, 100, 2)
        self._check_count("min_tokens", 1, 2**31 - 1, 128)


SolverOptions = HqqOptions | RefinedOptions | CalibratedOptions
OPTIONS_OF: dict[SolverName, type[SolverOptions] | None] = {
    "rtn": None,
    "hqq": HqqOptions,
    "refined": RefinedOptions,
    "calibrated": CalibratedOptions,
}


def resolve_options(solver: SolverName, options: SolverOptions | None) -> SolverOptions | None:
    """Return the options that a solver runs with: those given, else its defaults; None for round-to-nearest.

    Raises:
        ConfigError: when the options are those of another solver.
    """
    kind = OPTIONS_OF[solver]
    if options is None:
        return None if kind is None else kind()
    if kind is None or not isinstance(options, kind):
        raise ConfigError(
            f"{type(options).__name__} with solver={solver!r}.",
            allowed="no options" if kind is None else kind.__name__,
            mend="pass the options of the solver that is chosen, or none",
        )
    return options


def options_to_json(options: SolverOptions) -> dict[str, Any]:
    """Return the options that differ from the defaults, as JSON types."""
    usual = asdict(type(options)())
    return {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in asdict(options).items()
        if value != usual[key]
    }


def options_from_json(solver: SolverName, data: Any) -> SolverOptions | None:
    """Build the options of a solver from `options_to_json`'s dictionary.

    Raises:
        ConfigError: for a solver without options, an unknown name or a value out of range.
    """
    kind = OPTIONS_OF[solver]
    if kind is None or not isinstance(data, dict):
        raise ConfigError(f"solver_options={data!r} with solver={solver!r}.", allowed="an object, for another solver")
    names = asdict(kind())
    unknown = sorted(set(data) - set(names))
    if unknown:
        raise ConfigError(f"Unknown solver options {unknown} for {solver!r}.", allowed=", ".join(names))
    given = {key: tuple(value) if isinstance(value, list) else value for key, value in data.items()}
    make: Any = kind
    try:
        return make(**given)  # type: ignore[no-any-return]
    except TypeError:
        raise ConfigError(f"solver_options={data!r} are of the wrong type.", allowed="numbers") from None
