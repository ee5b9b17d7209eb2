"""Kinds guessed from types, columns in plain form, vocabularies, and codes compared with a dictionary."""

import datetime
import math
from collections import Counter

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssl_recall.data.codes import Kind
from ssl_recall.data.vocabularies import (
    VOCABULARY,
    Column,
    NonFiniteValueError,
    clean,
    encode,
    guess_kind,
    listed,
    nearly_numbers,
    vocabulary,
    written_list,
)

NAN, INF = math.nan, math.inf
numbers = st.floats(-1e6, 1e6) | st.sampled_from([-1.0, 0.0, -0.0, 1.0])


def coded(values: pl.Series, column: Column) -> list[object]:
    plain = clean(values, column)
    return encode(plain, column.kind, vocabulary("v", plain, column)).to_list()


def test_a_small_column_by_hand() -> None:
    column = Column("colour", Kind.CATEGORICAL, min_count=2)
    plain = clean(pl.Series(["red", "blue", None, "red", "green", "blue", "red"]), column)
    words = vocabulary("colour", plain, column)
    assert words.rows() == [("colour", 2, "red", None, None, 3), ("colour", 3, "blue", None, None, 2)]
    assert words.schema == VOCABULARY
    codes = encode(plain, Kind.CATEGORICAL, words)
    assert codes.to_list() == [2, 3, 0, 2, 1, 3, 2]  # missing: 0, too rare: 1
    assert codes.dtype == pl.Int32


def test_a_small_list_column_by_hand() -> None:
    column = Column("tags", Kind.MULTI_VALUED, min_count=2)
    lists = [["x", "y", "x"], [], None, [None], [None, "y"], ["x", "q", "r", "y"]]
    plain = clean(pl.Series(lists), column)
    assert plain.to_list() == [["x", "y"], None, None, None, ["y"], ["x", "q", "r", "y"]]
    words = vocabulary("tags", plain, column)
    assert words.select("code", "value", "count").rows() == [(2, "y", 3), (3, "x", 2)]
    codes = encode(plain, Kind.MULTI_VALUED, words)
    assert codes.to_list() == [[3, 2], [], [], [], [2], [3, 1, 1, 2]]
    assert codes.dtype == pl.List(pl.Int32)


def test_a_number_falls_in_the_bucket_that_it_is_the_lower_edge_of() -> None:
    column = Column("size", Kind.NUMERIC, buckets=2)
    words = vocabulary("size", pl.Series([1.0, 2.0, 3.0, 4.0]), column)
    assert words.select("code", "value", "low", "high", "count").rows() == [
        (2, "[-inf, 3)", -INF, 3.0, 2),
        (3, "[3, inf)", 3.0, INF, 2),
    ]
    below = math.nextafter(3.0, 0)
    assert encode(pl.Series([below, 3.0, None, -1e300, 1e300]), Kind.NUMERIC, words).to_list() == [2, 3, 0, 2, 3]


def test_values_are_compared_by_their_text() -> None:
    column = Column("year", Kind.CATEGORICAL)
    words = vocabulary("year", clean(pl.Series([1999, 2001], dtype=pl.Int16), column), column)
    assert encode(clean(pl.Series(["2001", "1999", "01999"]), column), column.kind, words).to_list() == [3, 2, 1]


def test_equal_counts_are_ordered_by_text() -> None:
    counts = pl.DataFrame({"value": ["b", "c", "a"], "count": [1, 2, 1]})
    assert listed("v", counts)["value"].to_list() == ["c", "a", "b"]


@pytest.mark.parametrize(
    ("dtype", "kind"),
    [
        (pl.String(), Kind.CATEGORICAL),
        (pl.Int8(), Kind.CATEGORICAL),
        (pl.UInt64(), Kind.CATEGORICAL),
        (pl.Boolean(), Kind.CATEGORICAL),
        (pl.Categorical(), Kind.CATEGORICAL),
        (pl.Enum(["a"]), Kind.CATEGORICAL),
        (pl.Null(), Kind.CATEGORICAL),
        (pl.Float32(), Kind.NUMERIC),
        (pl.Float64(), Kind.NUMERIC),
        (pl.Decimal(10, 2), Kind.NUMERIC),
        (pl.Date(), Kind.NUMERIC),
        (pl.Datetime("us", "UTC"), Kind.NUMERIC),
        (pl.Duration("ms"), Kind.NUMERIC),
        (pl.List(pl.String), Kind.MULTI_VALUED),
        (pl.List(pl.Int64), Kind.MULTI_VALUED),
        (pl.Array(pl.Int64, 2), Kind.MULTI_VALUED),
        (pl.Array(pl.Float32, 2), Kind.DENSE),
        (pl.Array(pl.Float64, 3), Kind.DENSE),
    ],
    ids=str,
)
def test_the_kind_is_what_the_type_says(dtype: pl.DataType, kind: Kind) -> None:
    assert guess_kind(dtype) is kind


