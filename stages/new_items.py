"""Encode a table of items that training never saw, by the vocabularies it left."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import artifacts, console, feature_columns, tables

if TYPE_CHECKING:
    import polars as pl

    from ssl_recall.features import EncodedTable


def read(job: artifacts.Job, path: Path) -> "tuple[pl.Series, EncodedTable]":
    """Give the ids and the codes of a user's table: columns in any order, others ignored.

    An id without a vector of its own is the default; a value outside the vocabulary is unknown, and counted. Raises
    InputError with every problem: a column that is missing, ids given twice or not at all, numbers that are not finite.
    """
    import polars as pl

    from ssl_recall.features import DEFAULT, UNKNOWN, Kind, encoded_table
    from ssl_recall.vocabularies import Column, encode

    settings = job.manifest["stages"]["prepare"]["settings"]
    features = job.read("features.parquet").filter(side="item")
    words = job.read("vocabulary.parquet").partition_by("vocabulary", as_dict=True)
    nothing = job.read("vocabulary.parquet").clear()
    frame = tables.read(path, "--items")
    problems = tables.Problems(f"--items {path}")
    named = {"item_id": settings["item_id"]}
    wanted = [named.get(name, name) for name in features["feature"]]
    for name in wanted:
        tables.need_column(frame, name, "a column named", problems)
    problems.stop_if_any()
    tables.check_ids(frame[settings["item_id"]], "--item-id", problems, unique=True)
    defaults = Column("", Kind.CATEGORICAL, settings["min_count"], settings["max_values"], settings["buckets"])
    columns = feature_columns.columns_of(
        frame.select(wanted), settings["item_id"], _declared(features, settings), "--item-feature", defaults, problems
    )
    values = feature_columns.cleaned(frame, columns, problems)
    problems.stop_if_any()

    ids = frame[settings["item_id"]].alias("item_id")
    codes = encode(ids.cast(pl.String), Kind.ID, words.get(("item_id",), nothing))
    coded = {"item_id__code": codes.set(codes == UNKNOWN, DEFAULT)}
    for column in columns:
        found = encode(values[column.name], column.kind, words.get((column.name,), nothing))
        coded[column.name + feature_columns.CODE] = found
        unknown = int((found.explode() == UNKNOWN).sum()) if column.kind is not Kind.DENSE else 0
        if unknown:
            console.warn(f"{path}: {unknown:,} values of {column.name} are not in the vocabulary; taken as unknown")
        if column.kind is Kind.DENSE:
            coded[column.name] = values[column.name]
    return ids, encoded_table(pl.DataFrame(coded), features)


def _declared(features: "pl.DataFrame", settings: dict[str, Any]) -> list[str]:
    """Declare every feature as training had it: its kind, with the options that it was prepared with."""
    given = dict(feature_columns.split(line) for line in settings["item_features"] or [])
    kinds = features.filter(features["kind"] != "id").select("feature", "kind")
    return [f"{name}={kind}" + (f",{given[name]}" if given.get(name) else "") for name, kind in kinds.iter_rows()]
