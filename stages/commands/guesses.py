"""Guess the role and the kind of the columns of the user's tables; the user sees every guess and decides."""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stages.terminal.errors import SettingsError
from stages.user_tables import id_columns, timestamps
from stages.user_tables.declarations import EXCLUDE
from stages.user_tables.feature_columns import bad_name
from stages.user_tables.interactions import are_items

if TYPE_CHECKING:
    import polars as pl


ITEM_NAMES = re.compile(
    r"^(item|movie|product|article|sku|asin|book|track|video|song|business|app|doc|page)s?[_ ]?(id|key|code)?$", re.I
)
QUERY_NAMES = re.compile(
    r"^(query|user|u|customer|household|session|visitor|member|account|client|reviewer|seed)s?[_ ]?(id|key|code)?$",
    re.I,
)
WORDS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")  # of a_name, aName or A_NAME
TIME_WORDS = {"time", "timestamp", "date", "datetime", "unixtime", "ts", "at"}
LABEL_WORDS = {"id", "code", "key", "zip", "zipcode", "postcode"}  # numbers in a column of this name are no amounts
WEIGHT_WORDS = {"rating", "ratings", "weight", "score", "star", "stars", "quantity", "count", "counts", "value"}
WEIGHT_WORDS |= {"play", "plays", "click", "clicks"}
MANY = 100  # more distinct integers than this are amounts, not labels
NEAR_UNIQUE = 0.8
NEARLY = 0.9  # share of rows: with more distinct values a column may be an id, with more dates a time
SEPARATORS = ("|", ";", ",")
DATE = (  # a date alone or before a time of day; not 10.0.0.12, not 2024-01-05-session-7
    r"^\s*(\d{4}[-/.]\d{1,2}[-/.]\d{1,2}|\d{1,2}[-/.]\d{1,2}[-/.](\d{4}|\d{2}))([ T,].*)?$"
)


@dataclass(frozen=True)
class Guesses:
    """The columns of the interactions."""

    query_id: str
    queries_id: str  # the same id in --queries; query_id without that table
    item_id: str
    items_id: str  # the same id in --items
    timestamp: str | None
    unusable_time: str | None  # a column with the name or look of a time, but not the type
    weight: str | None
    min_weight: float
    unused: list[str]
    queries_are_items: bool
    described: float  # share of the interactions whose query is in --queries; 1 without that table


def of_tables(log: "pl.DataFrame", items: "pl.DataFrame", queries: "pl.DataFrame | None") -> Guesses:
    """Guess the columns. Raises SettingsError if no columns can be the ids, or the tables are swapped."""
    import polars as pl

    item_id, items_id = _shared_id(log, items, ITEM_NAMES, set(), "items")
    if items[items_id].is_duplicated().any() and not log[item_id].is_duplicated().any():
        text = f"--items holds {items_id} several times and --interactions each once; are the two tables swapped?"
        raise SettingsError(text, "SWAPPED")
    if queries is not None:
        query_id, queries_id = _shared_id(log, queries, QUERY_NAMES, {item_id}, "queries")
    else:
        query_id = queries_id = _query_id(log, item_id)
    rest = [name for name in log.columns if name not in {query_id, item_id}]
    times = sorted((name for name in rest if _holds_times(log[name])), key=lambda name: log.schema[name].is_integer())
    unusable = [
        name
        for name in rest
        if (_words(name) & TIME_WORDS or _look_like_dates(log[name])) and not _holds_times(log[name])
    ]
    amounts = [name for name in rest if log.schema[name].is_numeric() and name not in times]
    weights = [name for name in amounts if _says_weight(name)]
    weight = weights[0] if weights else None
    used = {*times[:1], *(unusable[:1] if not times else ()), weight}
    middle = log[weight].cast(pl.Float64).drop_nulls().median() if weight else None
    least = float(middle) if isinstance(middle, float | int) else 1.0
    return Guesses(
        query_id,
        queries_id,
        item_id,
        items_id,
        times[0] if times else None,
        unusable[0] if unusable and not times else None,
        weight,
        least,
        [name for name in rest if name not in used],
        are_items(log[query_id].drop_nulls(), items[items_id], query_id),
        1.0 if queries is None else _share_among(log[query_id], queries[queries_id]),
    )


