"""Intervals of a mean over few seeds of training: Student's t, for what few seeds say of all others is little."""

import math
from statistics import NormalDist

import numpy as np
import torch
from torch import Tensor

CONFIDENCE = 0.95


def over_seeds(
    sums: Tensor,  # (S, Q, C) float64: what each query adds under each seed of training to each numerator
    trials: Tensor,  # (Q, C) float64: and to its denominator, the same under every seed
) -> tuple[Tensor, Tensor]:  # (C,), (C,) float64
    """95 % interval of the mean over seeds of sum(sums) / sum(trials): another log, and other seeds, may give another.

    Half of its length is the root of (t s)^2 of seeds and (t s)^2 of queries: s the standard error that each of them
    brings by itself, of queries that of a ratio of two sums (Cochran, Sampling Techniques, 1977, 6.4), t Student's
    quantile for as many. It holds the truth at least as often as it says, with few seeds oftener; Satterthwaite's
    degrees of freedom for the sum do not (with two seeds 86 %). With one seed queries alone vary. NaN where a column
    has no trials, or where one query has them all.
    """
    seeds, queries, _ = sums.shape
    total = trials.sum(0)
    ratios = sums.sum(1) / total  # (S, C)
    mean = ratios.mean(0)
    rest = (sums.mean(0) - mean * trials) / total  # (Q, C): adds up to 0
    variance = queries / max(queries - 1, 1) * rest.square().sum(0) * _t(queries) ** 2
    if seeds > 1:
        variance += ratios.var(0) / seeds * _t(seeds) ** 2
    half = torch.where((trials > 0).sum(0) > 1, variance.sqrt(), torch.nan)
    return mean - half, mean + half


def _t(count: int) -> float:
    return student_t((1 + CONFIDENCE) / 2, max(count - 1, 1))


def student_t(share: float, freedom: float) -> float:
    """Give the value that a variable of Student's t is below with probability `share`, from 1/2 up; any freedom >= 1.

    With t = sqrt(f) tan(a), P(|T| < t) is the integral of cos(x) ** (f - 1) from 0 to a, by that to a right angle:
    Gauss-Legendre, and a halved until it fits.
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
