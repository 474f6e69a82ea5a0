"""The 95 % interval of a mean over tokens, from the windows that the tokens were measured in."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist


def mean_interval(sums: Sequence[float], counts: Sequence[int]) -> tuple[float, float] | None:
    """Return the 95 % interval of sum(sums) / sum(counts); None for fewer than two windows.

    Tokens of one window depend on each other, windows hardly: the W windows are taken as independent draws of
    (sum, count). The mean m is then a ratio of totals, with the standard error
    sqrt(W / (W - 1) sum_i (s_i - m n_i)^2) / sum_i n_i (Cochran, Sampling Techniques, chapter 6), which for windows
    of one length is the standard error of the mean of the window means. The interval is m plus and minus
    Student's t of W - 1 degrees of freedom times that.

    Args:
        sums: What was measured, summed over the tokens of each window.
        counts: Tokens of each window.
    """
    windows, total = len(sums), sum(counts)
    if windows < 2:
        return None
    mean = math.fsum(sums) / total
    squares = math.fsum((s - mean * n) ** 2 for s, n in zip(sums, counts, strict=True))
    half = student_97_5(windows - 1) * math.sqrt(windows / (windows - 1) * squares) / total
    return mean - half, mean + half


def student_97_5(freedom: int) -> float:
    """Return the 97.5 % quantile of Student's t, within 0.2 %.

    Closed forms for 1 and 2 degrees of freedom, the expansion of Abramowitz and Stegun 26.7.5 for more.

    Args:
        freedom: Degrees of freedom, 1 or more.
    """
    if freedom == 1:
        return math.tan(math.pi * 0.475)
    if freedom == 2:
        return 0.95 * math.sqrt(2 / (1 - 0.95**2))
    x = NormalDist().inv_cdf(0.975)
    terms = (
        x,
        (x**3 + x) / 4,
        (5 * x**5 + 16 * x**3 + 3 * x) / 96,
        (3 * x**7 + 19 * x**5 + 17 * x**3 - 15 * x) / 384,
        (79 * x**9 + 776 * x**7 + 1482 * x**5 - 1920 * x**3 - 945 * x) / 92160,
    )
    return math.fsum(term / freedom**power for power, term in enumerate(terms))
