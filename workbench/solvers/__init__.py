"""Weight (and, for the calibrated solver, statistics of its input) in, `QuantizedWeight` and error trace out."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from workbench.affine import QuantizedWeight
from workbench.config import Domain, Int4WeightOnlyConfig, ResolvedConfig
from workbench.errors import ConfigError, WeightError
from workbench.options import CalibratedOptions, RefinedOptions, SolverName, SolverOptions
from workbench.solvers.calibrated import solve_calibrated
from workbench.solvers.data_free import solve_data_free
from workbench.solvers.moments import InputMoments as InputMoments
from workbench.solvers.result import SolveResult as SolveResult
from workbench.solvers.row_blocks import not_finite as not_finite


def quantize_weight(
    weight: Tensor,
    cfg: Int4WeightOnlyConfig | None = None,
    solver: SolverName | None = None,
    domain: Domain | None = None,
    statistics: InputMoments | None = None,
    options: SolverOptions | None = None,
) -> QuantizedWeight:
    """Quantize one weight to int4.

    Args:
        weight: Any float dtype [N, K] = [out_features, in_features]; group_size need not divide K.
        cfg: The configuration; the default one when not given.
        solver: "rtn", "hqq", "refined" or "calibrated"; None follows `cfg.use_hqq`.
        domain: "float", "int" or "symmetric"; None follows the configuration.
        statistics: Moments of the layer's input, which the calibrated solver needs; the others refuse them.
        options: Settings of the solver (`HqqOptions`, ...); None takes its defaults.

    Returns:
        Codes, scales and zero points on the weight's device.

    Raises:
        WeightError: for a weight that is not 2-D and floating, or holds NaN or infinity (with its position).
        ConfigError: for settings that contradict each other.
    """
    settled = (cfg or Int4WeightOnlyConfig()).resolved(weight.device, solver=solver, domain=domain, options=options)
    if statistics is None and settled.solver == "calibrated":
        raise ConfigError(
            "solver='calibrated' without statistics of the layer's input.",
            allowed="statistics=InputMoments, as workbench.calibration.layer_moments collects them",
            mend="pass them, or use solver='refined', which looks at the weight alone",
        )
    return solve(weight, settled, statistics=statistics).weight


@torch.no_grad()
def solve(
    weight: Tensor,
    config: ResolvedConfig,
    *,
    statistics: InputMoments | None = None,
    name: str = "weight",
    cancel: threading.Event | None = None,
    progress: Callable[[float], None] | None = None,
) -> SolveResult:
    """Quantize one weight and say how the error fell on the way.

    Args:
        weight: Any float dtype [N, K].
        config: Everything resolved.
        statistics: Moments of the layer's input for the calibrated solver; where they are missing or cannot guide it,
            it falls back to the refined solver, and `SolveResult.notes` says why.
        name: What the weight is called in errors.
        cancel: Set it to stop between blocks.
        progress: Called with the share of the work done, 0 to 1, after each block.

    Raises:
        WeightError: for a weight that is not 2-D and floating, or holds NaN or infinity (with its position).
        Cancelled: when `cancel` was set.
    """
    _check_weight(weight, name)
    if not isinstance(config.options, CalibratedOptions):
        if statistics is not None:
            raise ConfigError(
                f"statistics with solver={config.solver!r}, which looks at the weight alone.",
                allowed="statistics=None, or solver='calibrated'",
            )
        return solve_data_free(weight, config, name=name, cancel=cancel, progress=progress)
    problem = "no statistics of its input"
    if statistics is not None:
        problem = statistics.problem(weight.shape[1], config.options.min_tokens)
        if not problem:
            return solve_calibrated(weight, config, statistics, name=name, cancel=cancel, progress=progress)
    refined = replace(config, solver="refined", options=RefinedOptions())
    found = solve_data_free(weight, refined, name=name, cancel=cancel, progress=progress)
    return replace(found, notes=(f"solved with refined instead of calibrated: {problem}",))


def _check_weight(weight: Tensor, name: str) -> None:
    if weight.ndim != 2 or not weight.is_floating_point():
        raise WeightError(
            f"{name} is {weight.dtype} {list(weight.shape)}.",
            allowed="a floating-point weight [out_features, in_features]",
        )
    if weight.is_meta:
        raise WeightError(f"{name} is on the meta device: it has no values.", mend="load the model's weights first")
