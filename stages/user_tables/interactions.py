"""Read and check the interactions; set the unusable ones aside."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stages.run_folder import source_files
from stages.terminal.errors import InputError, SettingsError

from . import id_columns, tables, timestamps
from .problems import Problems, need_column
from .settings import NullTimestamp, PrepareSettings

if TYPE_CHECKING:
    import polars as pl

    from .catalogue import Sides


MERGED = 2**24  # rows per batch when repeated pairs are merged
ITEM_TO_ITEM = 0.9  # queries are items if at least this share of the query ids are item ids
EXAMPLES = 1000  # rows searched for unknown ids to show in the message
RARE = 0.1  # numbers that use less than this share of their range do not match query ids by chance


@dataclass(frozen=True)
class CheckedInteractions:
    """The usable interactions, the quarantined ones with the reason, and the queries."""

    log: "pl.DataFrame"  # query_index, item_index, timestamp and weight if given; each pair once, sorted by query
    queries: "pl.Series"  # (Q,) ids; query_index is a row of it
    quarantine: "pl.DataFrame"
    below: int  # rows below `min_weight`, dropped
    repeated: int  # rows that repeat a pair
    queries_are_items: bool


def read_interactions(table: tables.Table, known: "Sides", settings: PrepareSettings) -> CheckedInteractions:
    """Check the interactions and replace their ids by row numbers. Raises InputError with every problem.

    Only row numbers, times and weights stay in memory: 8 to 20 bytes per row, and twice that while repeated pairs
    are merged.
    """
    import polars as pl

    problems = Problems(f"--interactions {table.path}")
    log, titles = _columns(table, settings, problems)
    items = known.items.ids
    if known.queries is None and settings.queries_are_items is not False and source_files.is_csv(table.path):
        log = _asked_as_text(log, items, titles["query_id"], forced=bool(settings.queries_are_items))
    rows = _checked(log, titles, settings, problems)
    if not rows:
        raise InputError(f"--interactions {table.path}: {_why_empty(table, settings)}", "TOO_FEW")
    named = {name: pl.Series(title, [], log.schema[name]) for name, title in titles.items()}
    id_columns.check_same_type("items", named["item_id"], items, problems)
    item_to_item, queries = settings.queries_are_items, known.queries.ids if known.queries else None
    asked = _asked(log) if item_to_item is None or (queries is None and not item_to_item) else named["query_id"]
    if item_to_item is None:
        item_to_item = are_items(asked, items, titles["query_id"])
    if queries is None and item_to_item:
        queries = items.alias("query_id")
    if queries is not None:
        id_columns.check_same_type("queries" if known.queries else "items", named["query_id"], queries, problems)
    problems.stop_if_any()

    asking = asked if queries is None else queries
    numbered = _numbered(_numbered(log, asking, "query"), items, "item")
    reason = _reason(log.schema, settings)
    rest = [name for name in ("timestamp", "weight") if name in log.schema]
    found = log.collect(numbered.frame.select("query_index", "item_index", *rest, reason))
    quarantine = pl.DataFrame(schema={**log.schema, "reason": pl.String})
    if found["reason"].null_count() < rows:
        _limit_unknown(found["reason"], settings.max_unknown_share, log, items, queries)
        found = found.filter(pl.col("reason").is_null())
        apart = numbered.frame.select(*log.schema, reason).filter(pl.col("reason").is_not_null())
        quarantine = log.collect(apart).with_columns(pl.col("reason").cast(pl.String)).sort(pl.all())
    found = found.drop("reason")
    if queries is None:
        found, asking = _only_asked(found, asking)
    merged = _each_pair_once(found, len(asking))
    below = int(table.select(pl.len()).item()) - rows if settings.min_weight is not None else 0
    return CheckedInteractions(merged, asking, quarantine, below, found.height - merged.height, item_to_item)


def are_items(queries: "pl.Series", items: "pl.Series", title: str) -> bool:
    """Guess whether the queries of a log are items, from their ids and the name of their column.

    Users and items are often both numbered from 1 (MovieLens). So numbers count only if the items use less than a
    tenth of the numbers between their first and their last, or if the column's name contains "item".
    """
    import polars as pl

    asked = queries.unique()
    if not id_columns.comparable(asked, items) or not len(items):
        return False
    if int(id_columns.among(asked, items).sum()) < ITEM_TO_ITEM * len(asked):
        return False
    numbers = items.cast(pl.Int64, strict=False) if items.dtype != pl.UInt64 else items
    if numbers.null_count() or "item" in title.lower():
        return True
    return bool(len(items) < RARE * (int(numbers.max()) - int(numbers.min()) + 1))  # type: ignore[arg-type]


def _columns(table: tables.Table, settings: PrepareSettings, problems: Problems) -> tuple[tables.Table, dict[str, str]]:
    """Select the used columns under their artifact names, without rows below `min_weight`; return the user's names."""
    import polars as pl

    wanted = {"query_id": settings.query_id, "item_id": settings.item_id}
    given = {"timestamp": settings.timestamp, "weight": settings.weight}
    wanted |= {name: column for name, column in given.items() if column is not None}
    if settings.query_id == settings.item_id:
        raise SettingsError(f"--query-id and --item-id are one column, {settings.item_id!r}", "SAME_COLUMN")
    for name, column in wanted.items():
        need_column(table.schema, column, f"--{name.replace('_', '-')}", problems)
    for column in wanted.values():
        if column in table.schema and (text := table.too_large(column)):
            problems.add("LIMIT", f"{column} {text}")
    problems.stop_if_any()
    log = table.frame.select(table.at(column).alias(name) for name, column in wanted.items())
    if settings.min_weight is not None and "weight" not in wanted:
        raise SettingsError("--min-weight needs --weight, the column that holds it", "NO_WEIGHT")
    if settings.min_weight is not None and not math.isfinite(settings.min_weight):
        raise SettingsError(f"--min-weight {settings.min_weight} is no number to compare with", "WEIGHT")
    if "weight" in wanted:
        if not table.schema[wanted["weight"]].is_numeric():
            problems.add("WEIGHT", f"{wanted['weight']} is of type {table.schema[wanted['weight']]}, no number")
            problems.stop_if_any()
        log = log.with_columns(pl.col("weight").cast(pl.Float64).fill_nan(None))  # float32 would round at the threshold
        if settings.min_weight is not None:
            enough = pl.col("weight") >= settings.min_weight
            log = log.filter(pl.col("weight").is_null() | enough | pl.col("weight").is_infinite())
        log = log.with_columns(pl.col("weight").cast(pl.Float32))
    return table.on(log), wanted


