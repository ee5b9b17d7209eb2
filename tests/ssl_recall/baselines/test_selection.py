"""The setting with the highest recall of the held-out pairs is picked."""

import math

import numpy as np
import pytest

from ssl_recall.baselines import selection
from ssl_recall.baselines.ranking import Asked

from .logs import asked_of

LISTS = {"one": [[0, 1], [0, 1]], "two": [[2, 3], [0, 2]], "three": [[2, 3], [0, 3]]}
HELD_OUT = selection.HeldOut(asked_of(np.zeros((2, 4), np.float32)), np.array([0, 0, 1]), np.array([2, 3, 1]))


def lists_of(model: str, asked: Asked, k: int) -> np.ndarray:
    assert k == selection.K
    return np.array(LISTS[model])


def test_recall_and_the_choice_by_hand() -> None:
    assert [HELD_OUT.recall(np.array(LISTS[name])) for name in LISTS] == pytest.approx([1 / 3, 2 / 3, 2 / 3])
    chosen = selection.best_setting([(name.upper(), name.lower) for name in LISTS], lists_of, HELD_OUT)
    assert (chosen.name, chosen.model) == ("TWO", "two")  # the first of equal ones
    assert chosen.recall == pytest.approx(2 / 3)


def test_one_setting_is_not_measured() -> None:
    chosen = selection.best_setting([("", lambda: "none")], lists_of, HELD_OUT)
    assert chosen.model == "none"
    assert math.isnan(chosen.recall)


def test_without_held_out_pairs_the_first_setting_is_picked() -> None:
    nobody = selection.HeldOut(asked_of(np.zeros((0, 4), np.float32)), np.array([], int), np.array([], int))
    chosen = selection.best_setting([(name, lambda name=name: name) for name in LISTS], lists_of, nobody)
    assert (chosen.name, chosen.recall) == ("one", 0.0)