def of_column(values: "pl.Series") -> tuple[str, str]:
    """Guess the kind of a column, as a setting of `prepare`; also return the evidence."""
    import polars as pl

    from ssl_recall.data.codes import Kind
    from ssl_recall.data.vocabularies import (
        AS_LISTS,
        Column,
        NonFiniteValueError,
        clean,
        guess_kind,
        nearly_numbers,
        written_list,
    )

    if why := bad_name(values.name):
        return EXCLUDE, f"it {why}; rename the column to use it"
    option = ""
    try:
        floats = isinstance(values.dtype, pl.List) and values.dtype.inner.is_float()
        kind = Kind.DENSE if floats else guess_kind(values.dtype)
        try:
            plain = clean(values, Column(values.name, kind))
        except NonFiniteValueError:
            option = ",nan=missing"
            plain = clean(values, Column(values.name, kind, nan_is_missing=True))
    except ValueError as error:
        return EXCLUDE, str(error)
    present = plain.drop_nulls()
    missing = f"{plain.null_count() / max(len(plain), 1):.1%} missing" + (
        ", NaN or infinity among them" if option else ""
    )
    if kind is Kind.DENSE:
        return kind + option, f"vectors of {getattr(plain.dtype, 'size', 0)}, {missing}"
    if kind is Kind.MULTI_VALUED:
        flat = present.explode(empty_as_null=True)
        return kind + option, f"{flat.n_unique():,} values, {len(flat) / max(len(plain), 1):.1f} a row, {missing}"
    distinct = present.n_unique()
    if distinct < 2:
        return EXCLUDE, f"{distinct} value{'' if distinct == 1 else 's'}"
    amounts = values.dtype.is_integer() and distinct > MANY and not _words(values.name) & LABEL_WORDS
    if kind is Kind.NUMERIC or amounts:
        return Kind.NUMERIC + option, f"{distinct:,} values, {missing}"
    doubt = ""
    if values.dtype == pl.String:
        if example := written_list(present):
            return EXCLUDE, f"lists written as text, such as {example!r}: {AS_LISTS}, to use them"
        doubt = nearly_numbers(present) if distinct > MANY and not _words(values.name) & LABEL_WORDS else ""
        if not doubt and (separator := _separator(present)):
            return f"{Kind.MULTI_VALUED},separator={separator}", f"values joined by {separator!r}, {missing}"
    if distinct > NEAR_UNIQUE * len(present) and distinct > MANY:
        return EXCLUDE, doubt or f"{distinct:,} values in {len(present):,} rows: nearly every row has another one"
    return kind, f"{distinct:,} values, {missing}{doubt and f'; {doubt}'}"


def of_queries_column(values: "pl.Series", items: "pl.DataFrame") -> tuple[str, str]:
    """Guess a column of queries that are items: as the items' column of the same name, so that both sides share it."""
    own, why = of_column(values)
    if values.dtype != items.schema.get(values.name):
        return own, why
    shared, _ = of_column(items[values.name])
    return (own, why) if shared.partition(",")[0] == own.partition(",")[0] else (shared, "as in the items")


def _separator(values: "pl.Series") -> str:
    """Find the separator of lists that a CSV file holds as text; empty if there is none."""
    for separator in SEPARATORS:
        joined = values.str.contains(separator, literal=True)
        parts = values.str.split(separator).explode(empty_as_null=True).str.strip_chars()
        most = values.n_unique() / 2 if separator == "," else NEAR_UNIQUE * len(parts)  # titles contain commas, too
        if int(joined.sum()) > 0.3 * len(values) and parts.n_unique() < most:
            return separator
    return ""


def _share_among(ids: "pl.Series", known: "pl.Series") -> float:
    return int(id_columns.among(ids, known).sum()) / max(len(ids), 1) if id_columns.comparable(ids, known) else 0.0


def _words(name: str) -> set[str]:
    return {word.lower() for word in WORDS.findall(name)}


def _says_weight(name: str) -> bool:
    return bool(_words(name) & WEIGHT_WORDS) and not _words(name) & LABEL_WORDS


