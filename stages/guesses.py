"""What the columns of a user's tables are likely to be; every guess is shown to the user, who decides."""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from . import events, instants, tables
from .errors import SettingsError
from .feature_columns import EXCLUDE, bad_name

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
LABEL_WORDS = {"id", "code", "key", "zip", "zipcode", "postcode"}  # numbers under such a name are no amounts
WEIGHT_WORDS = {"rating", "ratings", "weight", "score", "star", "stars", "quantity", "count", "counts", "value"}
WEIGHT_WORDS |= {"play", "plays", "click", "clicks"}
MANY = 100  # distinct whole numbers from which they are taken for amounts and not for names
NEAR_UNIQUE = 0.8
NEARLY = 0.9  # of the rows: what has a value of its own for more of them is an id, what begins as a date does a time
BATCH = 1024  # the default of train
SSL_BATCH = 1024  # the default of train, too
STEPS = 80  # of a pass over the log that are enough
SEPARATORS = ("|", ";", ",")
DATE = (  # as some program writes one, alone or before a time of day; no 10.0.0.12, no 2024-01-05-session-7
    r"^\s*(\d{4}[-/.]\d{1,2}[-/.]\d{1,2}|\d{1,2}[-/.]\d{1,2}[-/.](\d{4}|\d{2}))([ T,].*)?$"
)


@dataclass(frozen=True)
class Guesses:
    """The columns of the interactions."""

    query_id: str
    queries_id: str  # the same in the table of queries, where there is one
    item_id: str
    items_id: str  # the same in the table of items
    timestamp: str | None
    unusable_time: str | None  # a column named for times that is of no type of times
    weight: str | None
    min_weight: float
    unused: list[str]
    queries_are_items: bool
    described: float  # share of the interactions whose query stands in the table of queries, 1 where there is none


def of_tables(log: "pl.DataFrame", items: "pl.DataFrame", queries: "pl.DataFrame | None") -> Guesses:
    """Find the columns. Raises SettingsError where no pair of columns can be the ids."""
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
        events.are_items(log[query_id].drop_nulls(), items[items_id], query_id),
        1.0 if queries is None else _share_among(log[query_id], queries[queries_id]),
    )


