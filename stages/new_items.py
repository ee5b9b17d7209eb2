"""Encode a table of items that training never saw, by the vocabularies it left."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import console, feature_columns, reader, sources, tables

if TYPE_CHECKING:
    import polars as pl

    from ssl_recall.features import EncodedTable


def read(job: reader.Reader, path: Path) -> "tuple[pl.Series, EncodedTable]":
    """Give the ids and the codes of a user's table: columns in any order, others ignored.

    An id without a vector of its own is the default; a value outside the vocabulary is unknown, and counted. Raises
    InputError with every problem: a column that is missing, ids given twice or not at all, numbers that are not finite.
    """
    import polars as pl

    from ssl_recall.features import DEFAULT, UNKNOWN, Kind, encoded_table
    from ssl_recall.vocabularies import Column, encode

    settings = job.manifest["stages"]["prepare"]["settings"]
    id_name = tables.id_column(settings, "item")
    features = job.read("features.parquet").filter(side="item")
    words = job.read("vocabulary.parquet").partition_by("vocabulary", as_dict=True)
    nothing = job.read("vocabulary.parquet").clear()
    known = job.read("items.parquet", ["item_id"])["item_id"]
    frame, large = tables.read(path, "--items", [id_name])
    frame = _as_the_catalogue(frame, path, id_name, known)
    problems = tables.Problems(f"--items {path}")
    named = {"item_id": id_name}
    wanted = [named.get(name, name) for name in features["feature"]]
    for name in wanted:
        if name in large:
            problems.add("LIMIT", f"column {name!r} {large[name]}")
        else:
            tables.need_column(frame.columns, name, "a column named", problems)
    problems.stop_if_any()
    ids = frame[id_name]
    tables.check_ids(ids, "--item-id", problems, unique=True)
    if not tables.comparable(ids, known):
        problems.add("ID_TYPES", f"{ids.name} is of type {ids.dtype} but {known.dtype} in the catalogue; write it so")
    frame = _missing_vectors(frame, features)
    defaults = Column("", Kind.CATEGORICAL, settings["min_count"], settings["max_values"], settings["buckets"])
    columns = feature_columns.columns_of(
        frame.select(wanted).schema,
        id_name,
        _declared(features, settings),
        "--item-feature",
        defaults,
        problems,
    )
    every = ((column.name, feature_columns.cleaned(frame[column.name], column, problems)) for column in columns)
    values = {name: plain for name, plain in every if plain is not None}
    for name, width in features.filter(kind="dense").select("feature", "width").iter_rows():
        if name in values and (found := getattr(values[name].dtype, "size", 0)) != width:
            problems.add(
                "FEATURE", f"column {name!r} holds vectors of {found} numbers, the model was trained on {width}"
            )
    problems.stop_if_any()

    ids = ids.alias("item_id")
    codes = encode(ids.cast(pl.String), Kind.ID, words.get(("item_id",), nothing))
    coded = {"item_id" + feature_columns.CODE: codes}
    for column in columns:
        given = encode(values[column.name], column.kind, words.get((column.name,), nothing))
        coded[column.name + feature_columns.CODE] = given
        unknown = int((given.explode() == UNKNOWN).sum()) if column.kind is not Kind.DENSE else 0
        if unknown:
            all_of_them = unknown == len(given.explode().drop_nulls()) - int((given.explode() == DEFAULT).sum())
            hint = f"; that is all of them: are they written as in the catalogue? such as {_first(frame, column.name)}"
            console.warn(
                f"{path}: {unknown:,} values of {column.name} are not in the vocabulary; taken as unknown"
                + (hint if all_of_them else "")
            )
        if column.kind is Kind.DENSE:
            coded[column.name] = values[column.name]
    return ids, encoded_table(pl.DataFrame(coded), features)


def _first(frame: "pl.DataFrame", name: str) -> list[object]:
    """Give a column's first values, to show."""
    return list(frame[name].drop_nulls().head(3).to_list())


def _as_the_catalogue(frame: "pl.DataFrame", path: Path, id_name: str, known: "pl.Series") -> "pl.DataFrame":
    """Take the ids of a CSV file, which has no types, for text where the catalogue's are."""
    import polars as pl

    if known.dtype != pl.String or id_name not in frame.columns or not sources.is_csv(path):
        return frame
    return frame.with_columns(pl.col(id_name).cast(pl.String))


def _missing_vectors(frame: "pl.DataFrame", features: "pl.DataFrame") -> "pl.DataFrame":
    """Give dense columns without a single vector, which may be of any type, the width that training knew."""
    import polars as pl

    widths = dict(features.filter(kind="dense").select("feature", "width").iter_rows())
    empty = [name for name in widths if frame[name].null_count() == frame.height]
    return frame.with_columns(pl.lit(None, pl.Array(pl.Float32, widths[name])).alias(name) for name in empty)


def _declared(features: "pl.DataFrame", settings: dict[str, Any]) -> list[str]:
    """Declare every feature as training had it: its kind, with the options that it was prepared with."""
    given = dict(feature_columns.split(line) for line in settings["item_features"] or [])
    kinds = features.filter(features["kind"] != "id").select("feature", "kind")
    return [f"{name}={kind}" + (f",{given[name]}" if given.get(name) else "") for name, kind in kinds.iter_rows()]
