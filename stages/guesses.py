"""What the columns of a user's tables are likely to be; every guess is shown to the user, who decides."""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from . import events
from .errors import SettingsError
from .feature_columns import CODE, EXCLUDE

if TYPE_CHECKING:
    import polars as pl

ITEM_NAMES = re.compile(
    r"^(item|movie|product|article|sku|asin|book|track|video|song|business|app|doc|page)s?[_ ]?(id|key|code)?$", re.I
)
QUERY_NAMES = re.compile(
    r"^(query|user|customer|household|session|visitor|member|account|client|reviewer|seed)s?[_ ]?(id|key|code)?$", re.I
)
TIME_NAMES = re.compile(r"time|date|^ts$|_ts$|_at$|^at$", re.I)
WEIGHT_NAMES = re.compile(r"^(rating|weight|score|stars?|quantity|count|value|plays?|clicks?)s?$", re.I)
MANY = 100  # distinct whole numbers from which they are taken for amounts and not for names
NEAR_UNIQUE = 0.8
SEPARATORS = ("|", ";")


@dataclass(frozen=True)
class Guesses:
    """The columns of the interactions."""

    query_id: str
    item_id: str
    timestamp: str | None
    weight: str | None
    min_weight: float
    queries_are_items: bool


def of_tables(log: "pl.DataFrame", items: "pl.DataFrame", queries: "pl.DataFrame | None") -> Guesses:
    """Find the columns. Raises SettingsError where no pair of columns can be the ids."""
    import polars as pl

    item_id = _shared_id(log, items, ITEM_NAMES, set(), "items")
    if queries is not None:
        query_id = _shared_id(log, queries, QUERY_NAMES, {item_id}, "queries")
    else:
        others = [name for name in log.columns if name != item_id and _may_be_id(log[name])]
        named = [name for name in others if QUERY_NAMES.match(name)]
        if not named + others:
            raise SettingsError("--interactions: no column can be the query's id (text or whole numbers)", "NO_IDS")
        query_id = (named + others)[0]
    rest = [name for name in log.columns if name not in {query_id, item_id}]
    times = [name for name in rest if log.schema[name].is_temporal() and log.schema[name] != pl.Duration]
    times += [name for name in rest if TIME_NAMES.search(name) and log.schema[name].is_integer()]
    weights = [name for name in rest if WEIGHT_NAMES.match(name) and log.schema[name].is_numeric()]
    weight = weights[0] if weights else None
    middle = log[weight].cast(pl.Float64).drop_nulls().median() if weight else None
    least = float(middle) if isinstance(middle, float | int) else 1.0
    return Guesses(
        query_id,
        item_id,
        times[0] if times else None,
        weight,
        least,
        events.are_items(log[query_id].drop_nulls(), items[item_id]),
    )


def of_column(values: "pl.Series") -> tuple[str, str]:
    """Guess what a column is, as a setting, and say what the guess rests on."""
    from ssl_recall.features import Kind
    from ssl_recall.vocabularies import guess_kind

    present = values.drop_nulls()
    missing = f"{values.null_count() / max(len(values), 1):.1%} missing"
    if values.name.endswith(CODE) or values.name in {"item_id", "query_id"}:
        return EXCLUDE, "the artifacts use this name; rename the column to use it"
    try:
        kind = guess_kind(values.dtype)
    except ValueError as error:
        return EXCLUDE, str(error)
    if kind is Kind.DENSE:
        return kind, f"vectors of {getattr(values.dtype, 'size', 0)}, {missing}"
    if kind is Kind.MULTI_VALUED:
        flat = present.explode(empty_as_null=True)
        mean = flat.drop_nulls().len() / max(len(values), 1)
        empty = int((values.list.len().fill_null(0) == 0).sum()) / max(len(values), 1)
        return kind, f"{flat.n_unique():,} values, {mean:.1f} a row, {empty:.1%} missing"
    distinct = present.n_unique()
    if distinct < 2:
        return EXCLUDE, f"{distinct} value{'' if distinct == 1 else 's'}"
    if kind is Kind.NUMERIC:
        setting = "numeric,nan=missing" if values.dtype.is_float() and bool(present.is_nan().any()) else "numeric"
        return setting, f"{distinct:,} values, {missing}"
    if values.dtype.is_integer() and distinct > MANY:
        return Kind.NUMERIC, f"{distinct:,} values, {missing}"
    if separator := _separator(present):
        return f"{Kind.MULTI_VALUED},separator={separator}", f"values joined by {separator!r}, {missing}"
    if distinct > NEAR_UNIQUE * len(present) and distinct > MANY:
        return EXCLUDE, f"{distinct:,} values in {len(present):,} rows: nearly every row has its own"
    return kind, f"{distinct:,} values, {missing}"


def _separator(values: "pl.Series") -> str:
    """Find what joins the values of a list that a CSV file holds as text; nothing where nothing does."""
    import polars as pl

    if values.dtype != pl.String or not len(values):
        return ""
    for separator in SEPARATORS:
        joined = values.str.contains(separator, literal=True)
        parts = values.str.split(separator).explode(empty_as_null=True)
        if int(joined.sum()) > 0.3 * len(values) and parts.n_unique() < NEAR_UNIQUE * len(parts):
            return separator
    return ""


def _may_be_id(values: "pl.Series") -> bool:
    import polars as pl

    return values.dtype == pl.String or values.dtype.is_integer()


def _shared_id(log: "pl.DataFrame", table: "pl.DataFrame", names: re.Pattern[str], taken: set[str], title: str) -> str:
    """Find the column of both tables that names a table's rows: by name, else as the unique one the log draws from."""
    both = [n for n in table.columns if n in log.columns and n not in taken and _may_be_id(table[n])]
    ranked = sorted(both, key=lambda n: (not names.match(n), table[n].n_unique() < table.height))
    if ranked:
        return ranked[0]
    close = ", ".join(table.columns[:5])
    raise SettingsError(
        f"--{title}: no column has the name of one in the interactions ({close} ..); name the id columns alike",
        "NO_IDS",
    )