def _checked(log: tables.Table, titles: dict[str, str], settings: PrepareSettings, problems: Problems) -> int:
    """Note unusable ids, times and weights under the user's column names; return the number of rows."""
    import polars as pl

    may = [name for name in ("query_id", "item_id") if id_columns.may_name(log.schema[name])]
    doubts = [id_columns.is_no_id(name, log.schema[name]).any().alias(name) for name in may]
    if "weight" in titles:
        doubts.append(pl.col("weight").is_infinite().sum().alias("weight"))
    found = log.select(pl.len().alias("rows"), *doubts).row(0, named=True)
    if not found["rows"]:
        return 0
    if found.get("weight"):
        text = f"{titles['weight']} is infinite, or beyond float32, in {found['weight']:,} of {found['rows']:,} rows"
        problems.add("WEIGHT", f"{text}; mend it, or make it null")
    if "timestamp" in titles:
        times = log.column("timestamp").alias(titles["timestamp"])
        missing = times.null_count()
        if settings.null_timestamp == NullTimestamp.REFUSE and 0 < missing < len(times):
            problems.add(
                "TIME",
                f"{times.name} is null in {missing:,} of {len(times):,} rows (others {timestamps.span(times)}); "
                "mend it, or --null-timestamp quarantine",
            )
    for name in ("query_id", "item_id"):
        if found.get(name, True):  # a column without a bad id is not read
            flag = f"--{name.replace('_', '-')}"
            counted = "the first is 0" if settings.min_weight is None else "counted from 0 at --min-weight or above"
            id_columns.check_ids(log.column(name).alias(titles[name]), flag, problems, unique=False, counted=counted)
    if "timestamp" in titles:
        timestamps.check(times, problems)
    return int(found["rows"])


def _why_empty(table: tables.Table, settings: PrepareSettings) -> str:
    import polars as pl

    rows = int(table.select(pl.len()).item())
    if not rows:
        return "no rows"
    assert settings.weight is not None, "a table with rows is emptied by its weights alone"
    weights = table.column(settings.weight)
    found = f"{settings.weight} goes from {weights.min()!s} to {weights.max()!s}"
    return f"none of {rows:,} rows has a weight of at least {settings.min_weight:g}: {found}; lower --min-weight"


def _asked_as_text(log: tables.Table, items: "pl.Series", title: str, *, forced: bool) -> tables.Table:
    """Read the query ids of a CSV file as text if they are item ids and the catalogue holds its ids as text."""
    import polars as pl

    if items.dtype != pl.String or not log.schema["query_id"].is_integer():
        return log
    texts = log.with_text("query_id")
    return texts if forced or are_items(_asked(texts), items, title) else log