def _holds_times(values: "pl.Series") -> bool:
    """Tell whether a column can order the interactions; integers need the name of a time, and values like instants."""
    import polars as pl

    if values.null_count() > len(values) / 2 or values.n_unique() < 2:
        return False
    if isinstance(values.dtype, pl.Date | pl.Datetime):
        return True
    if not (values.dtype.is_integer() and _words(values.name) & TIME_WORDS):
        return False
    middle = float(values.cast(pl.Float64).drop_nulls().median() or 0.0)  # type: ignore[arg-type]
    return values.name.lower() in TIME_WORDS or any(3e8 * unit <= middle <= 5e9 * unit for unit in timestamps.UNITS)


def _look_like_dates(values: "pl.Series") -> bool:
    """Tell whether texts begin with dates, in any order of day and month."""
    import polars as pl

    present = values.drop_nulls() if values.dtype == pl.String else values.clear()
    return len(present) > 0 and int(present.str.contains(DATE).sum()) > NEARLY * len(present)


def of_no_time(values: "pl.Series") -> str:
    """Say why a column with the name of a time is none: its type, or the few texts that are no times."""
    import polars as pl

    plain = f"is of type {values.dtype}, which does not order the rows"
    if values.dtype != pl.String or values.null_count() == len(values):
        return plain
    from ssl_recall.data.vocabularies import shown

    plain = f"holds texts such as {shown(values.drop_nulls()[0])!r}, which do not order the rows"
    for read in (values.str.to_datetime, values.str.to_date):
        try:
            bad = read(strict=False).is_null() & values.is_not_null()
        except pl.exceptions.PolarsError:
            continue
        rows = bad.arg_true()
        if 0 < len(rows) < len(values) / 2:
            first = int(rows[0])
            example = f"such as {shown(values[first])!r} in row {first} (the first is 0)"
            return f"holds {len(rows):,} values of {len(values):,} that are no times, {example}"
    return plain


def _query_id(log: "pl.DataFrame", item_id: str) -> str:
    """Find the column of the query's id: by its name, else the one with most values, but not one per row."""
    others = [
        name
        for name in log.columns
        if name != item_id
        and _may_be_id(log[name])
        and not (_says_weight(name) or _words(name) & TIME_WORDS or _look_like_dates(log[name]))
    ]
    if not others:
        raise SettingsError("--interactions: no column can be the query's id (text or whole numbers)", "NO_IDS")
    counts = {name: log[name].n_unique() for name in others}
    return min(others, key=lambda name: (not QUERY_NAMES.match(name), counts[name] == log.height, -counts[name]))


def _may_be_id(values: "pl.Series") -> bool:
    import polars as pl

    return values.dtype == pl.String or values.dtype.is_integer()


def _shared_id(
    log: "pl.DataFrame", table: "pl.DataFrame", names: re.Pattern[str], taken: set[str], title: str
) -> tuple[str, str]:
    """Find the id of a table's rows: its column in the log, and its column in the table.

    Prefer a common name that is like an id's or unique in the table; else two columns with the same values.
    """
    both = [n for n in table.columns if n in log.columns and n not in taken and _may_be_id(table[n])]
    ranked = sorted(both, key=lambda n: (not names.match(n), table[n].n_unique() < table.height))
    if ranked and (names.match(ranked[0]) or table[ranked[0]].n_unique() == table.height):
        return ranked[0], ranked[0]
    if pair := _of_equal_values(log, table, names, taken):
        return pair
    if ranked:
        return ranked[0], ranked[0]
    columns = "; ".join(
        f"{name}: {', '.join(frame.columns)}" for name, frame in ((title, table), ("interactions", log))
    )
    text = f"--{title}: no column holds the ids that --interactions names ({columns}); write them alike in both"
    raise SettingsError(text, "NO_IDS")


def _of_equal_values(
    log: "pl.DataFrame", table: "pl.DataFrame", names: re.Pattern[str], taken: set[str]
) -> tuple[str, str] | None:
    """Find a column of the log and one of the table that holds most of its values.

    The table's column may repeat a few ids: `prepare` refuses them and names them.
    """
    found = []
    for there in (n for n in table.columns if _may_be_id(table[n]) and table[n].n_unique() > NEARLY * table.height):
        for here in (n for n in log.columns if n not in taken and _may_be_id(log[n])):
            share = _share_among(log[here], table[there])
            if share > 1 / 2:
                named = bool(names.match(here)) + bool(names.match(there))
                found.append(((named, share, log[here].n_unique()), (here, there)))
    return max(found)[1] if found else None
