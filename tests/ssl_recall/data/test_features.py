import itertools
from typing import Any

import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ssl_recall.data import features
from ssl_recall.data.codes import Kind
from ssl_recall.data.features import Bags, EncodedTable
from ssl_recall.kernels.ragged import concatenated_ranges

few = settings(max_examples=40, deadline=None)

FEATURES = pl.DataFrame(
    {
        "side": ["item"] * 5,
        "feature": ["item_id", "colour", "words", "price", "image"],
        "kind": ["id", "categorical", "multi-valued", "numeric", "dense"],
        "vocabulary": ["item_id", "colour", "words", "price", "image"],
        "codes": [5, 4, 9, 4, 2],
        "width": [0, 0, 0, 0, 2],
        "missing": [0.0, 0.25, 0.5, 0.25, 0.25],
    },
    schema_overrides={"width": pl.Int32, "codes": pl.Int64},
)


def frame_of(
    ids: list[int],
    colours: list[int],
    words: list[list[int] | None],
    prices: list[int],
    images: list[list[float] | None],
    floats: type[pl.DataType] = pl.Float32,
) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "item_id": pl.Series(ids, dtype=pl.Int64),
            "item_id__code": pl.Series(ids, dtype=pl.Int32),
            "colour__code": pl.Series(colours, dtype=pl.Int32),
            "words__code": pl.Series(words, dtype=pl.List(pl.Int32)),
            "price__code": pl.Series(prices, dtype=pl.Int32),
            "image": pl.Series(images, dtype=pl.Array(floats, 2)),
            "image__code": pl.Series([0 if image is None else 1 for image in images], dtype=pl.Int32),
        }
    )


def lists_of(table: EncodedTable | Bags) -> list[list[int]]:
    """Return the codes of every bag, read one by one."""
    codes = table.codes.tolist()
    ends = table.offsets[1:] if isinstance(table, EncodedTable) else table.lengths.cumsum(0)
    cuts = [0, *ends.tolist()]
    assert cuts[-1] == len(codes)
    return [codes[start:end] for start, end in itertools.pairwise(cuts)]


def table_of(bags: list[list[int]], k: int, dense: dict[str, torch.Tensor] | None = None) -> EncodedTable:
    """Build a table of multi-valued features from its bags, row after row."""
    offsets = torch.tensor([0, *[len(bag) for bag in bags]]).cumsum(0)
    codes = torch.tensor([code for bag in bags for code in bag], dtype=torch.int32)
    names = tuple(f"f{i}" for i in range(k))
    return EncodedTable(names, (Kind.MULTI_VALUED,) * k, names, codes, offsets, dense or {})


@st.composite
def small_tables(draw: st.DrawFn) -> tuple[EncodedTable, list[list[int]], int]:
    """Draw a table of up to 4 rows and 4 features; return it with its bags and K."""
    k, n = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    bags = draw(st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=3), min_size=k * n, max_size=k * n))
    return table_of(bags, k, {"image": torch.arange(n * 2.0).view(n, 2)}), bags, k


# --- encoded_table ---


def test_a_catalogue_worked_by_hand() -> None:
    """Four items: an empty list, a null list and colour 0 are missing; item 3 has no image."""
    frame = frame_of(
        [2, 3, 0, 4], [2, 0, 3, 1], [[2, 5, 3], [], None, [8]], [2, 3, 2, 0], [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], None]
    )
    table = features.encoded_table(frame, FEATURES)
    assert table.names == ("item_id", "colour", "words", "price", "image")
    assert table.kinds == (Kind.ID, Kind.CATEGORICAL, Kind.MULTI_VALUED, Kind.NUMERIC, Kind.DENSE)
    assert table.vocabularies == table.names
    assert table.rows == 4
    assert lists_of(table) == [
        *[[2], [2], [2, 5, 3], [2], [1]],
        *[[3], [0], [0], [3], [1]],
        *[[0], [3], [0], [2], [1]],
        *[[4], [1], [8], [0], [0]],
    ]
    assert (table.codes.dtype, table.offsets.dtype) == (torch.int32, torch.int64)
    assert table.dense["image"].dtype == torch.float32
    assert table.dense["image"].tolist() == [[1, 2], [3, 4], [5, 6], [0, 0]]


@st.composite
def catalogues(draw: st.DrawFn) -> dict[str, list[Any]]:
    n = draw(st.integers(1, 6))

    def column(one: st.SearchStrategy[Any]) -> list[Any]:
        return draw(st.lists(one, min_size=n, max_size=n))

    return {
        "ids": column(st.integers(0, 4)),
        "colours": column(st.integers(0, 3)),
        "words": column(st.none() | st.lists(st.integers(1, 8), max_size=4)),
        "prices": column(st.integers(0, 3)),
        "images": column(st.none() | st.lists(st.sampled_from([-1.5, 0.0, 2.25]), min_size=2, max_size=2)),
    }


