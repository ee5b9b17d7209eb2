"""Read, check and encode the items and the queries column by column; return them in parts for writing."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ssl_recall.data.codes import CODE, Kind
from stages.terminal.errors import InputError, SettingsError

from . import feature_columns, id_columns, tables
from .feature_columns import Feature, encode_column
from .problems import Problems, need_column
from .settings import TABLE_OF, PrepareSettings, SideName

if TYPE_CHECKING:
    import numpy as np
    import polars as pl
    from numpy.typing import NDArray


PART = 2**20  # rows per write


@dataclass(frozen=True)
class Side:
    """N ids of items or queries, and their features. `parts` reads the raw columns a second time, to write them.

    It reads them part by part if the table is sorted by id, else all at once.
    """

    ids: "pl.Series"  # (N,) sorted, under their artifact name
    features: list[Feature]  # codes in the order of the ids
    table: tables.Table | None  # None if only the interactions name the ids
    order: "pl.Series | None"  # (N,) the table's rows sorted by id; None if the table is sorted

    def column(self, name: str) -> "pl.Series":
        """Read a column in the order of the ids."""
        assert self.table is not None, "a side without a table has no columns"
        column = self.table.column(name)
        return column if self.order is None else column[self.order]

    def parts(self, codes: "dict[str, pl.Series]") -> "Iterator[pl.DataFrame]":
        """Yield the id and each feature, followed by its codes if it has any, `PART` rows at a time."""
        import polars as pl

        for low, raw in zip(itertools.count(0, PART), self._raw_parts(), strict=False):
            columns = {}
            for column in (self.ids[low : low + PART], *raw):
                columns[column.name] = column
                if (coded := column.name + CODE) in codes:
                    columns[coded] = codes[coded][low : low + PART]
            yield pl.DataFrame(columns)

    def _raw_parts(self) -> "Iterator[pl.DataFrame]":
        """Yield the raw feature columns in the order of the ids."""
        import polars as pl

        names = [feature.column.name for feature in self.features]
        lows = range(0, max(len(self.ids), 1), PART)
        if self.table is None or not names:
            yield from (pl.DataFrame() for _ in lows)
        elif self.order is None:
            yield from (self.table.select(*names, low=low, rows=PART) for low in lows)
        else:
            raw = self.table.select(*names)  # an unsorted table is read whole
            yield from (raw[self.order[low : low + PART]] for low in lows)


@dataclass(frozen=True)
class Sides:
    """The items, and the queries if the user gave `--queries`."""

    items: Side
    queries: Side | None


@dataclass(frozen=True)
class Encoded:
    """The artifacts of `prepare` about items and queries."""

    features: "pl.DataFrame"
    vocabulary: "pl.DataFrame"
    items: "Iterator[pl.DataFrame]"
    queries: "Iterator[pl.DataFrame]"


def read(found: dict[str, tables.Table], settings: PrepareSettings) -> Sides:
    """Check and encode both tables. Raises InputError with every problem of the first bad table."""
    items = _side(found["items"], "item", settings)
    if len(items.ids) < 2:
        raise InputError(f"{found['items'].path}: {len(items.ids)} items; at least 2 are needed", "TOO_FEW")
    queries = None
    if "queries" in found:
        queries = _side(found["queries"], "query", settings)
    elif settings.query_features:
        raise SettingsError("--query-feature needs --queries, the table that holds them", "NO_QUERIES")
    return Sides(items, queries)


def _side(table: tables.Table, side: SideName, settings: PrepareSettings) -> Side:
    """Check the ids and encode every feature column; raise all problems of the table together."""

    from ssl_recall.data.vocabularies import Column

    problems = Problems(f"--{TABLE_OF[side]} {table.path}")
    ids = _ids(table, side, settings, problems)
    defaults = Column("", Kind.CATEGORICAL, settings.min_count, settings.max_values, settings.buckets)
    columns = feature_columns.columns_of(
        table.schema, ids.name, settings.features_of(side), f"--{side}-feature", defaults, problems
    )
    encoded = [encode_column(table, column, problems) for column in columns]
    problems.stop_if_any()
    features = [feature for feature in encoded if feature is not None]
    if ids.is_sorted():
        return Side(ids.alias(f"{side}_id"), features, table, None)
    order = ids.arg_sort()
    ordered = [replace(feature, codes=feature.codes[order]) for feature in features]
    return Side(ids[order].alias(f"{side}_id"), ordered, table, order)


def _ids(table: tables.Table, side: SideName, settings: PrepareSettings, problems: Problems) -> "pl.Series":
    """Read the ids of a side. Raise at once if the column is missing or too large; note bad ids in `problems`."""
    name, flag, own = settings.id_in_table(side), settings.id_flag(side), f"--{TABLE_OF[side]}-id"
    hint = f"; if the ids have another name in this table, give it with {own}" if flag != own else ""
    if not need_column(table.schema, name, flag, problems, hint):
        problems.stop_if_any()
    if text := table.too_large(name):
        problems.add("LIMIT", f"{name} {text}")
        problems.stop_if_any()
    ids = table.column(name)
    id_columns.check_ids(ids, flag, problems, unique=True)
    return ids


def encode(
    sides: Sides,
    queries: "pl.Series",
    taken: "dict[str, NDArray[np.int64]]",
    settings: PrepareSettings,
    *,
    shared: bool,
) -> Encoded:
    """Encode both sides into features, vocabulary, items and queries; `shared` says that queries are items.

    A feature's vocabulary counts the rows of the tables and no interaction. An id's vocabulary holds the ids with
    `id_min_count` training interactions; item to item adds up both sides, because they share the vectors. `queries`
    are the query ids; `taken` holds the number of training interactions per id of each side.
    """
    import polars as pl

    from ssl_recall.data.codes import FIRST

    asking = _asking(sides, queries, shared=shared)
    if not settings.use_query_id and not asking.features:
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
    if settings.use_query_id:
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
    """A feature's codes and the name of their vocabulary."""

    name: str
    kind: "Kind"
    vocabulary: str
    codes: "pl.Series"
    width: int = 0  # numbers per vector of a dense feature


