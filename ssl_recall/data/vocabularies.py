"""From a user's columns to codes: the kind of a column, its vocabulary, and its codes.

Values are compared as text, so an integer category equals the same category read from a CSV file. Polars frames keep
each list with its row while it is encoded.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl

from .codes import DEFAULT, FIRST, PRESENT, UNKNOWN, Kind

VOCABULARY = {
    "vocabulary": pl.String,
    "code": pl.Int32,
    "value": pl.String,
    "low": pl.Float64,
    "high": pl.Float64,
    "count": pl.Int64,
}


AS_LISTS = "write lists in Parquet, or the values joined by '|'"
_WRITTEN = (
    r"""(?s)^\s*\[\s*(\]|['"].*['"]\s*\]|-?[\d.]+([,\s]+-?[\d.]+)*\s*\])\s*$"""  # [], ['a'], [1, 2]; not [a] b [c]
)
BLOCK = 2**22  # values of lists to explode at a time
_LONGEST = 60  # the most characters of a text in a message
_NEARLY = 0.9  # a rule holds for a column if more than this share of its texts match
_WITHOUT_A_VALUE = {Kind.MULTI_VALUED: pl.List(pl.String), Kind.NUMERIC: pl.Float64()}


class NonFiniteValueError(ValueError):
    """A column has NaN or infinity."""


@dataclass(frozen=True)
class Column:
    """How one column of a table becomes a feature."""

    name: str
    kind: Kind
    min_count: int = 1  # a value in fewer rows is unknown
    max_values: int = 32  # a list keeps its most telling values (long_lists.py)
    buckets: int = 10  # of a numeric column, at its quantiles
    separator: str | None = None  # splits text into a list
    nan_is_missing: bool = False


def guess_kind(dtype: pl.DataType) -> Kind:
    """Return the kind of a type. Raises ValueError for a type that cannot be a feature."""
    if isinstance(dtype, pl.Array) and dtype.inner.is_float():
        return Kind.DENSE
    if isinstance(dtype, pl.List | pl.Array):
        if dtype.inner.is_nested() or dtype.inner.is_float():
            raise ValueError(f"is of type {dtype}; declare it dense or exclude it")
        return Kind.MULTI_VALUED
    if dtype.is_float() or dtype.is_temporal() or dtype.is_decimal():
        return Kind.NUMERIC
    if dtype.is_integer() or dtype in (pl.String, pl.Boolean, pl.Categorical, pl.Enum, pl.Null):
        return Kind.CATEGORICAL
    raise ValueError(f"is of type {dtype}, which is no feature; exclude it")


def clean(values: pl.Series, column: Column) -> pl.Series:
    """Convert a column to its plain form: text, list of distinct texts, float64 or a fixed-size list of float32.

    A null, an empty list, and NaN if it is declared missing, become null; a list keeps all its values. Raises
    ValueError if the column does not fit its declared kind, NonFiniteValueError for NaN or infinity.
    """
    values = values.alias("values")  # polars reads a name such as ^a.*$ as a pattern
    if column.kind in _WITHOUT_A_VALUE and values.null_count() == len(values):  # all null: its type is arbitrary
        values = values.clear(len(values)).cast(_WITHOUT_A_VALUE[column.kind])
    match column.kind:
        case Kind.MULTI_VALUED:
            if column.separator in (None, "", ",") and (such := written_list(values)):
                raise ValueError(f"holds lists written as text, such as {such!r}; {AS_LISTS}")
            lists = _finite(_split(values, column.separator) if column.separator else values, column)
            if not isinstance(lists.dtype, pl.List | pl.Array):
                raise ValueError(f"is of type {values.dtype}, no list; give a separator, or call it categorical")
            if lists.dtype.inner.is_nested() or lists.dtype.inner in (pl.Binary, pl.Duration):
                raise ValueError(f"is of type {values.dtype}, whose values are no text; exclude it")
            texts = lists.cast(pl.List(pl.String)).list.drop_nulls().list.unique(maintain_order=True)
            return texts.set(texts.list.len() == 0, None) if len(texts) else texts
        case Kind.NUMERIC:
            if not (values.dtype.is_numeric() or values.dtype.is_temporal()):
                other = "multi-valued" if values.dtype.is_nested() else "categorical, or multi-valued with a separator"
                told = nearly_numbers(values)
                raise ValueError(
                    f"is of type {values.dtype}, no number; {told or f'write numbers, or call it {other}'}"
                )
            plain = values if values.dtype.is_decimal() else values.to_physical()
            return _finite(plain.cast(pl.Float64), column)
        case Kind.DENSE:
            return _finite(_vectors(values), column)
        case _:
            if values.dtype == pl.Binary:
                raise ValueError(f"is of type {values.dtype}, which is no text; exclude it")
            if values.dtype.is_nested():
                raise ValueError(f"is of type {values.dtype}; call it multi-valued or exclude it")
            return _finite(values, column).cast(pl.String)


def written_list(values: pl.Series) -> str:
    """Return a text of the column if nearly all are lists as Python, JSON or numpy writes them; else an empty text."""
    present = values.drop_nulls() if values.dtype == pl.String else values.clear(0)
    listed = present.filter(present.str.contains(_WRITTEN)) if len(present) else present
    return shown(listed[0]) if len(listed) > _NEARLY * len(present) else ""


def nearly_numbers(values: pl.Series) -> str:
    """Say why a column of texts, nearly all numbers, is not numeric, and how to fix it; else return an empty text.

    A text with two commas is a list. A text that begins with 0 and a digit is a label.
    """
    present = values.drop_nulls() if values.dtype == pl.String else values.clear(0)
    texts = present.str.strip_chars() if len(present) else present
    if not len(present) or int(texts.str.count_matches(",", literal=True).max()) > 1:  # type: ignore[arg-type]
        return ""
    with_point, number = (
        text.cast(pl.Float64, strict=False).is_finite().fill_null(False)
        for text in (texts, texts.str.replace(",", ".", literal=True))
    )
    if texts.str.contains(r"^0\d").any() or number.sum() <= _NEARLY * len(present):
        return ""
    commas, others = int((number & ~with_point).sum()), present.filter(~number)
    why = [f"{len(others):,} are none, such as {shown(others[0])!r}: leave them empty"] if len(others) else []
    why += [f"{commas:,} have a decimal comma: write a point"] if commas else []
    return f"{int(number.sum()):,} of {len(present):,} texts are numbers; {'; '.join(why) or 'write them as numbers'}"


def shown(text: str) -> str:
    """Shorten a text for a message."""
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


def vocabulary(name: str, values: pl.Series, column: Column) -> pl.DataFrame:
    """List the values of a clean column that get a code, most frequent first: the rows of vocabulary.parquet."""
    if column.kind is Kind.DENSE:
        return pl.DataFrame(schema=VOCABULARY)
    if column.kind is Kind.NUMERIC:
        return _buckets(name, values, column.buckets)
    parts = (
        (part.explode(empty_as_null=True) for part in blocks(values)) if column.kind is Kind.MULTI_VALUED else [values]
    )
    each = [pl.DataFrame({"value": part.drop_nulls()}).group_by("value").agg(count=pl.len()) for part in parts]
    counts = pl.concat(each).group_by("value").agg(pl.col("count").cast(pl.Int64).sum())
    return listed(name, counts.filter(pl.col("count") >= column.min_count))


def blocks(lists: pl.Series) -> Iterator[pl.Series]:
    """Slice a column of lists into runs of rows with about BLOCK values each; into one slice if it has no rows."""
    ends = np.cumsum(lists.list.len().fill_null(0).to_numpy().astype(np.int64))
    total = int(ends[-1]) if len(ends) else 0
    inner = np.unique(np.searchsorted(ends, np.arange(BLOCK, total, BLOCK)) + 1)
    for low, high in itertools.pairwise([0, *inner[inner < len(lists)].tolist(), len(lists)]):
        yield lists[low:high]


def listed(name: str, counts: pl.DataFrame) -> pl.DataFrame:
    """Assign codes to values (value, count), most frequent first and then by text."""
    ordered = counts.sort(["count", "value"], descending=[True, False])
    return ordered.select(
        pl.lit(name, pl.String).alias("vocabulary"),
        pl.int_range(FIRST, pl.len() + FIRST, dtype=pl.Int32).alias("code"),
        pl.col("value").cast(pl.String),
        pl.lit(None, pl.Float64).alias("low"),
        pl.lit(None, pl.Float64).alias("high"),
        "count",
    )


def encode(values: pl.Series, kind: Kind, words: pl.DataFrame) -> pl.Series:
    """Return the codes of a clean column by its vocabulary `words`: int32, or list<int32> (missing: an empty list).

    A value outside the vocabulary has code 1. An id outside it has the default 0, because it has no vector yet.
    A number has the code of the bucket with low <= x < high.
    """
    match kind:
        case Kind.DENSE:
            return values.is_not_null().cast(pl.Int32) * PRESENT
        case Kind.NUMERIC:
            codes = np.searchsorted(words["low"].to_numpy()[1:], values.fill_null(0.0).to_numpy(), side="right") + FIRST
            numbers = pl.Series(codes.astype(np.int32))
            return numbers.set(values.is_null(), DEFAULT) if words.height else numbers * 0
        case Kind.MULTI_VALUED:
            rows = pl.DataFrame({"list": values}).with_row_index("row").explode("list", empty_as_null=True)
            found = rows.with_columns(code=_lookup(rows["list"], words)).filter(pl.col("list").is_not_null())
            lists = found.group_by("row", maintain_order=True).agg("code")
            every = pl.DataFrame({"row": pl.int_range(len(values), dtype=pl.UInt32, eager=True)})
            joined = every.join(lists, on="row", how="left", maintain_order="left")
            return joined["code"].fill_null(pl.Series([[]], dtype=pl.List(pl.Int32)))
        case Kind.ID:
            own = _lookup(values, words)
            return own.set(own == UNKNOWN, DEFAULT)
        case _:
            return _lookup(values, words).fill_null(DEFAULT)


def _lookup(texts: pl.Series, words: pl.DataFrame) -> pl.Series:
    """Return the code of each text: 1 if the vocabulary lacks it, null if it is null."""
    table = words.select(text="value", found="code")
    joined = pl.DataFrame({"text": texts}).join(table, on="text", how="left", maintain_order="left")
    known = pl.col("found").fill_null(UNKNOWN)
    return joined.select(pl.when(pl.col("text").is_not_null()).then(known).cast(pl.Int32))["found"]


def _buckets(name: str, values: pl.Series, buckets: int) -> pl.DataFrame:
    """Cut at the quantiles; equal cuts merge, so there may be fewer buckets."""
    numbers = values.drop_nulls().to_numpy()
    if not len(numbers):
        return pl.DataFrame(schema=VOCABULARY)
    cuts = np.unique(np.quantile(numbers, np.linspace(0, 1, buckets + 1)[1:-1], method="higher"))
    cuts = cuts[cuts > numbers.min()]
    edges = [-np.inf, *cuts.tolist(), np.inf]
    count = np.bincount(np.searchsorted(cuts, numbers, side="right"), minlength=len(cuts) + 1)
    return pl.DataFrame(
        {
            "vocabulary": [name] * len(count),
            "code": range(FIRST, FIRST + len(count)),
            "value": [f"[{low:g}, {high:g})" for low, high in itertools.pairwise(edges)],
            "low": edges[:-1],
            "high": edges[1:],
            "count": count.tolist(),
        },
        schema=VOCABULARY,
    )


def _split(values: pl.Series, separator: str) -> pl.Series:
    """Split text into a list of pieces; strip spaces and drop empty pieces."""
    pieces = values.cast(pl.String).str.split(separator).list.eval(pl.element().str.strip_chars())
    return pieces.list.eval(pl.element().filter(pl.element() != ""))


def _finite(values: pl.Series, column: Column) -> pl.Series:
    """Return the values, each row with NaN or infinity set to null if the column declares that; else raise."""
    dtype, element = values.dtype, pl.element().is_finite()
    if isinstance(dtype, pl.Array) and dtype.inner.is_float():  # a null within a vector counts as NaN
        finite = values.arr.eval(element.fill_null(False)).arr.all()
    elif isinstance(dtype, pl.List) and dtype.inner.is_float():
        finite = values.list.eval(element.fill_null(True)).list.all()
    elif dtype.is_float():
        finite = values.is_finite()
    else:
        return values
    bad = values.is_not_null() & ~finite.fill_null(True)
    count = int(bad.sum())
    if count and not column.nan_is_missing:
        rows = bad.arg_true().head(3).to_list()
        raise NonFiniteValueError(
            f"holds NaN or infinity in {count:,} rows (first {rows}); declare nan=missing, or mend it"
        )
    return values.set(bad, None) if count else values


def _vectors(values: pl.Series) -> pl.Series:
    """Return a dense column as fixed-size lists of float32. Raises ValueError if it holds anything else."""
    if isinstance(values.dtype, pl.Array) and values.dtype.inner.is_numeric():
        return values.cast(pl.Array(pl.Float32, values.dtype.size))
    if not (isinstance(values.dtype, pl.List) and values.dtype.inner.is_numeric()):
        raise ValueError(f"is of type {values.dtype}, no vector; a dense feature is a list of floats")
    lengths = values.list.len().drop_nulls().unique().sort().to_list()
    if not lengths:
        raise ValueError(f"holds no vector in {len(values):,} rows; exclude it")
    if len(lengths) != 1 or not lengths[0]:
        raise ValueError(f"holds vectors of the lengths {lengths[:3]}; a dense feature has one, and above 0")
    return values.cast(pl.List(pl.Float32)).cast(pl.Array(pl.Float32, lengths[0]))