@given(catalogues(), st.sampled_from([pl.Float32, pl.Float64]))
@few
def test_a_catalogue_comes_through_value_by_value(columns: dict[str, list[Any]], floats: type[pl.DataType]) -> None:
    table = features.encoded_table(frame_of(**columns, floats=floats), FEATURES)
    expected = []
    for number, colour, words, price, image in zip(*columns.values(), strict=True):
        expected += [[number], [colour], words or [0], [price], [0 if image is None else 1]]
    assert lists_of(table) == expected
    assert (table.offsets.diff() >= 1).all()  # no bag is empty
    assert table.dense["image"].tolist() == [image or [0.0, 0.0] for image in columns["images"]]


@given(catalogues(), st.data())
@few
def test_a_part_of_a_table_and_a_table_in_chunks_encode_the_same(
    columns: dict[str, list[Any]], data: st.DataObject
) -> None:
    frame = frame_of(**columns)
    start = data.draw(st.integers(0, frame.height - 1))
    length = data.draw(st.integers(1, frame.height - start))
    whole = features.encoded_table(frame, FEATURES)
    part = features.encoded_table(frame.slice(start, length), FEATURES)
    assert lists_of(part) == lists_of(whole)[start * 5 : (start + length) * 5]
    assert torch.equal(part.dense["image"], whole.dense["image"][start : start + length])
    chunked = features.encoded_table(pl.concat([frame.head(start), frame.slice(start)], rechunk=False), FEATURES)
    assert lists_of(chunked) == lists_of(whole)
    assert torch.equal(chunked.dense["image"], whole.dense["image"])


def test_the_features_give_the_order_whatever_the_columns_order() -> None:
    frame = frame_of([2, 3], [2, 3], [[2], [5, 6]], [2, 2], [[1.0, 2.0], None])
    backwards = features.encoded_table(frame.select(frame.columns[::-1]), FEATURES[::-1])
    assert backwards.names == tuple(FEATURES["feature"])[::-1]
    assert lists_of(backwards) == [*[[1], [2], [2], [2], [2]], *[[0], [2], [5, 6], [3], [3]]]


def test_features_may_share_a_vocabulary() -> None:
    shared = FEATURES.head(3).with_columns(vocabulary=pl.lit("words"))
    table = features.encoded_table(frame_of([2], [3], [[2, 4]], [2], [None]), shared)
    assert table.vocabularies == ("words", "words", "words")
    assert lists_of(table) == [[2], [3], [2, 4]]


def test_a_column_of_nothing_but_missing_lists_is_one_default_a_row() -> None:
    for lists in ([None, None], [[], []], [None, []]):
        table = features.encoded_table(frame_of([2, 3], [2, 2], lists, [2, 2], [None, None]), FEATURES)
        assert lists_of(table) == [*[[2], [2], [0], [2], [0]], *[[3], [2], [0], [2], [0]]]


def test_a_missing_code_column_is_refused_by_its_name() -> None:
    frame = frame_of([2], [2], [[2]], [2], [None]).drop("colour__code")
    with pytest.raises(pl.exceptions.ColumnNotFoundError, match="colour__code"):
        features.encoded_table(frame, FEATURES)


def test_moving_a_table_keeps_what_it_holds() -> None:
    table = features.encoded_table(frame_of([2, 3], [2, 3], [[2], None], [2, 2], [[1.0, 2.0], None]), FEATURES)
    moved = table.to(torch.device("cpu"))
    assert lists_of(moved) == lists_of(table)
    assert (moved.names, moved.kinds, moved.vocabularies) == (table.names, table.kinds, table.vocabularies)
    assert torch.equal(moved.dense["image"], table.dense["image"])


# --- bags_of ---


@given(small_tables(), st.data())
@few
def test_the_bags_of_rows_are_theirs_in_the_order_asked_and_as_often(
    small: tuple[EncodedTable, list[list[int]], int], data: st.DataObject
) -> None:
    table, bags, k = small
    rows = data.draw(st.lists(st.integers(0, table.rows - 1), min_size=1, max_size=6))
    found = features.bags_of(table, torch.tensor(rows))
    assert lists_of(found) == [bags[row * k + feature] for row in rows for feature in range(k)]
    assert (found.codes.dtype, found.lengths.dtype) == (torch.int64,) * 2
    assert torch.equal(found.dense["image"], table.dense["image"][rows])


# --- hide ---


