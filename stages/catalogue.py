"""The catalogue and the queries: read, checked, and encoded, a column at a time."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from . import feature_columns, tables
from .errors import InputError, SettingsError
from .feature_columns import CODE

if TYPE_CHECKING:
    import numpy as np
    import polars as pl
    from numpy.typing import NDArray

    from ssl_recall.vocabularies import Column

PART = 2**20  # rows that are written at a time


@dataclass(frozen=True)
class Feature:
    """A column in codes, by the vocabulary of its own table."""

    column: "Column"
    words: "pl.DataFrame"  # rows of vocabulary.parquet
    codes: "pl.Series"  # (N,) in the order of the ids
    width: int  # of a dense one


@dataclass(frozen=True)
class Side:
    """One table of N ids and their features. The columns as they came are read again when they are written."""

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

        names = [feature.column.name for feature in self.features]
        raw = self.table.select(*names) if self.table is not None and names else pl.DataFrame()
        for low in range(0, max(len(self.ids), 1), PART):
            own = raw[self.order[low : low + PART]] if self.order is not None and names else raw[low : low + PART]
            columns = {}
            for column in (self.ids[low : low + PART], *own):
                columns[column.name] = column
                if (coded := column.name + CODE) in codes:
                    columns[coded] = codes[coded][low : low + PART]
            yield pl.DataFrame(columns)


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

    id_name, declarations = settings[f"{side}_id"], settings[f"{side}_features"] or []
    problems = tables.Problems(f"--{tables.SIDES[side]} {table.path}")
    if not tables.need_column(table.schema, id_name, f"--{side}-id", problems):
        problems.stop_if_any()
    ids = table.column(id_name)
    tables.check_ids(ids, f"--{side}-id", problems, unique=True)
    defaults = Column("", Kind.CATEGORICAL, settings["min_count"], settings["max_values"], settings["buckets"])
    columns = feature_columns.columns_of(table.schema, id_name, declarations, f"--{side}-feature", defaults, problems)
    order = None if ids.is_sorted() else ids.arg_sort()
    features = []
    for column in columns:
        values = feature_columns.cleaned(table.column(column.name), column, problems)  # names the user's rows
        if values is None:
            continue
        words = vocabulary(column.name, values, column)
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

    from ssl_recall.features import FIRST, Kind
    from ssl_recall.vocabularies import clean, first_values
    from ssl_recall.vocabularies import encode as codes_of

    items, asking = sides.items, sides.queries
    if asking is None:
        shared_table = (items.features, items.table, items.order)
        asking = Side(queries, *shared_table) if shared else Side(queries, [], None, None)
    ids = {"item": items.ids, "query": asking.ids}
    words = {"item_id": _id_words("item_id", ids, taken, ("item", "query") if shared else ("item",), settings)}
    words |= {feature.column.name: feature.words for feature in items.features}
    of_items = {feature.column.name: feature for feature in items.features}
    codes = {
        "item": {feature.column.name: (feature.column.name, feature.codes) for feature in items.features},
        "query": {},
    }
    for feature in asking.features:
        column, name = feature.column, feature.column.name
        if not (shared and name in of_items and of_items[name].column.kind == column.kind):
            name = f"query.{name}"
            while name in words:  # an item's column may be called query.colour
                name = f"query.{name}"
            words[name] = feature.words.with_columns(pl.lit(name).alias("vocabulary"))
            codes["query"][column.name] = name, feature.codes
        elif asking.table is items.table:
            codes["query"][name] = name, feature.codes
        else:  # in the words of the items
            values = clean(asking.column(name), column)
            values = first_values(values, column.max_values)[0] if column.kind is Kind.MULTI_VALUED else values
            codes["query"][name] = name, codes_of(values, column.kind, words[name])
    id_vocabulary = {"item": "item_id", "query": "item_id" if shared else "query_id"}
    if not settings["use_query_id"]:
        id_vocabulary["query"] = ""
        if not asking.features:
            raise SettingsError(
                "queries have neither id nor features; give --queries, or --use-query-id", "NO_FEATURES"
            )
    elif not shared:
        words["query_id"] = _id_words("query_id", ids, taken, ("query",), settings)

    described, parts = [], {}
    for side, table in (("item", items), ("query", asking)):
        held = [(feature.column.name, feature.column.kind, feature.width) for feature in table.features]
        if vocabulary := id_vocabulary[side]:
            own = codes_of(table.ids.cast(pl.String), Kind.ID, words[vocabulary])
            codes[side][f"{side}_id"] = vocabulary, own
            held = [(f"{side}_id", Kind.ID, 0), *held]
        for name, kind, width in held:
            vocabulary, own = codes[side][name]
            described.append(
                (side, name, str(kind), vocabulary, FIRST + words[vocabulary].height, width, _missing(own))
            )
        parts[side] = table.parts({name + CODE: own for name, (_, own) in codes[side].items()})
    columns = ("side", "feature", "kind", "vocabulary", "codes", "width", "missing")
    features = pl.DataFrame(described, schema=columns, orient="row").with_columns(pl.col("width").cast(pl.Int32))
    return Encoded(features, pl.concat(words.values()), parts["item"], parts["query"])


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