@pytest.mark.parametrize(
    ("dtype", "message"),
    [
        (pl.List(pl.Float64()), "declare it dense or exclude it"),
        (pl.List(pl.List(pl.String())), "declare it dense or exclude it"),
        (pl.Struct({"a": pl.Int64()}), "which is no feature; exclude it"),
        (pl.Binary(), "which is no feature; exclude it"),
    ],
    ids=str,
)
def test_a_type_that_is_no_feature_is_refused(dtype: pl.DataType, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        guess_kind(dtype)


@given(st.lists(st.none() | st.text(max_size=2)), st.integers(1, 3))
@settings(max_examples=50, deadline=None)
def test_categories_get_the_codes_of_a_plain_dictionary(values: list[str | None], min_count: int) -> None:
    counts = Counter(value for value in values if value is not None)
    kept = sorted((v for v in counts if counts[v] >= min_count), key=lambda v: (-counts[v], v.encode()))
    book = {value: code for code, value in enumerate(kept, start=2)}
    expected = [0 if value is None else book.get(value, 1) for value in values]
    series = pl.Series(values, dtype=pl.String)
    assert coded(series, Column("c", Kind.CATEGORICAL, min_count=min_count)) == expected


@given(st.lists(st.none() | st.lists(st.none() | st.sampled_from("abcdé"), max_size=5)), st.integers(1, 2))
@settings(max_examples=50, deadline=None)
def test_lists_get_the_codes_of_a_plain_dictionary(rows: list[list[str | None] | None], min_count: int) -> None:
    plain = [list(dict.fromkeys(v for v in row or [] if v is not None)) for row in rows]
    counts = Counter(value for row in plain for value in row)
    kept = sorted((v for v in counts if counts[v] >= min_count), key=lambda v: (-counts[v], v.encode()))
    book = {value: code for code, value in enumerate(kept, start=2)}
    series = pl.Series(rows, dtype=pl.List(pl.String))
    column = Column("c", Kind.MULTI_VALUED, min_count=min_count)
    assert coded(series, column) == [[book.get(value, 1) for value in row] for row in plain]


@given(st.lists(st.none() | numbers, min_size=1, max_size=40), st.integers(2, 6), st.lists(numbers, max_size=5))
@settings(max_examples=80, deadline=None)
def test_buckets_cover_the_line_and_every_number_lies_in_its_own(
    values: list[float | None], buckets: int, others: list[float]
) -> None:
    column = Column("c", Kind.NUMERIC, buckets=buckets)
    plain = clean(pl.Series(values, dtype=pl.Float64), column)
    words = vocabulary("c", plain, column)
    assert words["count"].sum() == len(plain.drop_nulls())
    if not words.height:
        assert plain.is_null().all()
        return
    assert words.height <= buckets
    assert (words["count"] > 0).all()
    assert (words["low"][0], words["high"][-1]) == (-INF, INF)
    assert words["low"].to_list()[1:] == words["high"].to_list()[:-1]
    seen = [*values, *others]
    edges = {code: (low, high) for code, low, high in words.select("code", "low", "high").iter_rows()}
    for value, code in zip(seen, encode(pl.Series(seen, dtype=pl.Float64), Kind.NUMERIC, words), strict=True):
        assert code == 0 if value is None else edges[code][0] <= value < edges[code][1]


@given(st.permutations(["a", "b", "b", "c", "c", "c", None]))
@settings(max_examples=20, deadline=None)
def test_the_vocabulary_does_not_depend_on_the_order_of_the_rows(values: list[str | None]) -> None:
    words = vocabulary("v", pl.Series(values), Column("v", Kind.CATEGORICAL))
    assert words.select("value", "code").rows() == [("c", 2), ("b", 3), ("a", 4)]


@pytest.mark.parametrize(
    ("values", "kind", "codes", "size"),
    [
        (pl.Series(["x"] * 3), Kind.CATEGORICAL, [2, 2, 2], 1),
        (pl.Series([7.0] * 3), Kind.NUMERIC, [2, 2, 2], 1),
        (pl.Series([None] * 3, dtype=pl.String), Kind.CATEGORICAL, [0, 0, 0], 0),
        (pl.Series([None] * 3), Kind.CATEGORICAL, [0, 0, 0], 0),
        (pl.Series([None] * 3, dtype=pl.Float64), Kind.NUMERIC, [0, 0, 0], 0),
        (pl.Series([None] * 3, dtype=pl.String), Kind.NUMERIC, [0, 0, 0], 0),  # an empty column of a CSV file
        (pl.Series([None] * 3), Kind.MULTI_VALUED, [[], [], []], 0),
        (pl.Series([None] * 3, dtype=pl.List(pl.String)), Kind.MULTI_VALUED, [[], [], []], 0),
        (pl.Series([None] * 3, dtype=pl.Array(pl.Float32, 2)), Kind.DENSE, [0, 0, 0], 0),
        (pl.Series([[None], [None], []]), Kind.MULTI_VALUED, [[], [], []], 0),
        (pl.Series([], dtype=pl.String), Kind.CATEGORICAL, [], 0),
        (pl.Series([], dtype=pl.List(pl.String)), Kind.MULTI_VALUED, [], 0),
        (pl.Series([], dtype=pl.Float64), Kind.NUMERIC, [], 0),
    ],
)
def test_constant_missing_and_empty_columns_have_codes_too(
    values: pl.Series, kind: Kind, codes: list[object], size: int
) -> None:
    column = Column("c", kind)
    plain = clean(values, column)
    words = vocabulary("c", plain, column)
    assert (encode(plain, kind, words).to_list(), words.height, words.schema) == (codes, size, VOCABULARY)


def test_a_number_without_a_vocabulary_is_missing() -> None:
    nothing = pl.DataFrame(schema=VOCABULARY)
    assert encode(pl.Series([1.0, None]), Kind.NUMERIC, nothing).to_list() == [0, 0]


def test_text_is_split_without_spaces_empty_pieces_and_repetitions() -> None:
    column = Column("tags", Kind.MULTI_VALUED, separator="|")
    assert clean(pl.Series(["a| b |a", "", None, " | ", "c"]), column).to_list() == [
        ["a", "b"],
        None,
        None,
        None,
        ["c"],
    ]


@pytest.mark.parametrize(
    "lists",
    [
        pl.Series([[1, 2], [2, 2], None], dtype=pl.Array(pl.Int64, 2)),
        pl.Series([[1, 2], [2], None], dtype=pl.List(pl.UInt8)),
        pl.Series([["1", "2"], ["2"], None], dtype=pl.List(pl.Categorical)),
    ],
    ids=lambda lists: str(lists.dtype),
)
def test_lists_of_any_plain_type_become_lists_of_texts(lists: pl.Series) -> None:
    assert clean(lists, Column("c", Kind.MULTI_VALUED)).to_list() == [["1", "2"], ["2"], None]


def test_times_and_decimals_are_numbers() -> None:
    column = Column("c", Kind.NUMERIC)
    days = pl.Series([datetime.date(1970, 1, 1), None, datetime.date(1970, 1, 3)])
    assert clean(days, column).to_list() == [0.0, None, 2.0]
    assert clean(pl.Series(["1.25"]).cast(pl.Decimal(10, 2)), column).to_list() == [1.25]


def test_dense_vectors_of_any_number_type_become_float32_of_one_size() -> None:
    column = Column("c", Kind.DENSE)
    for values in (
        pl.Series([[1, 2], None], dtype=pl.List(pl.Int64)),
        pl.Series([[1, 2], None], dtype=pl.Array(pl.Int8, 2)),
        pl.Series([[1.0, 2.0], None], dtype=pl.List(pl.Float64)),
    ):
        plain = clean(values, column)
        assert (plain.dtype, plain.to_list()) == (pl.Array(pl.Float32, 2), [[1.0, 2.0], None])
        assert encode(plain, Kind.DENSE, vocabulary("c", plain, column)).to_list() == [1, 0]


NOT_FINITE = [
    (pl.Series([1.0, NAN, -INF]), Kind.NUMERIC),
    (pl.Series([[1.0], [NAN], [2.0, INF]]), Kind.MULTI_VALUED),
    (pl.Series([[1.0, 2.0], [NAN, 0.0], [0.0, -INF]], dtype=pl.Array(pl.Float32, 2)), Kind.DENSE),
    (pl.Series([[1.0, 2.0], [NAN, 0.0], [0.0, -INF]]), Kind.DENSE),
    (pl.Series([[1.0, 2.0], [None, 0.0], [0.0, 1e300]]), Kind.DENSE),  # a null in a vector, and a number beyond float32
]


@pytest.mark.parametrize(("values", "kind"), NOT_FINITE)
def test_nan_and_infinity_are_refused_with_their_rows(values: pl.Series, kind: Kind) -> None:
    with pytest.raises(NonFiniteValueError, match=r"NaN or infinity in 2 rows \(first \[1, 2\]\); declare nan=missing"):
        clean(values, Column("c", kind))


@pytest.mark.parametrize(("values", "kind"), NOT_FINITE)
def test_nan_and_infinity_are_missing_where_that_is_declared(values: pl.Series, kind: Kind) -> None:
    plain = clean(values, Column("c", kind, nan_is_missing=True))
    assert plain.is_null().to_list() == [False, True, True]


@pytest.mark.parametrize(
    ("values", "kind", "message"),
    [
        (pl.Series(["a"]), Kind.MULTI_VALUED, "of type String, no list; give a separator"),
        (pl.Series(["a"]), Kind.NUMERIC, "of type String, no number; write numbers, or call it categorical"),
        (
            pl.Series(["1,5", "2", "3"]),
            Kind.NUMERIC,
            "no number; 3 of 3 texts are numbers; 1 have a decimal comma: write",
        ),
        (pl.Series(["1.5"] * 10 + ["-"]), Kind.NUMERIC, "1 are none, such as '-': leave them empty"),
        (pl.Series(["['a', 'b']", None]), Kind.MULTI_VALUED, r"lists written as text, such as \"\['a', 'b'\]\"; write"),
        (pl.Series([["a"]]), Kind.CATEGORICAL, "call it multi-valued or exclude it"),
        (pl.Series([1.0]), Kind.DENSE, "no vector; a dense feature is a list of floats"),
        (pl.Series([["a"]]), Kind.DENSE, "no vector; a dense feature is a list of floats"),
        (pl.Series([[1.0], [1.0, 2.0]]), Kind.DENSE, r"vectors of the lengths \[1, 2\]; a dense feature has one"),
        (pl.Series([[], []], dtype=pl.List(pl.Float64)), Kind.DENSE, r"vectors of the lengths \[0\]"),
        (pl.Series([None, None], dtype=pl.List(pl.Float64)), Kind.DENSE, "holds no vector in 2 rows; exclude it"),
        (pl.Series([[["a"]]]), Kind.MULTI_VALUED, "of type List"),
        (pl.Series([b"\xff"]), Kind.CATEGORICAL, "of type Binary"),
        (pl.Series([[b"\xff"]]), Kind.MULTI_VALUED, "of type List"),
    ],
)
def test_a_column_that_cannot_be_its_kind_is_refused(values: pl.Series, kind: Kind, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        clean(values, Column("c", kind))


LISTS = ["[]", " [ 'a' ] ", '["a", "b"]', "[1, 2]", "[1.5 -2\n 3]"]
NO_LISTS = ["a", "[Rec] a [Live]", "[red]", "[0-10]", "x ['a']", "['a'] x"]


@pytest.mark.parametrize("text", LISTS)
def test_a_list_is_known_however_it_is_written(text: str) -> None:
    assert written_list(pl.Series([text, None])) == text
    assert written_list(pl.Series([text] * 19 + ["a"])) == text
    assert written_list(pl.Series([text] * 18 + ["a"] * 2)) == ""


@pytest.mark.parametrize("text", NO_LISTS)
def test_brackets_make_no_list(text: str) -> None:
    assert written_list(pl.Series([text] * 3)) == ""


def test_what_holds_no_text_is_no_written_list_and_no_number() -> None:
    for values in (pl.Series([None, None], dtype=pl.String), pl.Series([["[1]"]]), pl.Series([1.5]), pl.Series([])):
        assert (written_list(values), nearly_numbers(values)) == ("", "")


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (["1.5", " 2 ", "-3e2"], "3 of 3 texts are numbers; write them as numbers"),
        ([" 1,5"] * 19 + ["?"], "19 of 20 texts are numbers; 1 are none, such as '?': leave them empty; 19 have a "),
        (["1"] * 19 + ["nan"], "19 of 20 texts are numbers; 1 are none, such as 'nan'"),
        (["1"] * 19 + ["x" * 99], f"1 are none, such as '{'x' * 57}...'"),
        (["1"] * 18 + ["x"] * 2, None),
        (["1,2,3", "1", "2"], None),
        (["1,234,567", "2"], None),
        (["01", "2", "3"], None),
        (["0.5", "0", "0,5"], "1 have a decimal comma: write a point"),
    ],
)
def test_what_keeps_texts_from_being_numbers_is_told(texts: list[str], said: str | None) -> None:
    found = nearly_numbers(pl.Series([*texts, None]))
    assert said in found if said else found == ""
