"""The search space: it contains the current settings, and no batch size that is too large for a short log."""

from typing import Any

import pytest

from stages.experiments import search_space
from stages.learning.arm import Arm
from stages.learning.settings import TrainSettings


@pytest.mark.parametrize(
    ("made_of", "value", "expected"),
    [
        ({"choices": (256, 512)}, 300, {"choices": (256, 300, 512)}),
        ({"choices": (256, 512)}, 512, {"choices": (256, 512)}),
        ({"low": 0.1, "high": 0.5}, 0.7, {"low": 0.1, "high": 0.7}),
        ({"low": 0.1, "high": 0.5, "log": True}, 0.01, {"low": 0.01, "high": 0.5, "log": True}),
        ({"low": 0.1, "high": 0.5}, 0.2, {"low": 0.1, "high": 0.5}),
    ],
)
def test_a_dimension_is_widened_until_it_holds_the_own_value(
    made_of: dict[str, Any], value: float, expected: dict[str, Any]
) -> None:
    assert search_space._holding(made_of, value) == expected


@pytest.mark.parametrize(
    ("interactions", "own", "expected"),
    [
        (20 * 2048, 1024, [256, 512, 1024, 2048]),
        (20 * 2048 - 1, 1024, [256, 512, 1024]),
        (5120, 1024, [256, 1024]),
        (5119, 32, [32]),
    ],
)
def test_a_batch_that_leaves_few_steps_is_not_tried_but_the_own_is(
    interactions: int, own: int, expected: list[int]
) -> None:
    settings = TrainSettings(ssl=False, batch_size=own)
    space = search_space.of_arm(Arm("no-ssl", settings, None, frozenset({"ssl"})), interactions)
    assert list(space["batch_size"]["choices"]) == expected