def of_column(values: "pl.Series") -> tuple[str, str]:
    """Guess what a column is, as a setting that prepare takes, and say what the guess rests on."""
    import polars as pl

    from ssl_recall.features import Kind
    from ssl_recall.vocabularies import (
        AS_LISTS,
        Column,
        NotFiniteError,
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
        except NotFiniteError:
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
    told = ""
    if values.dtype == pl.String:
        if such := written_list(present):
            return EXCLUDE, f"lists written as text, such as {such!r}: {AS_LISTS}, to use them"
        told = nearly_numbers(present) if distinct > MANY and not _words(values.name) & LABEL_WORDS else ""
        if not told and (separator := _separator(present)):
            return f"{Kind.MULTI_VALUED},separator={separator}", f"values joined by {separator!r}, {missing}"
    if distinct > NEAR_UNIQUE * len(present) and distinct > MANY:
        return EXCLUDE, told or f"{distinct:,} values in {len(present):,} rows: nearly every row has its own"
    return kind, f"{distinct:,} values, {missing}{told and f'; {told}'}"


def of_queries_column(values: "pl.Series", items: "pl.DataFrame") -> tuple[str, str]:
    """Guess a column of queries that are items: what the items' column of its name is, so that both sides share it."""
    own, why = of_column(values)
    if values.dtype != items.schema.get(values.name):
        return own, why
    shared, _ = of_column(items[values.name])
    return (own, why) if shared.partition(",")[0] == own.partition(",")[0] else (shared, "as in the items")


def _separator(values: "pl.Series") -> str:
    """Find what joins the values of a list that a CSV file holds as text; nothing where nothing does."""
    for separator in SEPARATORS:
        joined = values.str.contains(separator, literal=True)
        parts = values.str.split(separator).explode(empty_as_null=True).str.strip_chars()
        most = values.n_unique() / 2 if separator == "," else NEAR_UNIQUE * len(parts)  # commas stand in titles, too
        if int(joined.sum()) > 0.3 * len(values) and parts.n_unique() < most:
            return separator
    return ""


def _share_among(ids: "pl.Series", known: "pl.Series") -> float:
    return int(tables.among(ids, known).sum()) / max(len(ids), 1) if tables.comparable(ids, known) else 0.0


def _words(name: str) -> set[str]:
    return {word.lower() for word in WORDS.findall(name)}


def _says_weight(name: str) -> bool:
    return bool(_words(name) & WEIGHT_WORDS) and not _words(name) & LABEL_WORDS


def _holds_times(values: "pl.Series") -> bool:
    """Tell whether a column of the interactions can order them; a number needs the name, and to be like an instant."""
    import polars as pl

    if values.null_count() > len(values) / 2 or values.n_unique() < 2:
        return False
    if isinstance(values.dtype, pl.Date | pl.Datetime):
        return True
    if not (values.dtype.is_integer() and _words(values.name) & TIME_WORDS):
        return False
    middle = float(values.cast(pl.Float64).drop_nulls().median() or 0.0)  # type: ignore[arg-type]
    return values.name.lower() in TIME_WORDS or any(3e8 * unit <= middle <= 5e9 * unit for unit in instants.UNITS)


def _look_like_dates(values: "pl.Series") -> bool:
    """Tell whether texts begin as dates do, of whatever order of day and month."""
    import polars as pl

    present = values.drop_nulls() if values.dtype == pl.String else values.clear()
    return len(present) > 0 and int(present.str.contains(DATE).sum()) > NEARLY * len(present)


def batch_size(interactions: int) -> int:
    """Give the largest power of two of which a pass over so many interactions has STEPS steps, 32 at least."""
    return max(32, 1 << max(interactions // STEPS, 1).bit_length() - 1)


def for_a_short_log(interactions: int, items: int) -> dict[str, tuple[float, str]]:
    """Give settings of `train` that a log does better with, each with its reason; none for a long one."""
    found: dict[str, tuple[float, str]] = {}
    if (size := batch_size(interactions)) < BATCH:
        found["batch_size"] = size, f"{interactions:,} interactions are few for {BATCH}."
    if items < SSL_BATCH:
        found["ssl_batch_size"] = max(items, 2), f"There are {items:,} items."
    if interactions < items:  # most items are in no interaction: the head is soon learned by heart, and easily lost
        why = f"{interactions:,} interactions are few for {items:,} items."
        found |= {"temperature": (0.1, why), "ssl_weight": (0.03, why)}
    return found


def of_no_time(values: "pl.Series") -> str:
    """Say what keeps a column that is named for times from being one: its type, or the few texts that are no times."""
    import polars as pl

    plain = f"is of type {values.dtype}, which does not order the rows"
    if values.dtype != pl.String or values.null_count() == len(values):
        return plain
    from ssl_recall.vocabularies import shown

    plain = f"holds texts such as {shown(values.drop_nulls()[0])!r}, which do not order the rows"
    for read in (values.str.to_datetime, values.str.to_date):
        try:
            bad = read(strict=False).is_null() & values.is_not_null()
        except pl.exceptions.PolarsError:
            continue
        rows = bad.arg_true()
        if 0 < len(rows) < len(values) / 2:
            first = int(rows[0])
            such = f"such as {shown(values[first])!r} in row {first} (the first is 0)"
            return f"holds {len(rows):,} values of {len(values):,} that are no times, {such}"
    return plain


def _query_id(log: "pl.DataFrame", item_id: str) -> str:
    """Find the column that says who asked: by its name, else the one with most values, but not one a row."""
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
    """Find what names a table's rows: its column of the log, and its column there.

    One name in both that is like an id's, or unique in the table; else the two columns that hold the same values.
    """
    both = [n for n in table.columns if n in log.columns and n not in taken and _may_be_id(table[n])]
    ranked = sorted(both, key=lambda n: (not names.match(n), table[n].n_unique() < table.height))
    if ranked and (names.match(ranked[0]) or table[ranked[0]].n_unique() == table.height):
        return ranked[0], ranked[0]
    if pair := _of_equal_values(log, table, names, taken):
        return pair
    if ranked:
        return ranked[0], ranked[0]
    columns = "; ".join(f"{where} {', '.join(frame.columns)}" for where, frame in (("there", table), ("here", log)))
    text = f"--{title}: no column of it holds the ids of one in the interactions ({columns}); write them alike in both"
    raise SettingsError(text, "NO_IDS")


def _of_equal_values(
    log: "pl.DataFrame", table: "pl.DataFrame", names: re.Pattern[str], taken: set[str]
) -> tuple[str, str] | None:
    """Find a column of the log most of whose values name a row of the table, and that column there.

    It may name a few rows twice: `prepare` refuses them by their ids.
    """
    found = []
    for there in (n for n in table.columns if _may_be_id(table[n]) and table[n].n_unique() > NEARLY * table.height):
        for here in (n for n in log.columns if n not in taken and _may_be_id(log[n])):
            share = _share_among(log[here], table[there])
            if share > 1 / 2:
                named = bool(names.match(here)) + bool(names.match(there))
                found.append(((named, share, log[here].n_unique()), (here, there)))
    return max(found)[1] if found else None
