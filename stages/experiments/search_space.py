"""The search space of `tune`: the settings of an arm, with their bounds or choices."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from stages.learning import recency
from stages.learning.arm import TUNED_POPULARITY, Arm
from stages.learning.view_settings import Transform
from stages.run_folder import reader

Space = dict[str, dict[str, Any]]  # setting -> arguments of its Optuna distribution
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
LEAST = 20  # fewest steps of an epoch with a batch size of the space


def of_run(job: reader.Reader, every: Mapping[str, Arm]) -> Iterator[tuple[str, Arm, Space]]:
    """Yield each arm with its name and search space, and with the half-life of the run folder if it is searched."""
    interactions, half_lives = recency.rows_per_epoch(job), recency.half_lives(job)
    own = {name: getattr(recency.settings_of(job), name) for name in TUNED_POPULARITY} if half_lives else {}
    for name, arm in every.items():
        timed = replace(arm, popularity=own)
        yield name, timed, of_arm(timed, interactions, half_lives)


def of_arm(arm: Arm, interactions: int, half_lives: Mapping[float, int] | None = None) -> Space:
    """Return the search space of an arm, without the settings that define the arm and without those that it ignores.

    `interactions` are those of an epoch, `half_lives` (days) those of an epoch with each half-life. It leaves out batch
    sizes with fewer than LEAST steps per epoch, and half-lives with fewer at the arm's batch size. Every dimension
    contains the current value of the arm. If that value is 0 on a logarithmic scale, the setting is off and stays off.
    """
    space = SPACE | (SSL_SPACE if arm.views is not None else {})
    if arm.views is None or arm.views.transform is not Transform.RANDOM_MASK:
        space = {name: made_of for name, made_of in space.items() if name != "mask_rate"}
    sizes = (size for size in space["batch_size"]["choices"] if interactions // size >= LEAST)
    space = space | {"batch_size": {"choices": tuple(sizes)}}
    own = {name: arm.values[name] for name in space if name not in arm.changed}
    found = {
        name: _holding(space[name], value) for name, value in own.items() if value > 0 or not space[name].get("log")
    }
    long = {days for days, rows in (half_lives or {}).items() if rows // arm.train.batch_size >= LEAST}
    if long:
        current = {arm.values["half_life"]} - {None}
        found["half_life"] = {"choices": (None, *sorted(long | current))}
    return found


def _holding(made_of: dict[str, Any], value: float) -> dict[str, Any]:
    """Widen a dimension until it contains a value."""
    if "choices" in made_of:
        return {"choices": tuple(sorted({*made_of["choices"], value}))}
    return made_of | {"low": min(made_of["low"], value), "high": max(made_of["high"], value)}
