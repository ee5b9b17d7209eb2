"""The catalogue and the queries: read, checked, and encoded."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import feature_columns, tables
from .errors import InputError, SettingsError
from .feature_columns import CODE

if TYPE_CHECKING:
    import polars as pl

    from ssl_recall.vocabularies import Column


@dataclass(frozen=True)
class Side:
    """One table of ids and features, sorted by id; `values` are the feature columns in plain form."""

    frame: "pl.DataFrame"  # the id under its artifact name, the features as they came
    columns: "list[Column]"
    values: "dict[str, pl.Series]"


@dataclass(frozen=True)
class Tables:
    """The items, and the queries where the user gave a table of them."""

    items: Side
    queries: Side | None


def read(paths: dict[str, Path], frames: "dict[str, pl.DataFrame]", settings: dict[str, Any]) -> Tables:
    """Hold both tables to what is needed. Raises InputError with every problem of the first bad one."""
    items = _side(paths["items"], frames["items"], "item", settings)
    if items.frame.height < 2:
        raise InputError(f"{paths['items']}: {items.frame.height} items; two are the least to choose from", "TOO_FEW")
    queries = None
    if "queries" in paths:
        queries = _side(paths["queries"], frames["queries"], "query", settings)
    elif settings["query_features"]:
        raise SettingsError("--query-feature needs --queries, the table that holds them", "NO_QUERIES")
    return Tables(items, queries)


def _side(path: Path, frame: "pl.DataFrame", side: str, settings: dict[str, Any]) -> Side:
    import polars as pl

    from ssl_recall.features import Kind
    from ssl_recall.vocabularies import Column

    id_name, declarations = settings[f"{side}_id"], settings[f"{side}_features"] or []
    problems = tables.Problems(f"--{tables.SIDES[side]} {path}")
    if not tables.need_column(frame, id_name, f"--{side}-id", problems):
        problems.stop_if_any()
    tables.check_ids(frame[id_name], f"--{side}-id", problems, unique=True)
    defaults = Column("", Kind.CATEGORICAL, settings["min_count"], settings["max_values"], settings["buckets"])
    columns = feature_columns.columns_of(frame, id_name, declarations, f"--{side}-feature", defaults, problems)
    frame = frame[[id_name, *[column.name for column in columns]]].rename({id_name: f"{side}_id"})
    values = feature_columns.cleaned(frame, columns, problems)  # before the sort, so that it names the user's rows
    problems.stop_if_any()
    order = frame.select(pl.col(f"{side}_id").arg_sort()).to_series()
    return Side(frame[order], columns, {name: column[order] for name, column in values.items()})


def encode(
    tables: Tables, log: "pl.DataFrame", train: "pl.DataFrame", settings: dict[str, Any], *, shared: bool
) -> "dict[str, pl.DataFrame]":
    """Give features, vocabulary, items and queries as they are written; `shared` says that queries are items.

    Features' vocabularies see the tables and no interaction; the id's holds the ids that training gives a vector:
    items taken often enough (item to item: or asking often enough, for both sides share the vectors).
    """
    import polars as pl

    from ssl_recall import vocabularies

    counted = [train.select(id="item_id"), *([train.select(id="query_id")] if shared else [])]
    words = {"item_id": _id_words("item_id", pl.concat(counted), settings["id_min_count"])}
    for column in tables.items.columns:
        words[column.name] = vocabularies.vocabulary(column.name, tables.items.values[column.name], column)
    items, described = _encoded(tables.items, "item", {c.name: c.name for c in tables.items.columns}, "item_id", words)

    side = tables.queries
    if side is None and shared:
        side = Side(tables.items.frame.rename({"item_id": "query_id"}), tables.items.columns, tables.items.values)
    elif side is None:
        side = Side(log.select("query_id").unique().sort("query_id"), [], {})
    kinds = {column.name: column.kind for column in tables.items.columns}
    names = {}
    for column in side.columns:
        own = not shared or kinds.get(column.name) != column.kind
        names[column.name] = f"query.{column.name}" if own else column.name
        if own:
            while names[column.name] in words:  # an item's column may be called query.colour
                names[column.name] = f"query.{names[column.name]}"
            words[names[column.name]] = vocabularies.vocabulary(names[column.name], side.values[column.name], column)
    id_name = "item_id" if shared else "query_id"
    if settings["use_query_id"] and not shared:
        words["query_id"] = _id_words("query_id", train.select(id="query_id"), settings["id_min_count"])
    elif not settings["use_query_id"]:
        id_name = ""
        if not side.columns:
            raise SettingsError(
                "queries have neither id nor features; give --queries, or --use-query-id", "NO_FEATURES"
            )
    queries, more = _encoded(side, "query", names, id_name, words)
    features = pl.DataFrame([*described, *more], orient="row").with_columns(pl.col("width").cast(pl.Int32))
    return {
        "features": features,
        "vocabulary": pl.concat(words.values()),
        "items": items,
        "queries": queries,
    }


def _id_words(name: str, ids: "pl.DataFrame", least: int) -> "pl.DataFrame":
    import polars as pl

    from ssl_recall.vocabularies import listed

    counts = ids.group_by("id").agg(count=pl.len().cast(pl.Int64)).filter(pl.col("count") >= least)
    return listed(name, counts.select(value=pl.col("id").cast(pl.String), count="count"))


def _encoded(
    side: Side, name: str, vocabulary_of: dict[str, str], id_vocabulary: str, words: "dict[str, pl.DataFrame]"
) -> "tuple[pl.DataFrame, list[dict[str, Any]]]":
    """Add the code columns to one side, and describe its features as rows of features.parquet."""
    import polars as pl

    from ssl_recall.features import DEFAULT, FIRST, Kind
    from ssl_recall.vocabularies import encode as codes_of

    ids = side.frame[f"{name}_id"]
    columns, rows = [ids], []

    def add(feature: str, kind: Kind, vocabulary: str, codes: "pl.Series", width: int, missing: float) -> None:
        columns.append(codes.alias(feature + CODE))
        size = FIRST + words[vocabulary].height
        described = (name, feature, str(kind), vocabulary, size, width, missing)
        keys = ("side", "feature", "kind", "vocabulary", "codes", "width", "missing")
        rows.append(dict(zip(keys, described, strict=True)))

    if id_vocabulary:
        codes = codes_of(ids.cast(pl.String), Kind.ID, words[id_vocabulary])
        add(f"{name}_id", Kind.ID, id_vocabulary, codes, 0, float((codes == DEFAULT).mean() or 0.0))  # type: ignore[arg-type]
    for column in side.columns:
        values, vocabulary = side.values[column.name], vocabulary_of[column.name]
        columns.append(side.frame[column.name])
        width = getattr(values.dtype, "size", 0) if column.kind is Kind.DENSE else 0
        missing = values.null_count() / max(len(values), 1)
        add(column.name, column.kind, vocabulary, codes_of(values, column.kind, words[vocabulary]), width, missing)
    return pl.DataFrame(columns), rows
