"""The catalogue and the queries: read, checked and encoded a column at a time, and written a part at a time."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from . import feature_columns, limits, tables
from .errors import InputError, SettingsError
from .feature_columns import CODE

if TYPE_CHECKING:
    import numpy as np
    import polars as pl
    from numpy.typing import NDArray

    from ssl_recall.features import Kind
    from ssl_recall.vocabularies import Column

PART = 2**20  # rows that are written at a time


@dataclass(frozen=True)
class Feature:
    """A column in codes, by the vocabulary of its own table."""

    column: "Column"
    words: "pl.DataFrame"  # rows of vocabulary.parquet
    codes: "pl.Series"  # (N,) in the order of the ids
    width: int  # of a dense one, else 0


@dataclass(frozen=True)
class Side:
    """One table of N ids and their features. The columns as they came are read again when they are written.

    That is a part at a time where the table is sorted by id, else all at once.
    """

    ids: "pl.Series"  # (N,) sorted, under their artifact name
    features: list[Feature]
    table: tables.Table | None  # none where the interactions are all that is known
    order: "pl.Series | None"  # (N,) the table's rows by id; none where they are sorted

    def column(self, name: str) -> "pl.Series":
        """Read a column in the order of the ids."""
        assert self.table is not None, "a side without a table has no columns"
        column = self.table.column(name)
        return column if self.order is None else column[self.order]

    def parts(self, codes: "dict[str, pl.Series]") -> "Iterator[pl.DataFrame]":
        """Give the id and each feature, followed by its codes where it has some, `PART` rows at a time."""
        import polars as pl

        for low, raw in zip(itertools.count(0, PART), self._raw_parts(), strict=False):
            columns = {}
            for column in (self.ids[low : low + PART], *raw):
                columns[column.name] = column
                if (coded := column.name + CODE) in codes:
                    columns[coded] = codes[coded][low : low + PART]
            yield pl.DataFrame(columns)

    def _raw_parts(self) -> "Iterator[pl.DataFrame]":
        """Give the feature columns as they came, in the order of the ids."""
        import polars as pl

        names = [feature.column.name for feature in self.features]
        lows = range(0, max(len(self.ids), 1), PART)
        if self.table is None or not names:
            yield from (pl.DataFrame() for _ in lows)
        elif self.order is None:
            yield from (self.table.select(*names, low=low, rows=PART) for low in lows)
        else:
            raw = self.table.select(*names)  # rows in any order are taken from all
            yield from (raw[self.order[low : low + PART]] for low in lows)


@dataclass(frozen=True)
class Sides:
    """The items, and the queries where the user gave a table of them."""

    items: Side
    queries: Side | None


@dataclass(frozen=True)
class Encoded:
    """What prepare writes about the two sides."""

    features: "pl.DataFrame"
    vocabulary: "pl.DataFrame"
    items: "Iterator[pl.DataFrame]"
    queries: "Iterator[pl.DataFrame]"


def read(found: dict[str, tables.Table], settings: dict[str, Any]) -> Sides:
    """Hold both tables to what is needed. Raises InputError with every problem of the first bad one."""
    items = _side(found["items"], "item", settings)
    if len(items.ids) < 2:
        raise InputError(f"{found['items'].path}: {len(items.ids)} items; two are the least to choose from", "TOO_FEW")
    queries = None
    if "queries" in found:
        queries = _side(found["queries"], "query", settings)
    elif settings["query_features"]:
        raise SettingsError("--query-feature needs --queries, the table that holds them", "NO_QUERIES")
    return Sides(items, queries)


def _side(table: tables.Table, side: str, settings: dict[str, Any]) -> Side:
    from ssl_recall.features import Kind
    from ssl_recall.vocabularies import Column, encode, vocabulary

    id_name, declarations = tables.id_column(settings, side), settings[f"{side}_features"] or []
    flag = f"--{tables.SIDES[side] if settings[f'{tables.SIDES[side]}_id'] else side}-id"
    problems = tables.Problems(f"--{tables.SIDES[side]} {table.path}")
    own = f"--{tables.SIDES[side]}-id"
    hint = f"; where the ids have another name in this table, give it with {own}" if flag != own else ""
    if not tables.need_column(table.schema, id_name, flag, problems, hint):
        problems.stop_if_any()
    if text := table.too_large(id_name):
        problems.add("LIMIT", f"{id_name} {text}")
        problems.stop_if_any()
    ids = table.column(id_name)
    tables.check_ids(ids, flag, problems, unique=True)
    defaults = Column("", Kind.CATEGORICAL, settings["min_count"], settings["max_values"], settings["buckets"])
    columns = feature_columns.columns_of(table.schema, id_name, declarations, f"--{side}-feature", defaults, problems)
    order = None if ids.is_sorted() else ids.arg_sort()
    features = []
    for column in columns:
        if text := table.too_large(column.name):
            problems.add("LIMIT", f"column {column.name!r} {text}, or exclude it")
            continue
        values = feature_columns.cleaned(table.column(column.name), column, problems)  # names the user's rows
        if values is None:
            continue
        words = vocabulary(column.name, values, column)
        if text := limits.too_many(words.height, table.limits):
            problems.add("LIMIT", f"column {column.name!r} {text}; or give it a min_count, or exclude it")
            continue
        codes = encode(values, column.kind, words)
        width = getattr(values.dtype, "size", 0) if column.kind is Kind.DENSE else 0
        features.append(Feature(column, words, codes if order is None else codes[order], width))
    problems.stop_if_any()
    return Side((ids if order is None else ids[order]).alias(f"{side}_id"), features, table, order)


def encode(
    sides: Sides, queries: "pl.Series", taken: "dict[str, NDArray[np.int64]]", settings: dict[str, Any], *, shared: bool
) -> Encoded:
    """Give features, vocabulary, items and queries as they are written; `shared` says that queries are items.

    Features' vocabularies see the tables and no interaction; the id's holds the ids that training gives a vector:
    items taken often enough (item to item: or asking often enough, for both sides share the vectors). `queries` are
    the ids that ask, `taken` says how often an id of a side stands in the training interactions.
    """
    import polars as pl

    from ssl_recall.features import FIRST

    asking = _asking(sides, queries, shared=shared)
    if not settings["use_query_id"] and not asking.features:
        raise SettingsError("queries have neither id nor features; give --queries, or --use-query-id", "NO_FEATURES")
    tables_of = {"item": sides.items, "query": asking}
    ids = {side: table.ids for side, table in tables_of.items()}
    words = {"item_id": _id_words("item_id", ids, taken, ("item", "query") if shared else ("item",), settings)}
    words |= {feature.column.name: feature.words for feature in sides.items.features}
    coded = {
        "item": [_Coded(f.column.name, f.column.kind, f.column.name, f.codes, f.width) for f in sides.items.features],
        "query": [_of_query(feature, asking, sides.items, words, shared=shared) for feature in asking.features],
    }
    coded["item"].insert(0, _id_codes("item_id", ids["item"], "item_id", words))
    if settings["use_query_id"]:
        vocabulary = "item_id" if shared else "query_id"
        if not shared:
            words["query_id"] = _id_words("query_id", ids, taken, ("query",), settings)
        coded["query"].insert(0, _id_codes("query_id", ids["query"], vocabulary, words))
    features = pl.DataFrame(
        {
            "side": side,
            "feature": one.name,
            "kind": str(one.kind),
            "vocabulary": one.vocabulary,
            "codes": FIRST + words[one.vocabulary].height,
            "width": one.width,
            "missing": _missing(one.codes),
        }
        for side, each in coded.items()
        for one in each
    ).with_columns(pl.col("width").cast(pl.Int32))
    items, asked = (table.parts({one.name + CODE: one.codes for one in coded[s]}) for s, table in tables_of.items())
    return Encoded(features, pl.concat(words.values()), items, asked)


@dataclass(frozen=True)
class _Coded:
    """A feature's codes, and the vocabulary that they are of."""

    name: str
    kind: "Kind"
    vocabulary: str
    codes: "pl.Series"
    width: int = 0  # of a dense one


