"""The training interactions weighted by their age, as `compute-popularity` did it by its settings in the manifest."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from stages.options import from_values
from stages.run_folder import layout, reader
from stages.terminal.errors import InputError
from stages.user_tables import timestamps

from .popularity_settings import SHORTEST, PopularitySettings

if TYPE_CHECKING:
    import numpy as np
    import polars as pl
    from numpy.typing import NDArray
    from torch import Tensor

ROWS = 2**22  # rows of the log per batch


@dataclass(frozen=True)
class Clock:
    """The first and the newest training interaction, in ticks of `timestamp`."""

    first: int
    newest: int
    ticks: int  # per day

    @property
    def days(self) -> float:
        """Return the days from the first to the newest interaction."""
        return (self.newest - self.first) / self.ticks

    def weights(self, times: "pl.Series", settings: PopularitySettings) -> "NDArray[np.float64]":
        """Weigh interactions by their times: (R,) -> (R,) from 0 to 1."""
        import polars as pl

        from ssl_recall import recency

        ages = (self.newest - times.to_physical().cast(pl.Int64).to_numpy()) / self.ticks
        return recency.weights(ages, settings.half_life, settings.window)


def settings_of(job: reader.Reader, changed: Mapping[str, Any] | None = None) -> PopularitySettings:
    """Return the settings of `compute-popularity` that the manifest records, with changes."""
    entry: Mapping[str, Any] = job.manifest["stages"].get("compute-popularity", {})
    return from_values(PopularitySettings, {**entry.get("settings", {}), **(changed or {})})


def weights_of(job: reader.Reader, settings: PopularitySettings) -> "Tensor | None":
    """Weigh the training interactions in the order of their file: (R,) float64; None if all weigh the same.

    Raises InputError for times without a unit.
    """
    import numpy as np
    import torch

    if not settings.by_age:
        return None
    clock = _needed_clock(job)
    parts = [clock.weights(part["timestamp"], settings) for part in job.parts(layout.TRAIN, ["timestamp"], ROWS)]
    return torch.from_numpy(np.concatenate([np.zeros(0), *parts]))


def weighted_counts(job: reader.Reader, settings: PopularitySettings, items: int) -> "NDArray[np.float64]":
    """Sum the weights of each item's training interactions: (N,). Raises InputError for times without a unit."""
    from ssl_recall import popularity

    clock = _needed_clock(job)

    def parts() -> "Iterator[tuple[NDArray[np.integer], NDArray[np.float64]]]":
        for part in job.parts(layout.TRAIN, ["item_index", "timestamp"], ROWS):
            yield part["item_index"].to_numpy(), clock.weights(part["timestamp"], settings)

    return popularity.weigh_items(parts(), items)


def rows_per_epoch(job: reader.Reader, settings: PopularitySettings | None = None) -> int:
    """Count the interactions that an epoch draws; by default with the settings of the manifest."""
    from ssl_recall.training import sampling

    weights = weights_of(job, settings or settings_of(job))
    return job.rows(layout.TRAIN) if weights is None else sampling.rows_per_epoch(weights)


def half_lives(job: reader.Reader) -> dict[float, int]:
    """Return the half-lives to try, in days, each with the interactions that an epoch then draws.

    They are shares of the time of the training interactions, in four digits. Return none if the log has no times, or
    times without a unit.
    """
    from ssl_recall.baselines.recent_popular import SHARES

    clock = _clock(job) if job.has_column(layout.TRAIN, "timestamp") else None
    if clock is None:
        return {}
    tried = sorted(float(f"{clock.days * share:.4g}") for share in SHARES)
    own = settings_of(job)
    return {days: rows_per_epoch(job, replace(own, half_life=days)) for days in tried if days >= SHORTEST}


def _needed_clock(job: reader.Reader) -> Clock:
    """Read the ends of the training interactions. Raises InputError for times without a unit."""
    clock = _clock(job)
    if clock is None:
        text = f"{layout.TRAIN}: timestamp has no unit, it only orders the rows; half_life and window of "
        text += "compute-popularity need dates, datetimes or integers from 1979 to 2128 in s, ms, us or ns"
        raise InputError(text, "TIME")
    return clock


def _clock(job: reader.Reader) -> Clock | None:
    """Read the ends of the training interactions; return None if the unit of their times cannot be known."""
    ends: list[int] = []
    dtype: pl.DataType | None = None
    for part in job.parts(layout.TRAIN, ["timestamp"], ROWS):
        times = part["timestamp"]
        dtype = times.dtype
        ends += timestamps.ends(times) if len(times) else ()
    if dtype is None or not ends:
        return Clock(0, 0, 1)
    first, newest = min(ends), max(ends)
    ticks = timestamps.ticks_per_day(dtype, first, newest)
    return None if ticks is None else Clock(first, newest, ticks)
