"""Choose the feature columns of a table and encode them."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ssl_recall.data.codes import CODE, Kind
from stages.terminal import console

from . import limits
from .declarations import EXCLUDE, NUMBERS, declared
from .problems import Problems
from .tables import Table

if TYPE_CHECKING:
    import polars as pl

    from ssl_recall.data.vocabularies import Column


@dataclass(frozen=True)
class Feature:
    """An encoded column and its vocabulary."""

    column: "Column"
    words: "pl.DataFrame"  # rows of the vocabulary artifact
    codes: "pl.Series"  # (N,) in the order of the table
    width: int  # numbers per vector of a dense feature, else 0


def encode_column(
    table: Table,
    column: "Column",
    problems: Problems,
    words: "pl.DataFrame | None" = None,
    *,
    warn: bool = True,
) -> Feature | None:
    """Check the size of one column, read it and encode it; note in `problems` why it cannot be a feature.

    Without `words` the column's values make the vocabulary. `warn` prints a warning for lists that are cut.
    """
    from ssl_recall.data.long_lists import most_telling, without_unused
    from ssl_recall.data.vocabularies import encode, vocabulary

    if text := table.too_large(column.name):
        way_out = ", or exclude it" if words is None else ""  # new items need every feature of the training
        problems.add("LIMIT", f"column {column.name!r} {text}{way_out}")
        return None
    values = cleaned(table.column(column.name), column, problems)  # its problems name the user's rows
    if values is None:
        return None
    counted = vocabulary(column.name, values, column) if words is None else words
    cut = 0
    if column.kind is Kind.MULTI_VALUED:
        values, cut = most_telling(values, column.max_values, counted)
    if cut and warn:
        text = f"{problems.table}: {cut:,} rows hold more than {column.max_values} values of {column.name!r}; "
        console.warn(f"{text}the rarest that at least two rows have are kept; [prepare] max_values keeps more")
    if words is None:
        words = without_unused(counted, values) if cut else counted  # a value that every list lost needs no vector
        if text := limits.too_many(words.height, table.limits):
            problems.add("LIMIT", f"column {column.name!r} {text}; or give it a min_count, or exclude it")
            return None
    width = getattr(values.dtype, "size", 0) if column.kind is Kind.DENSE else 0
    return Feature(column, words, encode(values, column.kind, words), width)


def columns_of(
    schema: "pl.Schema", id_name: str, declarations: list[str], flag: str, defaults: "Column", problems: Problems
) -> "list[Column]":
    """Return the feature columns with their options and their kind: the declared one, else the one of the type."""
    from ssl_recall.data.vocabularies import guess_kind

    names = [name for name in schema if name != id_name]
    given = declared(declarations, names, flag)
    columns = []
    for name in names:
        kind, options = given.get(name, ("", {}))
        if kind == EXCLUDE:
            continue
        if what := bad_name(name):
            problems.add("COLUMN_NAME", f"column {name!r} {what}; rename or exclude it")
            continue
        try:
            chosen = Kind(kind) if kind else guess_kind(schema[name])
            columns.append(_with_options(replace(defaults, name=name, kind=chosen), options))
        except ValueError as error:
            problems.add("FEATURE", f"column {name!r} {error} ({flag} {name}=..)")
    return columns


def bad_name(name: str) -> str:
    """Say why a feature cannot have this name; empty if it can."""
    if "\0" in name:  # Arrow ends a name at NUL
        return "has a NUL in its name"
    if name.endswith(CODE) or name in {"item_id", "query_id"}:
        return "has a name that the artifacts use"
    return "" if name else "has no name"


def _with_options(column: "Column", options: dict[str, str]) -> "Column":
    """Apply min_count=N, max_values=N, buckets=N, separator=S, nan=missing."""
    numbers = {key: int(options[key]) for key in NUMBERS if key in options}
    return replace(
        column,
        min_count=numbers.get("min_count", column.min_count),
        max_values=numbers.get("max_values", column.max_values),
        buckets=numbers.get("buckets", column.buckets),
        separator=options.get("separator", column.separator),
        nan_is_missing=options.get("nan") == "missing",
    )


def cleaned(values: "pl.Series", column: "Column", problems: Problems) -> "pl.Series | None":
    """Convert a feature column to its plain form, or note why that fails."""
    from ssl_recall.data.vocabularies import NonFiniteValueError, clean

    try:
        return clean(values, column)
    except ValueError as error:
        rule = "NAN_FEATURE" if isinstance(error, NonFiniteValueError) else "FEATURE"
        problems.add(rule, f"column {column.name!r} {error}")
        return None
