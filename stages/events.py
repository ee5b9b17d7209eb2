"""The interactions: read, checked, set aside where they cannot be used, and split."""

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from . import instants, sources, tables
from .errors import InputError, SettingsError

if TYPE_CHECKING:
    import numpy as np
    import polars as pl
    from numpy.typing import NDArray

    from .catalogue import Sides

MERGED = 2**24  # rows in which repeated pairs are looked for at a time
ITEM_TO_ITEM = 0.9  # share of the query ids that are item ids from which queries are taken to be items
EXAMPLES = 1000  # rows in which ids are looked for that no table knows, to show them
RARE = 0.1  # share of the numbers of a range below which it is no chance that two tables name the same ones


class NullTimestamp(StrEnum):
    """What becomes of interactions without a time where others have one."""

    REFUSE = "refuse"
    QUARANTINE = "quarantine"


@dataclass(frozen=True)
class Events:
    """The interactions that are used, those set aside with the reason, and what they say about the queries."""

    log: "pl.DataFrame"  # query_index, item_index, timestamp and weight where there are; each pair once, by query
    queries: "pl.Series"  # (Q,) ids, what query_index counts
    quarantine: "pl.DataFrame"
    below: int  # rows under the least weight, which are no interactions
    repeated: int  # rows that repeat a pair
    queries_are_items: bool


def read(table: tables.Table, known: "Sides", settings: dict[str, Any]) -> Events:
    """Hold the interactions to the two sides and number both. Raises InputError with every problem of theirs.

    No more is held of them than the numbers, the times and the weights, 8 to 20 bytes a row, and twice that while
    repeated pairs are merged.
    """
    import polars as pl

    problems = tables.Problems(f"--interactions {table.path}")
    log, titles = _columns(table, settings, problems)
    items = known.items.ids
    if known.queries is None and settings["queries_are_items"] is not False and sources.is_csv(table.path):
        log = _asked_as_text(log, items, titles["query_id"], forced=bool(settings["queries_are_items"]))
    rows = _checked(log, titles, settings, problems)
    if not rows:
        raise InputError(f"--interactions {table.path}: {_why_empty(table, settings)}", "TOO_FEW")
    named = {name: pl.Series(title, [], log.schema[name]) for name, title in titles.items()}
    tables.check_same_type("items", named["item_id"], items, problems)
    item_to_item, queries = settings["queries_are_items"], known.queries.ids if known.queries else None
    asked = _asked(log) if item_to_item is None or (queries is None and not item_to_item) else named["query_id"]
    if item_to_item is None:
        item_to_item = are_items(asked, items, titles["query_id"])
    if queries is None and item_to_item:
        queries = items.alias("query_id")
    if queries is not None:
        tables.check_same_type("queries" if known.queries else "items", named["query_id"], queries, problems)
    problems.stop_if_any()

    asking = asked if queries is None else queries
    numbered = _numbered(_numbered(log, asking, "query"), items, "item")
    reason = _reason(log.schema, settings)
    rest = [name for name in ("timestamp", "weight") if name in log.schema]
    found = log.collect(numbered.frame.select("query_index", "item_index", *rest, reason))
    quarantine = pl.DataFrame(schema={**log.schema, "reason": pl.String})
    if found["reason"].null_count() < rows:
        _limit_unknown(found["reason"], settings["max_unknown_share"], log, items, queries)
        found = found.filter(pl.col("reason").is_null())
        apart = numbered.frame.select(*log.schema, reason).filter(pl.col("reason").is_not_null())
        quarantine = log.collect(apart).with_columns(pl.col("reason").cast(pl.String)).sort(pl.all())
    found = found.drop("reason")
    if queries is None:
        found, asking = _only_asked(found, asking)
    merged = _each_pair_once(found, len(asking))
    below = int(table.select(pl.len()).item()) - rows if settings["min_weight"] is not None else 0
    return Events(merged, asking, quarantine, below, found.height - merged.height, item_to_item)


def are_items(queries: "pl.Series", items: "pl.Series", title: str) -> bool:
    """Guess whether the queries of a log are items, from their ids and the name of their column.

    Numbers from 1 on are users and items alike (MovieLens), so numbers count only where they are rare: where the items
    take less than a tenth of the numbers between their first and their last, or where the column is named for items.
    """
    import polars as pl

    asked = queries.unique()
    if not tables.comparable(asked, items) or not len(items):
        return False
    if int(tables.among(asked, items).sum()) < ITEM_TO_ITEM * len(asked):
        return False
    numbers = items.cast(pl.Int64, strict=False) if items.dtype != pl.UInt64 else items
    if numbers.null_count() or "item" in title.lower():
        return True
    return bool(len(items) < RARE * (int(numbers.max()) - int(numbers.min()) + 1))  # type: ignore[arg-type]


