"""EASE: a linear model of a history by itself, in closed form (Steck, WWW 2019).

    P = (X^T X + penalty I)^-1
    weight(i, j) = -P_ij / P_jj, and 0 for i = j
    score(history, j) = sum over i in the history of weight(i, j)

It covers the W items with training interactions, which are the first columns. It takes W^2 memory and W^3 time.
"""

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from torch import Tensor

from .ranking import Asked

PENALTIES = (100.0, 500.0, 2500.0)
ROUNDING = 1e-5  # of the trace: float32 suffices below the penalty; its own rounding is a hundredth of this


@dataclass(frozen=True)
class Ease:
    """The weights of all pairs of items with training interactions."""

    weights: NDArray[np.float32]  # (W, W)

    def __call__(self, asked: Asked) -> NDArray[np.float32]:
        """Sum the weights of each history; a negative sum is 0: (R, N) scores."""
        warm = len(self.weights)
        scores = np.zeros(asked.histories.shape, np.float32)
        np.maximum(asked.histories[:, :warm] @ self.weights, 0, out=scores[:, :warm])
        return scores


def warm_items(log: sp.csr_array) -> int:
    """Return W, the number of items with training interactions."""
    return int(log.indices.max(initial=-1)) + 1


def gram_of(log: sp.csr_array) -> Tensor:  # (W, W) float32
    """Count the queries that took both of two items: X^T X for a (Q, N) log."""
    warm = log[:, : warm_items(log)]
    return torch.from_numpy((warm.T @ warm).toarray())


def fit(gram: Tensor, penalty: float) -> Ease:
    """Invert the matrix, in float64 if float32 would round too much. A larger `penalty` makes the weights smaller."""
    ridge = gram.clone() if float(gram.trace()) * ROUNDING < penalty else gram.double()
    ridge.diagonal().add_(penalty)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(ridge))
    weights = inverse.div_(-inverse.diagonal().clone())
    weights.fill_diagonal_(0.0)
    return Ease(weights.float().numpy())
