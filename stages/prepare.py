"""Validate, encode and split the user's tables; after this nobody opens raw data."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import artifacts, catalogue, console, events, feature_columns, limits, options, tables

if TYPE_CHECKING:
    import numpy as np
    import polars as pl
    from numpy.typing import NDArray

PART = 2**20  # interactions that are written at a time
WRITES = (
    "features.parquet",
    "vocabulary.parquet",
    "items.parquet",
    "queries.parquet",
    "train.parquet",
    "validation.parquet",
    "test.parquet",
    "quarantine.parquet",
)
_FEATURE_HELP = (
    "NAME=KIND[,OPTION=VALUE..]: categorical, multi-valued, numeric, dense or exclude; options min_count, max_values, "
    "buckets, separator, nan=missing. Repeatable; a column left out is what its type says."
)


def prepare(
    interactions: Annotated[Path, typer.Option(help="Parquet or CSV: a file, a folder or a glob.")],
    items: Annotated[Path, typer.Option(help="The catalogue, one row an item.")],
    queries: Annotated[Path | None, typer.Option(help="Features of the queries (users, or seed items).")] = None,
    run: options.RunOption = options.DEFAULT_RUN,
    config: options.ConfigOption = None,
    query_id: Annotated[str, typer.Option(help="Column of the query's id.")] = "query_id",
    item_id: Annotated[str, typer.Option(help="Column of the item's id.")] = "item_id",
    items_id: Annotated[
        str | None,
        typer.Option(help="The item's id in --items. [default: named as in the interactions]", show_default=False),
    ] = None,
    queries_id: Annotated[
        str | None, typer.Option(help="The query's id in --queries. [default: the same]", show_default=False)
    ] = None,
    timestamp: Annotated[str | None, typer.Option(help="Column of the time; with it the split is by time.")] = None,
    null_timestamp: Annotated[
        events.NullTimestamp, typer.Option(help="What becomes of interactions without a time.")
    ] = events.NullTimestamp.REFUSE,
    weight: Annotated[str | None, typer.Option(help="Column of the weight or rating.")] = None,
    min_weight: Annotated[float | None, typer.Option(help="Keep interactions of at least this weight.")] = None,
    queries_are_items: Annotated[
        bool | None,
        typer.Option(
            help="Item to item: ids and features of one name share their vectors. [default: at least 90 % of the "
            "query ids are item ids, and not for being small numbers]",
            show_default=False,
        ),
    ] = None,
    use_query_id: Annotated[bool, typer.Option(help="Describe a query by its id, too.")] = True,
    item_features: Annotated[
        list[str] | None, typer.Option("--item-feature", callback=feature_columns.merged, help=_FEATURE_HELP)
    ] = None,
    query_features: Annotated[
        list[str] | None, typer.Option("--query-feature", callback=feature_columns.merged, help="The same for queries.")
    ] = None,
    min_count: Annotated[int, typer.Option(min=1, help="Values that fewer rows bear are one, 'unknown'.")] = 1,
    max_values: Annotated[int, typer.Option(min=1, help="Values kept of a list.")] = 16,
    buckets: Annotated[int, typer.Option(min=2, help="Quantile buckets of a number.")] = 10,
    id_min_count: Annotated[int, typer.Option(min=1, help="Training interactions that earn an id vector.")] = 1,
    validation_share: Annotated[float, typer.Option(min=0.0, max=0.9, help="Share held out to pick the epoch.")] = 0.1,
    test_share: Annotated[float, typer.Option(min=0.0, max=0.9, help="Share held out to measure.")] = 0.1,
    train_fraction: Annotated[
        float,
        typer.Option(
            min=0.0, max=1.0, help="Train on about this share of what is not held out, to see what less data would do."
        ),
    ] = 1.0,
    max_unknown_share: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Refuse when more interactions name unknown items or queries.")
    ] = 0.5,
    max_value_bytes: Annotated[int, typer.Option(min=1, help="Refuse longer texts, ids among them.")] = (
        limits.VALUE_BYTES
    ),
    max_list_length: Annotated[int, typer.Option(min=1, help="Refuse longer lists and wider vectors.")] = (
        limits.LIST_LENGTH
    ),
    max_distinct: Annotated[int, typer.Option(min=1, help="Refuse features of more values.")] = limits.DISTINCT,
    seed: Annotated[
        int, typer.Option(min=0, max=2**62, help="Of the split where there is no time, and of --train-fraction.")
    ] = 1,
    force: options.ForceOption = False,
) -> None:
    """Check the interactions and the catalogue, encode the features, split by time (or by a seeded hash of the pair).

    Reads the user's tables; writes items, queries, train, validation, test, features, vocabulary, and quarantine: the
    interactions that were set aside, with the reason.
    """
    paths = {"interactions": interactions, "items": items} | ({"queries": queries} if queries else {})
    most = limits.Limits(max_value_bytes, max_list_length, max_distinct)  # these change no result
    free = {"paths", "most", "max_value_bytes", "max_list_length", "max_distinct"}
    settings = {name: value for name, value in locals().items() if name not in {*paths, "queries", *free, "free"}}
    with artifacts.Job(run, "prepare", settings, sources=paths, writes=WRITES, force=force) as job:
        if job.up_to_date:
            return
        found = tables.scan_all(paths, settings, most)
        sides = catalogue.read(found, settings)
        log = events.read(found["interactions"], sides, settings)
        sizes, taken = _write_split(job, log, sides.items.ids, settings)
        _warn(log, run)
        encoded = catalogue.encode(sides, log.queries, taken, settings, shared=log.queries_are_items)
        job.write("quarantine.parquet", log.quarantine)
        below = log.below
        del log  # before the catalogue is read again
        job.write("features.parquet", encoded.features)
        job.write("vocabulary.parquet", encoded.vocabulary)
        listed = job.write_parts("items.parquet", encoded.items)
        asking = job.write_parts("queries.parquet", encoded.queries)
        told = ", ".join(f"{rows:,} {name}" for name, rows in sizes.items())
        told += f", {below:,} below the least weight" if below else ""
        how = "time" if timestamp is not None else "a hash of the pair"
        job.done(f"{listed:,} items, {asking:,} queries; split by {how}: {told}")


def _write_split(
    job: artifacts.Job, log: events.Events, items: "pl.Series", settings: dict[str, Any]
) -> "tuple[dict[str, int], dict[str, NDArray[np.int64]]]":
    """Write train, validation and test; gives their rows, and how often training names each item and each query."""
    import numpy as np

    from ssl_recall import splits

    place = events.split(log, items, settings)
    sizes, taken = {}, {}
    for number, name in enumerate(splits.SIDES):
        rows = np.flatnonzero(place == number)
        sizes[name] = job.write_parts(f"{name}.parquet", _parts(log, items, rows))
        if number == splits.TRAIN:
            for side, ids in (("item", items), ("query", log.queries)):
                index = log.log[f"{side}_index"].to_numpy()[rows]
                taken[side] = np.bincount(index, minlength=len(ids)).astype(np.int64)
    return sizes, taken


def _parts(log: events.Events, items: "pl.Series", rows: "NDArray[np.int64]") -> "Iterator[pl.DataFrame]":
    """Give interactions with the ids that their numbers stand for, `PART` rows at a time."""
    for low in range(0, max(len(rows), 1), PART):
        part = log.log[rows[low : low + PART]]
        ids = log.queries.gather(part["query_index"]), items.gather(part["item_index"])
        yield part.select(ids[0].alias("query_id"), ids[1].alias("item_id"), *part.columns)


def _warn(found: events.Events, run: Path) -> None:
    """Say what was set aside."""
    total = found.log.height + found.quarantine.height + found.repeated
    place = run / "quarantine.parquet"
    for reason, count in found.quarantine.group_by("reason").len().sort("reason").iter_rows():
        console.warn(f"{count:,} interactions set aside ({count / total:.1%}): {reason}; see {place}")
    if found.repeated:
        timed = "timestamp" in found.log.columns
        which = "the earliest is kept" if timed else "one of each is kept"
        console.warn(f"{found.repeated:,} interactions repeat a pair of query and item; {which}")