def split(found: Events, items: "pl.Series", settings: dict[str, Any]) -> "NDArray[np.int8]":
    """Give each interaction its place in `splits.SIDES`: by time where there is one, else by a hash of the pair.

    Of those to train on a part may be left out.
    """
    from ssl_recall import splits

    log = found.log
    if log.is_empty():
        raise InputError("no interactions are left to train on", "TOO_FEW")
    shares = settings["validation_share"], settings["test_share"]
    if sum(shares) >= 1:
        raise SettingsError(f"--validation-share and --test-share leave nothing to train on: {shares}", "SHARES")
    pairs = log["query_index"].to_numpy(), log["item_index"].to_numpy()
    try:
        if "timestamp" in log.columns:
            side = splits.by_time(log["timestamp"], *shares)
        else:
            side = splits.by_hash(found.queries, items, pairs, *shares, settings["seed"])
    except ValueError as error:
        raise InputError(f"{error}; without --timestamp the split is by a hash of the pair", "TIME") from None
    if settings["train_fraction"] < 1:
        kept = splits.thinned(found.queries, items, pairs, settings["train_fraction"], settings["seed"])
        side[(side == splits.TRAIN) & ~kept] = splits.LEFT_OUT
    if not (side == splits.TRAIN).any():
        raise InputError("no interactions are left to train on", "TOO_FEW")
    return side


def _columns(
    table: tables.Table, settings: dict[str, Any], problems: tables.Problems
) -> tuple[tables.Table, dict[str, str]]:
    """Take the columns that are used, at or above the least weight, under their artifact names; and the user's."""
    import polars as pl

    wanted = {"query_id": settings["query_id"], "item_id": settings["item_id"]}
    wanted |= {name: settings[name] for name in ("timestamp", "weight") if settings[name] is not None}
    if settings["query_id"] == settings["item_id"]:
        raise SettingsError(f"--query-id and --item-id are one column, {settings['item_id']!r}", "SAME_COLUMN")
    for name, column in wanted.items():
        tables.need_column(table.schema, column, f"--{name.replace('_', '-')}", problems)
    for column in wanted.values():
        if column in table.schema and (text := table.too_large(column)):
            problems.add("LIMIT", f"{column} {text}")
    problems.stop_if_any()
    log = table.frame.select(table.at(column).alias(name) for name, column in wanted.items())
    if settings["min_weight"] is not None and "weight" not in wanted:
        raise SettingsError("--min-weight needs --weight, the column that holds it", "NO_WEIGHT")
    if settings["min_weight"] is not None and not math.isfinite(settings["min_weight"]):
        raise SettingsError(f"--min-weight {settings['min_weight']} is no number to compare with", "WEIGHT")
    if "weight" in wanted:
        if not table.schema[wanted["weight"]].is_numeric():
            problems.add("WEIGHT", f"{wanted['weight']} is of type {table.schema[wanted['weight']]}, no number")
            problems.stop_if_any()
        log = log.with_columns(pl.col("weight").cast(pl.Float64).fill_nan(None))  # float32 would round at the threshold
        if settings["min_weight"] is not None:
            enough = pl.col("weight") >= settings["min_weight"]
            log = log.filter(pl.col("weight").is_null() | enough | pl.col("weight").is_infinite())
        log = log.with_columns(pl.col("weight").cast(pl.Float32))
    return table.on(log), wanted


def _checked(log: tables.Table, titles: dict[str, str], settings: dict[str, Any], problems: tables.Problems) -> int:
    """Note ids and times that cannot be used, in the user's names; gives the rows. Ids are read where doubted."""
    import polars as pl

    may = [name for name in ("query_id", "item_id") if tables.may_name(log.schema[name])]
    doubts = [tables.is_no_id(name, log.schema[name]).any().alias(name) for name in may]
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
        if settings["null_timestamp"] == NullTimestamp.REFUSE and 0 < missing < len(times):
            problems.add(
                "TIME",
                f"{times.name} is null in {missing:,} of {len(times):,} rows (others {instants.span(times)}); "
                "mend it, or --null-timestamp quarantine",
            )
    for name in ("query_id", "item_id"):
        if found.get(name, True):
            flag = f"--{name.replace('_', '-')}"
            counted = "the first is 0" if settings["min_weight"] is None else "counted from 0 at --min-weight or above"
            tables.check_ids(log.column(name).alias(titles[name]), flag, problems, unique=False, counted=counted)
    if "timestamp" in titles:
        instants.check(times, problems)
    return int(found["rows"])