def _asking(sides: Sides, queries: "pl.Series", *, shared: bool) -> Side:
    """Give the side that asks: the user's table, else the items, else ids alone."""
    if sides.queries is not None:
        return sides.queries
    items = sides.items
    return Side(queries, items.features, items.table, items.order) if shared else Side(queries, [], None, None)


def _of_query(feature: Feature, asking: Side, items: Side, words: "dict[str, pl.DataFrame]", *, shared: bool) -> _Coded:
    """Code a query's feature: in the items' words where queries are items and both have it, else in its own."""
    import polars as pl

    from ssl_recall.features import Kind
    from ssl_recall.vocabularies import clean, encode, first_values

    column, codes, vocabulary = feature.column, feature.codes, feature.column.name
    kinds = {own.column.name: own.column.kind for own in items.features}
    if not shared or kinds.get(column.name) != column.kind:
        vocabulary = f"query.{vocabulary}"
        while vocabulary in words:  # an item's column may be called query.colour
            vocabulary = f"query.{vocabulary}"
        words[vocabulary] = feature.words.with_columns(pl.lit(vocabulary).alias("vocabulary"))
    elif asking.table is not items.table:
        values = clean(asking.column(column.name), column)
        values = first_values(values, column.max_values)[0] if column.kind is Kind.MULTI_VALUED else values
        codes = encode(values, column.kind, words[vocabulary])
    return _Coded(column.name, column.kind, vocabulary, codes, feature.width)


def _id_codes(name: str, ids: "pl.Series", vocabulary: str, words: "dict[str, pl.DataFrame]") -> _Coded:
    import polars as pl

    from ssl_recall.features import Kind
    from ssl_recall.vocabularies import encode

    return _Coded(name, Kind.ID, vocabulary, encode(ids.cast(pl.String), Kind.ID, words[vocabulary]))


def _id_words(
    name: str,
    ids: "dict[str, pl.Series]",
    taken: "dict[str, NDArray[np.int64]]",
    sides: tuple[str, ...],
    settings: dict[str, Any],
) -> "pl.DataFrame":
    """List the ids that stand in the training interactions of the given sides often enough for a vector."""
    import polars as pl

    from ssl_recall.vocabularies import listed

    both = pl.concat([pl.DataFrame({"value": ids[side].cast(pl.String), "count": taken[side]}) for side in sides])
    counts = both.group_by("value").agg(pl.col("count").sum())
    return listed(name, counts.filter(pl.col("count") >= settings["id_min_count"]))


def _missing(codes: "pl.Series") -> float:
    """Give the share of rows without a value."""
    import polars as pl

    empty = codes.list.len() == 0 if isinstance(codes.dtype, pl.List) else codes == 0
    return int(empty.sum()) / max(len(codes), 1)
