"""The interactions: read, checked, set aside where they cannot be used, and split."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import sources, tables
from .errors import InputError, SettingsError

if TYPE_CHECKING:
    import polars as pl

    from .catalogue import Tables

ITEM_TO_ITEM = 0.9  # share of the query ids that are item ids from which queries are taken to be items
RARE = 0.1  # share of the numbers of a range below which it is no chance that two tables name the same ones


class NullTimestamp(StrEnum):
    """What becomes of interactions without a time where others have one."""

    REFUSE = "refuse"
    QUARANTINE = "quarantine"


@dataclass(frozen=True)
class Events:
    """The interactions that are used, those set aside with the reason, and what they say about the queries."""

    log: "pl.DataFrame"  # query_id, item_id, timestamp and weight where there are; each pair once
    quarantine: "pl.DataFrame"
    below: int  # rows under the least weight, which are no interactions
    repeated: int  # rows that repeat a pair
    queries_are_items: bool


def read(path: Path, frame: "pl.DataFrame", known: "Tables", settings: dict[str, Any]) -> Events:
    """Hold the interactions to the two tables. Raises InputError with every problem of theirs."""
    import polars as pl

    problems = tables.Problems(f"--interactions {path}")
    log = _columns(frame, settings, problems)
    if log.is_empty():
        raise InputError(f"--interactions {path}: {_why_empty(frame, settings)}", "TOO_FEW")
    items = known.items.frame["item_id"]
    if known.queries is None and settings["queries_are_items"] is not False and sources.is_csv(path):
        log = _asked_as_text(log, items, settings["query_id"], forced=bool(settings["queries_are_items"]))
    named = {name: log[name].alias(settings[name]) for name in log.columns}  # messages speak of the user's columns
    for side in ("query", "item"):
        tables.check_ids(named[f"{side}_id"], f"--{side}-id", problems, unique=False)
    tables.check_same_type("items", named["item_id"], items, problems)
    item_to_item = settings["queries_are_items"]
    if item_to_item is None:
        item_to_item = are_items(named["query_id"], items)
    queries = known.queries.frame["query_id"] if known.queries else (items if item_to_item else None)
    if queries is not None:
        tables.check_same_type("queries" if known.queries else "items", named["query_id"], queries, problems)
    if "timestamp" in log.columns:
        tables.check_times(named["timestamp"], problems)
    problems.stop_if_any()

    reasons = pl.Series("reason", [None] * log.height, dtype=pl.String)
    if queries is not None:
        reasons = reasons.set(~tables.among(log["query_id"], queries), "query not in the queries")
    reasons = reasons.set(~tables.among(log["item_id"], items), "item not in the catalogue")
    _limit_unknown(path, reasons, settings["max_unknown_share"], log, items, queries)
    for name, text in (("timestamp", "no time"), ("weight", "no weight")):
        if name in log.columns and (name == "timestamp" or settings["min_weight"] is not None):
            reasons = reasons.set(reasons.is_null() & log[name].is_null(), text)
    log = log.with_columns(reasons)
    kept = log.filter(pl.col("reason").is_null()).drop("reason").with_columns(pl.col("item_id").cast(items.dtype))
    if queries is not None:
        kept = kept.with_columns(pl.col("query_id").cast(queries.dtype))
    merged = _each_pair_once(kept)
    return Events(
        merged,
        log.filter(pl.col("reason").is_not_null()).sort(pl.all()),
        frame.height - log.height,
        kept.height - merged.height,
        item_to_item,
    )


def are_items(queries: "pl.Series", items: "pl.Series") -> bool:
    """Guess whether the queries of a log are items, from their ids.

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
    if numbers.null_count() or "item" in queries.name.lower():
        return True
    return bool(len(items) < RARE * (int(numbers.max()) - int(numbers.min()) + 1))  # type: ignore[arg-type]


def split(log: "pl.DataFrame", settings: dict[str, Any]) -> "dict[str, pl.DataFrame]":
    """Cut into train, validation and test: by time where there is one, else by a seeded hash of the pair."""
    from ssl_recall import splits

    if log.is_empty():
        raise InputError("no interactions are left to train on", "TOO_FEW")
    shares = settings["validation_share"], settings["test_share"]
    if sum(shares) >= 1:
        raise SettingsError(f"--validation-share and --test-share leave nothing to train on: {shares}", "SHARES")
    try:
        side = (
            splits.by_time(log, *shares)
            if "timestamp" in log.columns
            else splits.by_hash(log, *shares, settings["seed"])
        )
    except ValueError as error:
        raise InputError(f"{error}; without --timestamp the split is by a hash of the pair", "TIME") from None
    parts = {name: log.filter(side == name) for name in ("train", "validation", "test")}
    if parts["train"].is_empty():
        raise InputError("no interactions are left to train on", "TOO_FEW")
    return parts


