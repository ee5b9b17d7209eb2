"""What `tune` searches of an arm: from where to where, and how finely."""

from typing import Any

from . import arms
from .build_views import Transform

Space = dict[str, dict[str, Any]]  # setting -> what optuna's distribution of it is made of
SPACE: Space = {
    "temperature": {"low": 0.03, "high": 0.2, "log": True},
    "batch_size": {"choices": (256, 512, 1024, 2048)},
    "learning_rate": {"low": 3e-4, "high": 3e-3, "log": True},
    "embedding_learning_rate": {"low": 0.01, "high": 0.3, "log": True},
    "initial_accumulator": {"low": 1e-8, "high": 1e-3, "log": True},
    "id_dropout": {"low": 0.0, "high": 0.5},
    "further_negatives": {"choices": (256, 1024, 4096)},
    "cold_negative_rate": {"low": 1e-4, "high": 1e-1, "log": True},
    "embedding_width": {"choices": (16, 32, 64)},
}
SSL_SPACE: Space = {
    "ssl_weight": {"low": 0.01, "high": 3.0, "log": True},
    "ssl_temperature": {"low": 0.05, "high": 0.5, "log": True},
    "ssl_batch_size": {"choices": (256, 512, 1024, 2048)},
    "ssl_every": {"choices": (1, 2, 4, 8, 16)},
    "ssl_warmup_steps": {"choices": (0, 100, 200, 400)},
    "ssl_neighbour_weight": {"low": 0.1, "high": 3.0, "log": True},
    "value_dropout": {"low": 0.0, "high": 0.6},
    "mask_rate": {"low": 0.2, "high": 0.8},
}
LEAST = 20  # steps that a batch must leave a pass over the log


def of_arm(arm: arms.Arm, interactions: int) -> Space:
    """Give what is to be searched of an arm: nothing that makes it this arm, nothing that it does not use.

    Batches that leave a pass over so many training interactions fewer than LEAST steps are left out. Every dimension
    holds the arm's own value; where that is 0 and the scale is logarithmic, the setting is off and stays off.
    """
    space = SPACE | (SSL_SPACE if arm.views is not None else {})
    if arm.views is None or arm.views["transform"] != Transform.RANDOM_MASK:
        space = {name: made_of for name, made_of in space.items() if name != "mask_rate"}
    sizes = (size for size in space["batch_size"]["choices"] if interactions // size >= LEAST)
    space = space | {"batch_size": {"choices": tuple(sizes)}}
    own = {name: arm.settings[name] for name in space if name not in arm.changed}
    return {
        name: _holding(space[name], value) for name, value in own.items() if value > 0 or not space[name].get("log")
    }


def _holding(made_of: dict[str, Any], value: float) -> dict[str, Any]:
    """Widen a dimension until it holds a value."""
    if "choices" in made_of:
        return {"choices": tuple(sorted({*made_of["choices"], value}))}
    return made_of | {"low": min(made_of["low"], value), "high": max(made_of["high"], value)}
