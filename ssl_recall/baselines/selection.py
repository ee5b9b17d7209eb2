"""Pick the setting of a baseline by recall on held-out pairs. The test is never among them."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from .ranking import Asked

K = 50
_Model = TypeVar("_Model")


@dataclass(frozen=True)
class HeldOut:
    """P validation pairs: the item to recall, and the list that should have it."""

    asked: Asked  # R lists, their histories from the training interactions alone
    lists: NDArray[np.int64]  # (P,) below R
    columns: NDArray[np.int64]  # (P,)

    def recall(self, recalled: NDArray[np.int64]) -> float:
        """Return the share of the pairs whose item is in its list: (R, k) columns."""
        return float((recalled[self.lists] == self.columns[:, None]).any(1).mean()) if len(self.lists) else 0.0


def best_setting(
    settings: Sequence[tuple[str, Callable[[], _Model]]],  # name and fit of each setting, at least one
    lists_of: Callable[[_Model, Asked, int], NDArray[np.int64]],
    held_out: HeldOut,
) -> "Chosen[_Model]":
    """Fit each setting, and return the one with the highest recall@50 of all held-out pairs, the first of equal ones.

    A single setting needs no choice, so its recall is not measured (NaN).
    """
    best: Chosen[_Model] | None = None
    for name, fit in settings:
        model = fit()
        if len(settings) == 1:
            return Chosen(name, model, math.nan)
        recall = held_out.recall(lists_of(model, held_out.asked, K))
        if best is None or recall > best.recall:
            best = Chosen(name, model, recall)
    assert best is not None, "there is at least one setting"
    return best


@dataclass(frozen=True)
class Chosen(Generic[_Model]):
    """A fitted baseline, the name of its setting, and its recall@50 on the held-out pairs."""

    name: str
    model: _Model
    recall: float