def _columns(frame: "pl.DataFrame", settings: dict[str, Any], problems: tables.Problems) -> "pl.DataFrame":
    """Take the columns that are used, under their artifact names, at or above the least weight."""
    import polars as pl

    wanted = {"query_id": settings["query_id"], "item_id": settings["item_id"]}
    wanted |= {name: settings[name] for name in ("timestamp", "weight") if settings[name] is not None}
    if settings["query_id"] == settings["item_id"]:
        raise SettingsError(f"--query-id and --item-id are one column, {settings['item_id']!r}", "SAME_COLUMN")
    present = [
        tables.need_column(frame, column, f"--{name.replace('_', '-')}", problems) for name, column in wanted.items()
    ]
    if not all(present):
        problems.stop_if_any()
    log = frame.select(pl.col(column).alias(name) for name, column in wanted.items())
    if settings["min_weight"] is not None and "weight" not in wanted:
        raise SettingsError("--min-weight needs --weight, the column that holds it", "NO_WEIGHT")
    if "weight" in wanted:
        if not log.schema["weight"].is_numeric():
            problems.add("WEIGHT", f"{wanted['weight']} is of type {log.schema['weight']}, no number")
            problems.stop_if_any()
        log = log.with_columns(pl.col("weight").cast(pl.Float64).fill_nan(None))  # float32 would round at the threshold
        if settings["min_weight"] is not None:
            log = log.filter(pl.col("weight").is_null() | (pl.col("weight") >= settings["min_weight"]))
        log = log.with_columns(pl.col("weight").cast(pl.Float32))
    if "timestamp" in wanted and settings["null_timestamp"] == NullTimestamp.REFUSE:
        missing = log["timestamp"].null_count()
        if 0 < missing < log.height:  # check_times tells of a column without any
            known = log["timestamp"].drop_nulls()
            problems.add(
                "TIME",
                f"{wanted['timestamp']} is null in {missing:,} of {log.height:,} rows (others from {known.min()!s} to "
                f"{known.max()!s}); mend it, or --null-timestamp quarantine",
            )
    return log


def _why_empty(frame: "pl.DataFrame", settings: dict[str, Any]) -> str:
    if frame.is_empty():
        return "no rows"
    weights = frame[settings["weight"]]
    found = f"{settings['weight']} goes from {weights.min()} to {weights.max()}"
    return (
        f"none of {frame.height:,} rows has the least weight, {settings['min_weight']:g}: {found}; lower --min-weight"
    )


def _asked_as_text(log: "pl.DataFrame", items: "pl.Series", title: str, *, forced: bool) -> "pl.DataFrame":
    """Read the queries of a CSV file as text where they are items of a catalogue that names its items in text."""
    import polars as pl

    if items.dtype != pl.String or not log["query_id"].dtype.is_integer():
        return log
    texts = log["query_id"].cast(pl.String)
    return log.with_columns(texts) if forced or are_items(texts.alias(title), items) else log


def _each_pair_once(log: "pl.DataFrame") -> "pl.DataFrame":
    """Merge rows of one pair: the earliest time, the largest weight."""
    import polars as pl

    best = {"timestamp": pl.col("timestamp").min(), "weight": pl.col("weight").max()}
    rest = [best[name] for name in log.columns if name in best]
    return log.group_by("query_id", "item_id", maintain_order=True).agg(rest).select(log.columns)


def _limit_unknown(
    path: Path,
    reasons: "pl.Series",
    most: float,
    log: "pl.DataFrame",
    items: "pl.Series",
    queries: "pl.Series | None",
) -> None:
    """Refuse a log that mostly names what is not in the tables."""
    unknown = reasons.drop_nulls()
    share = len(unknown) / len(reasons)
    if not len(unknown) or share <= most:
        return
    hint = f"; set the limit with --max-unknown-share (now {most:g})"
    if share == 1:
        by_query = queries is not None and "query" in unknown[0]
        asked, table = (log["query_id"], queries) if by_query else (log["item_id"], items)
        examples = asked.head(3).to_list(), table.head(3).to_list() if table is not None else []
        where = "the queries" if by_query else "the catalogue"
        hint = f"; are these the same ids? interactions have {examples[0]}, {where} {examples[1]}"
    kinds = ", ".join(f"{count:,} {reason}" for reason, count in unknown.value_counts(sort=True).iter_rows())
    raise InputError(f"--interactions {path}: {share:.0%} of {len(reasons):,} rows: {kinds}{hint}", "UNKNOWN_ITEMS")
