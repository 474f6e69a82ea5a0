"""The settings of each solver as controls, under the names that they have in Python."""

from __future__ import annotations

from workbench.options import OPTIONS_OF, SolverName, SolverOptions
from workbench.widgets.form import Field, Value

_HQQ = (
    Field("lp_norm", "Error norm p", "number", (), "lp_norm: exponent of the sparse error norm, above 0 and at most 1"),
    Field("beta", "First penalty", "number", (), "beta: penalty weight of the first iteration, above 0"),
    Field(
        "kappa", "Growth of the penalty", "number", (), "kappa: what beta is multiplied by each iteration, at least 1"
    ),
    Field("iters", "Most iterations", "number", (), "iters: 0 is round-to-nearest"),
    Field(
        "tolerance", "At rest within", "number", (), "tolerance: codes that a zero point moves by when its group stops"
    ),
)
_REFINED = (
    Field("norm", "Error norm", "number", (), "norm: exponent of the error that chooses between candidates, up to 8"),
    Field(
        "ranges",
        "Starting ranges",
        "number",
        (),
        "ranges: how many are tried, 1 to 256; empty takes what suits the domain",
        placeholder="auto",
    ),
    Field("starts", "Starts", "number", (), "starts: the best ranges, from which least squares goes on, 1 to 16"),
    Field("iters", "Steps", "number", (), "iters: steps of least squares from each start"),
)
_CALIBRATED = (
    Field(
        "damping",
        "Damping",
        "number",
        (),
        "damping: as a share of the moments' mean diagonal; it grows where it must",
    ),
    Field("candidates", "Candidates", "number", (), "candidates: scales and zeros tried for each group, 1 to 64"),
    Field("sweeps", "Sweeps", "number", (), "sweeps: passes afterwards, each group against the errors of all others"),
    Field(
        "min_tokens",
        "Fewest tokens",
        "number",
        (),
        "min_tokens: a layer that fewer tokens reach falls back to the refined solver",
    ),
    Field(
        "activation_order",
        "Largest inputs first",
        "switch",
        (),
        "activation_order: take groups and columns of largest input first; all stay where they are",
    ),
)
FIELDS_OF: dict[SolverName, tuple[Field, ...]] = {
    "rtn": (),
    "hqq": _HQQ,
    "refined": _REFINED,
    "calibrated": _CALIBRATED,
}


def values_of(options: SolverOptions | None) -> dict[str, Value]:
    """Return what the controls of a solver show."""
    return {} if options is None else dict(vars(options))


def changes_of(solver: SolverName, options: SolverOptions | None) -> str:
    """Say which settings differ from their defaults."""
    kind = OPTIONS_OF[solver]
    if kind is None or options is None or options == kind():
        return "defaults"
    usual = vars(kind())
    return ", ".join(f"{name} {value}" for name, value in vars(options).items() if value != usual[name])