def test_hiding_worked_by_hand() -> None:
    """A row of three bags [2, 3] [4] [5, 6, 7]: keep 3, nothing of the second, 5 and 7."""
    bags = features.bags_of(table_of([[2, 3], [4], [5, 6, 7]], 3), torch.tensor([0]))
    hidden = features.hide(bags, torch.tensor([False, True, False, True, False, True]))
    assert lists_of(hidden) == [[3], [0], [5, 7]]


@given(small_tables(), st.data())
@settings(max_examples=80, deadline=None)
def test_hiding_is_a_filter_of_each_bag_that_leaves_the_default_in_an_empty_one(
    small: tuple[EncodedTable, list[list[int]], int], data: st.DataObject
) -> None:
    table, bags, _ = small
    batch = features.bags_of(table, torch.arange(table.rows))
    size = len(table.codes)
    keep = data.draw(st.lists(st.booleans(), min_size=size, max_size=size))
    before = (batch.codes.clone(), batch.lengths.clone())
    hidden = features.hide(batch, torch.tensor(keep))
    expected, at = [], 0
    for bag in bags:
        kept = [code for code, stays in zip(bag, keep[at : at + len(bag)], strict=True) if stays]
        expected.append(kept or [0])
        at += len(bag)
    assert lists_of(hidden) == expected
    assert torch.equal(hidden.dense["image"], batch.dense["image"])  # the tower reads the code, not the vector
    for now, then in zip((batch.codes, batch.lengths), before, strict=True):
        assert torch.equal(now, then)  # the input does not change


def test_features_taken_in_another_order_by_hand() -> None:
    """Two rows of three features; select the third, a missing feature, and the first."""
    bags = Bags(torch.tensor([2, 3, 4, 5, 6, 7, 8]), torch.tensor([1, 2, 1, 1, 1, 1]), {})
    found = features.select(bags, 3, [2, None, 0])
    assert found.codes.tolist() == [5, 0, 2, 8, 0, 6]
    assert found.lengths.tolist() == [1] * 6
    assert features.select(bags, 3, [1]).codes.tolist() == [3, 4, 7]
    assert features.select(bags, 3, [1]).lengths.tolist() == [2, 1]
    assert features.select(bags, 3, [0, 1, 2]).codes.tolist() == bags.codes.tolist()


@given(small_tables())
@few
def test_keeping_everything_changes_nothing_and_nothing_leaves_one_default_a_bag(
    small: tuple[EncodedTable, list[list[int]], int],
) -> None:
    table, bags, _ = small
    batch = features.bags_of(table, torch.arange(table.rows))
    assert lists_of(features.hide(batch, torch.ones(len(batch.codes), dtype=torch.bool))) == bags
    assert lists_of(features.hide(batch, torch.zeros(len(batch.codes), dtype=torch.bool))) == [[0]] * len(bags)


@given(small_tables(), st.data())
@few
def test_rows_cut_out_of_a_table_have_the_bags_that_they_had(
    small: tuple[EncodedTable, list[list[int]], int], data: st.DataObject
) -> None:
    table, bags, k = small
    low = data.draw(st.integers(0, table.rows))
    high = data.draw(st.integers(low, table.rows))
    cut = features.rows_of(table, low, high)
    assert cut.rows == high - low
    assert lists_of(features.bags_of(cut, torch.arange(cut.rows))) == bags[low * k : high * k]
    assert torch.equal(cut.dense["image"], table.dense["image"][low:high])


# --- ranges ---


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 4)), max_size=6))
@few
def test_ranges_are_pythons_ranges_one_after_the_other(pairs: list[tuple[int, int]]) -> None:
    starts = torch.tensor([start for start, _ in pairs], dtype=torch.int64)
    lengths = torch.tensor([length for _, length in pairs], dtype=torch.int64)
    expected = [number for start, length in pairs for number in range(start, start + length)]
    assert concatenated_ranges(starts, lengths).tolist() == expected


def test_a_vector_that_is_no_number_and_declared_missing_is_zeros_for_the_towers() -> None:
    """The code 0 cannot mask NaN: 0 times NaN is NaN."""
    vectors = pl.Series([[1.0, 2.0], [float("nan"), 1.0], [float("inf"), 0.0], None], dtype=pl.Array(pl.Float32, 2))
    frame = pl.DataFrame({"image": vectors, "image__code": pl.Series([1, 0, 0, 0], dtype=pl.Int32)})
    described = pl.DataFrame({"feature": ["image"], "kind": ["dense"], "vocabulary": ["image"], "width": [2]})
    assert features.encoded_table(frame, described).dense["image"].tolist() == [
        [1.0, 2.0],
        [0.0, 0.0],
        [0.0, 0.0],
        [0.0, 0.0],
    ]
