"""Weights of interactions by their age.

w = 0.5 ^ (age / half-life) inside the window, 0 outside it
"""

import numpy as np
from numpy.typing import NDArray


def weights(
    ages: NDArray[np.float64],  # (R,) days before the newest interaction, at least 0
    half_life: float | None,  # days; None: every interaction of the window has weight 1
    window: float | None,  # days; None: no window
) -> NDArray[np.float64]:  # (R,) from 0 to 1; 1 for the newest interaction
    """Weigh interactions by their age; an interaction as old as the window is still inside it.

    Raises ValueError unless half-life and window are above 0.

    >>> weights(np.array([0.0, 7.0, 14.0, 21.0]), half_life=7, window=14)
    array([1.  , 0.5 , 0.25, 0.  ])
    """
    for name, days in (("half-life", half_life), ("window", window)):
        if days is not None and not days > 0:
            raise ValueError(f"the {name} must be above 0 days, is {days}")
    found = np.ones(len(ages)) if half_life is None else 0.5 ** (ages / half_life)
    return found if window is None else np.where(ages <= window, found, 0.0)