def _asked(log: tables.Table) -> "pl.Series":
    """Return the distinct query ids, sorted."""
    import polars as pl

    if not id_columns.may_name(log.schema["query_id"]):
        return pl.Series("query_id", [], log.schema["query_id"])
    return log.select(pl.col("query_id").unique())["query_id"].sort()


def _numbered(log: tables.Table, ids: "pl.Series", side: str) -> tables.Table:
    """Add the row of each id in `ids` as `<side>_index`, null if absent; integers of two widths compare as int64."""
    import polars as pl

    name, dtype = f"{side}_id", ids.dtype if ids.dtype == log.schema[f"{side}_id"] else pl.Int64()
    rows = pl.LazyFrame({"key": ids.cast(dtype), f"{side}_index": pl.int_range(len(ids), dtype=pl.Int32, eager=True)})
    frame = log.frame.with_columns(pl.col(name).cast(dtype).alias("key")).join(rows, on="key", how="left").drop("key")
    return log.on(frame)


def _reason(schema: "pl.Schema", settings: PrepareSettings) -> "pl.Expr":
    """Return the reason to set a numbered interaction aside, null for a usable one."""
    import polars as pl

    reasons = {"item_index": "item not in the catalogue", "query_index": "query not in the queries"}
    if "timestamp" in schema:
        reasons["timestamp"] = "no time"
    if settings.min_weight is not None:
        reasons["weight"] = "no weight"
    dtype = pl.Enum(list(reasons.values()))  # 1 byte per row
    which = [pl.when(pl.col(name).is_null()).then(pl.lit(text, dtype)) for name, text in reasons.items()]
    return pl.coalesce(*which).alias("reason")


def _only_asked(log: "pl.DataFrame", asked: "pl.Series") -> "tuple[pl.DataFrame, pl.Series]":
    """Drop the queries without a usable interaction; renumber the others."""
    import polars as pl

    used = log["query_index"].unique().sort()
    if len(used) == len(asked):
        return log, asked
    return log.with_columns((pl.col("query_index").rank("dense") - 1).cast(pl.Int32)), asked.gather(used)


def _each_pair_once(log: "pl.DataFrame", queries: int) -> "pl.DataFrame":
    """Merge the rows of a pair: earliest time, largest weight. Sort by query, time and item."""
    import polars as pl

    best = {"timestamp": pl.col("timestamp").min(), "weight": pl.col("weight").max()}
    rest = [best[name] for name in log.columns if name in best]
    order = [name for name in ("query_index", "timestamp", "item_index") if name in log.columns]
    each = max(queries * MERGED // max(log.height, 1), 1)  # queries per batch, so that few rows are in memory twice
    some = (log.lazy().filter(pl.col("query_index").is_between(low, low + each - 1)) for low in range(0, queries, each))
    merged = [
        part.group_by("query_index", "item_index").agg(rest).sort(order).collect(engine="streaming") for part in some
    ]
    return pl.concat(merged).select(log.columns) if merged else log


def _limit_unknown(
    reasons: "pl.Series",
    most: float,
    log: tables.Table,
    items: "pl.Series",
    queries: "pl.Series | None",
) -> None:
    """Refuse a log if too many of its rows name unknown items or queries."""
    import polars as pl

    counts = reasons.drop_nulls().cast(pl.String).value_counts().sort("count", "reason", descending=[True, False])
    unknown = counts.filter(pl.col("reason").str.contains(" not in the "))
    share = int(unknown["count"].sum()) / len(reasons)
    if share <= most and share < 1:
        return
    by_query = queries is not None and "query" in unknown["reason"][0]
    side, known = ("query_id", queries) if by_query else ("item_id", items)
    named = log.select(side, rows=EXAMPLES)[side].unique(maintain_order=True)
    strange = named.filter(~named.is_in(known.implode())) if known is not None else named
    examples = strange.head(3).to_list(), known.head(3).to_list() if known is not None else []
    where = "the queries" if by_query else "the catalogue"
    hint = f"; are these the same ids? interactions have {examples[0]}, {where} {examples[1]}"
    if share < 1:
        hint += f"; if they are, set the limit with --max-unknown-share (now {most:g})"
    kinds = ", ".join(f"{count:,} {reason}" for reason, count in unknown.iter_rows())
    raise InputError(f"--interactions {log.path}: {share:.0%} of {len(reasons):,} rows: {kinds}{hint}", "UNKNOWN_ITEMS")
