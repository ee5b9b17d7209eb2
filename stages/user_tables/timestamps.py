"""Check the times of the interactions: one unit, none in the future, no mark for a missing time."""

import datetime
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import polars as pl

    from .problems import Problems


DAY = 86_400
UNITS = {1: "seconds", 10**3: "milliseconds", 10**6: "microseconds", 10**9: "nanoseconds"}
EARLIEST, LATEST = int(3e8), int(5e9)  # seconds; an integer from 1979 to 2128 counts as an instant
MARKS = {sign - (sign > 0) for bits in (31, 32, 63, 64) for sign in (2**bits, -(2**bits))}  # marks for a missing time
YEAR_1, YEAR_9999 = -62_135_596_800, 253_402_300_799  # seconds: the range of a date
TICKS = {"ms": 10**3, "us": 10**6, "ns": 10**9}


def check(times: "pl.Series", problems: "Problems") -> None:
    """Note times that cannot be ordered: mixed units, marks, the future. The caller handles nulls."""
    import polars as pl

    title, times = times.name, times.alias("times")
    if not (times.dtype.is_integer() or isinstance(times.dtype, pl.Date | pl.Datetime)):
        problems.add("TIME", f"{title} is of type {times.dtype}; a time is a date, a datetime or an integer")
        return
    if times.null_count() == len(times):
        problems.add("TIME", f"{title} is null in every row")
        return
    low, high = ends(times)
    now, wrong = time.time() + DAY, ""
    if not times.dtype.is_integer():
        ticks = _ticks(times.dtype)
        if low < YEAR_1 * ticks or high > YEAR_9999 * ticks:
            wrong = "is no date"
        elif high > now * ticks:
            wrong = "lies in the future"
    elif MARKS & {low, high}:
        wrong = "holds an integer limit (32 or 64 bits), a mark for no time"
    elif units := _units(times):
        if len(units) > 1:
            wrong = f"mixes {' and '.join(UNITS[unit] for unit in units)}"
        elif low < EARLIEST * units[0] or high > LATEST * units[0]:
            years = "1979 to 2128" if low > 0 else "above 0"
            wrong = f"mixes {UNITS[units[0]]} ({years}) and other numbers"
        elif high > now * units[0]:
            wrong = "lies in the future"
    if wrong:
        problems.add("TIME", f"{title} {wrong}: {span(times)}; mend these rows, or make them null")


def ends(times: "pl.Series") -> tuple[int, int]:
    """Return the least and the greatest time as integers, which also hold the limits of the type."""
    numbers = times.to_physical()
    return int(numbers.min()), int(numbers.max())  # type: ignore[arg-type]


def ticks_per_day(dtype: "pl.DataType", low: int, high: int) -> int | None:
    """Return the steps per day of times from `low` to `high`, None for integers that only order the rows.

    The unit of integers is the one in which both ends are instants of 1979 to 2128.
    """
    if not dtype.is_integer():
        return TICKS[dtype.time_unit] * DAY if hasattr(dtype, "time_unit") else 1
    units = (unit for unit in UNITS if EARLIEST * unit <= low and high <= LATEST * unit)
    return next((unit * DAY for unit in units), None)


def span(times: "pl.Series") -> str:
    """Write the first and the last instant; one beyond the range of dates is written as a number."""
    if times.null_count() == len(times):
        return "from nothing to nothing"
    return "from {} to {}".format(*(_written(end, times.dtype) for end in ends(times)))


def _units(times: "pl.Series") -> list[int]:
    """List the units in which some numbers are instants of 1979 to 2128; other numbers may only order the rows."""
    import polars as pl

    wide = times.cast(pl.Int64, strict=False)  # an int32 of seconds is compared with nanoseconds
    return [unit for unit in UNITS if wide.is_between(EARLIEST * unit, LATEST * unit).any()]


def _ticks(dtype: "pl.DataType") -> float:
    """Return the steps per second of a type."""
    return TICKS[dtype.time_unit] if hasattr(dtype, "time_unit") else 1 / DAY


def _written(number: int, dtype: "pl.DataType") -> str:
    """Write an instant in the form of its type."""
    if dtype.is_integer():
        return str(number)
    seconds = number / _ticks(dtype)
    if not YEAR_1 <= seconds <= YEAR_9999:
        return f"{number} {getattr(dtype, 'time_unit', 'days')} after 1970"
    written = datetime.datetime(1970, 1, 1) + datetime.timedelta(seconds=seconds)
    return str(written if hasattr(dtype, "time_unit") else written.date())
