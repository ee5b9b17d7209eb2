"""ALS: a factor model of implicit feedback (Hu et al., ICDM 2008), fitted by the library `implicit`."""

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from .ranking import Asked

FACTORS, ITERATIONS = 64, 15


@dataclass(frozen=True)
class Setting:
    """The weight alpha of a taken item; any other item has the weight 1."""

    alpha: float
    regularization: float = 1.0


SETTINGS = (Setting(10.0), Setting(40.0), Setting(160.0))


@dataclass(frozen=True)
class Als:
    """The fitted model of `implicit`."""

    model: Any

    def __call__(self, asked: Asked) -> NDArray[np.float32]:
        """Fit the factors of each history to the items' factors: (R, N) scores; a negative product is 0."""
        rows = np.arange(asked.histories.shape[0])
        factors = self.model.recalculate_user(rows, sp.csr_matrix(asked.histories))
        scores: NDArray[np.float32] = np.maximum(factors @ self.model.item_factors.T, 0)
        return scores


def fit(log: sp.csr_array, setting: Setting, seed: int, threads: int) -> Als:
    """Fit the factors of a (Q, N) log. Raises ImportError if `implicit` is not installed."""
    from implicit.cpu.als import AlternatingLeastSquares

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # about the threads of the BLAS library
        model = AlternatingLeastSquares(
            factors=FACTORS,
            regularization=setting.regularization,
            alpha=setting.alpha,
            iterations=ITERATIONS,
            num_threads=threads,
            random_state=seed,
        )
    model.fit(sp.csr_matrix(log), show_progress=False)
    return Als(model)