def _why_empty(table: tables.Table, settings: dict[str, Any]) -> str:
    import polars as pl

    rows = int(table.select(pl.len()).item())
    if not rows:
        return "no rows"
    weights = table.column(settings["weight"])
    found = f"{settings['weight']} goes from {weights.min()!s} to {weights.max()!s}"
    return f"none of {rows:,} rows has the least weight, {settings['min_weight']:g}: {found}; lower --min-weight"


def _asked_as_text(log: tables.Table, items: "pl.Series", title: str, *, forced: bool) -> tables.Table:
    """Read the queries of a CSV file as text where they are items of a catalogue that names its items in text."""
    import polars as pl

    if items.dtype != pl.String or not log.schema["query_id"].is_integer():
        return log
    texts = log.with_text("query_id")
    return texts if forced or are_items(_asked(texts), items, title) else log


def _asked(log: tables.Table) -> "pl.Series":
    """Give the distinct queries, sorted."""
    import polars as pl

    if not tables.may_name(log.schema["query_id"]):
        return pl.Series("query_id", [], log.schema["query_id"])
    return log.select(pl.col("query_id").unique())["query_id"].sort()


def _numbered(log: tables.Table, ids: "pl.Series", side: str) -> tables.Table:
    """Add the row of each id among `ids` as `<side>_index`, null for none; whole numbers of two widths are int64."""
    import polars as pl

    name, dtype = f"{side}_id", ids.dtype if ids.dtype == log.schema[f"{side}_id"] else pl.Int64()
    rows = pl.LazyFrame({"key": ids.cast(dtype), f"{side}_index": pl.int_range(len(ids), dtype=pl.Int32, eager=True)})
    frame = log.frame.with_columns(pl.col(name).cast(dtype).alias("key")).join(rows, on="key", how="left").drop("key")
    return log.on(frame)


def _reason(schema: "pl.Schema", settings: dict[str, Any]) -> "pl.Expr":
    """Say why a numbered interaction is set aside, null where it is not."""
    import polars as pl

    reasons = {"item_index": "item not in the catalogue", "query_index": "query not in the queries"}
    if "timestamp" in schema:
        reasons["timestamp"] = "no time"
    if settings["min_weight"] is not None:
        reasons["weight"] = "no weight"
    dtype = pl.Enum(list(reasons.values()))  # a byte a row
    which = [pl.when(pl.col(name).is_null()).then(pl.lit(text, dtype)) for name, text in reasons.items()]
    return pl.coalesce(*which).alias("reason")


def _only_asked(log: "pl.DataFrame", asked: "pl.Series") -> "tuple[pl.DataFrame, pl.Series]":
    """Leave out queries of which every interaction was set aside."""
    import polars as pl

    used = log["query_index"].unique().sort()
    if len(used) == len(asked):
        return log, asked
    return log.with_columns((pl.col("query_index").rank("dense") - 1).cast(pl.Int32)), asked.gather(used)


def _each_pair_once(log: "pl.DataFrame", queries: int) -> "pl.DataFrame":
    """Merge rows of one pair: the earliest time, the largest weight; sorted by query, time and item."""
    import polars as pl

    best = {"timestamp": pl.col("timestamp").min(), "weight": pl.col("weight").max()}
    rest = [best[name] for name in log.columns if name in best]
    order = [name for name in ("query_index", "timestamp", "item_index") if name in log.columns]
    each = max(queries * MERGED // max(log.height, 1), 1)  # queries merged at a time, so that little is held twice
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
    """Refuse a log that mostly names what is not in the tables."""
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
        hint += f"; where they are, set the limit with --max-unknown-share (now {most:g})"
    kinds = ", ".join(f"{count:,} {reason}" for reason, count in unknown.iter_rows())
    raise InputError(f"--interactions {log.path}: {share:.0%} of {len(reasons):,} rows: {kinds}{hint}", "UNKNOWN_ITEMS")
