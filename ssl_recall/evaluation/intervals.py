"""Confidence intervals of a mean over few training seeds, by Student's t: few seeds say little about all seeds."""

import math
from statistics import NormalDist

import numpy as np
import torch
from torch import Tensor

CONFIDENCE = 0.95


def over_seeds(
    sums: Tensor,  # (S, Q, C) float64: each query's part of each numerator, by training seed
    trials: Tensor,  # (Q, C) float64: each query's part of each denominator, the same for every seed
) -> tuple[Tensor, Tensor]:  # (C,), (C,) float64
    """Return the 95 % interval of the mean over seeds of sum(sums) / sum(trials), under other queries and other seeds.

    Half its length is sqrt((t_S s_S)^2 + (t_Q s_Q)^2). s_S is the standard error from the seeds alone. s_Q is that from
    the queries alone, for a ratio of two sums (Cochran, Sampling Techniques, 1977, 6.4). t_S and t_Q are Student's
    quantiles for S seeds and Q queries. The interval covers the truth at least as often as stated, with few seeds more
    often. Satterthwaite's degrees of freedom would not (two seeds: 86 %). With one seed, only queries vary. NaN if a
    column has no trials, or if one query has them all.
    """
    seeds, queries, _ = sums.shape
    total = trials.sum(0)
    ratios = sums.sum(1) / total  # (S, C)
    mean = ratios.mean(0)
    rest = (sums.mean(0) - mean * trials) / total  # (Q, C): sums to 0
    variance = queries / max(queries - 1, 1) * rest.square().sum(0) * _t(queries) ** 2
    if seeds > 1:
        variance += ratios.var(0) / seeds * _t(seeds) ** 2
    half = torch.where((trials > 0).sum(0) > 1, variance.sqrt(), torch.nan)
    return mean - half, mean + half


def _t(count: int) -> float:
    return student_t((1 + CONFIDENCE) / 2, max(count - 1, 1))


def student_t(share: float, freedom: float) -> float:
    """Return the quantile of Student's t at `share`, from 1/2 up, for any `freedom` >= 1.

    With t = sqrt(f) tan(a), P(|T| < t) is the integral of cos(x) ** (f - 1) from 0 to a, divided by that from 0 to
    pi / 2. Gauss-Legendre quadrature gives the integral, bisection gives a.
    """
    if freedom > 1e6:
        return NormalDist().inv_cdf(share)
    places, weights = np.polynomial.legendre.leggauss(48)
    scale = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)) / math.sqrt(math.pi)
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        middle = (low + high) / 2
        below = scale * middle / 2 * float(weights @ np.cos(middle * (places + 1) / 2) ** (freedom - 1))
        low, high = (middle, high) if below < share - 1 / 2 else (low, middle)
    return math.sqrt(freedom) * math.tan(low)