def _asking(sides: Sides, queries: "pl.Series", *, shared: bool) -> Side:
    """Return the side of the queries: the user's table, else the items if `shared`, else ids alone."""
    if sides.queries is not None:
        return sides.queries
    items = sides.items
    return Side(queries, items.features, items.table, items.order) if shared else Side(queries, [], None, None)


def _of_query(feature: Feature, asking: Side, items: Side, words: "dict[str, pl.DataFrame]", *, shared: bool) -> _Coded:
    """Code a query feature by the items' vocabulary if queries are items and both have it, else by a separate one."""
    import polars as pl

    column, codes, vocabulary = feature.column, feature.codes, feature.column.name
    kinds = {own.column.name: own.column.kind for own in items.features}
    if not shared or kinds.get(column.name) != column.kind:
        vocabulary = f"query.{vocabulary}"
        while vocabulary in words:  # an item's column may be called query.colour
            vocabulary = f"query.{vocabulary}"
        words[vocabulary] = feature.words.with_columns(pl.lit(vocabulary).alias("vocabulary"))
    elif asking.table is not items.table:
        assert asking.table is not None, "a side with features has a table"
        problems = Problems(f"--queries {asking.table.path}")
        again = encode_column(asking.table, column, problems, words[vocabulary], warn=False)
        assert again is not None, "encoded once already"
        codes = again.codes if asking.order is None else again.codes[asking.order]
    return _Coded(column.name, column.kind, vocabulary, codes, feature.width)


def _id_codes(name: str, ids: "pl.Series", vocabulary: str, words: "dict[str, pl.DataFrame]") -> _Coded:
    import polars as pl

    from ssl_recall.data.vocabularies import encode

    return _Coded(name, Kind.ID, vocabulary, encode(ids.cast(pl.String), Kind.ID, words[vocabulary]))


def _id_words(
    name: str,
    ids: "dict[str, pl.Series]",
    taken: "dict[str, NDArray[np.int64]]",
    sides: tuple[str, ...],
    settings: PrepareSettings,
) -> "pl.DataFrame":
    """List the ids with at least `id_min_count` training interactions, added up over the given sides."""
    import polars as pl

    from ssl_recall.data.vocabularies import listed

    both = pl.concat([pl.DataFrame({"value": ids[side].cast(pl.String), "count": taken[side]}) for side in sides])
    counts = both.group_by("value").agg(pl.col("count").sum())
    return listed(name, counts.filter(pl.col("count") >= settings.id_min_count))


def _missing(codes: "pl.Series") -> float:
    """Return the share of rows without a value."""
    import polars as pl

    empty = codes.list.len() == 0 if isinstance(codes.dtype, pl.List) else codes == 0
    return int(empty.sum()) / max(len(codes), 1)
