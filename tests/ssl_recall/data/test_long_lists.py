"""Long lists keep the rarest values that repeat: by hand, against a slow version, in blocks."""

from collections import Counter

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssl_recall.data import vocabularies
from ssl_recall.data.codes import Kind
from ssl_recall.data.long_lists import most_telling, without_unused
from ssl_recall.data.vocabularies import Column, vocabulary

Lists = list[list[str] | None]

catalogues = st.lists(st.none() | st.lists(st.sampled_from("abcdefghij"), min_size=1, max_size=8, unique=True))


def column(lists: Lists) -> pl.Series:
    return pl.Series("tags", lists, dtype=pl.List(pl.String))


def words(lists: Lists, min_count: int = 1) -> pl.DataFrame:
    return vocabulary("tags", column(lists), Column("tags", Kind.MULTI_VALUED, min_count=min_count))


def slowly(lists: Lists, size: int, counts: dict[str, int]) -> Lists:
    """Sort the places of each list by tier, count and place, and keep the first ones in the order of the list."""

    def key(values: list[str], place: int) -> tuple[int, int, int]:
        count = counts.get(values[place], 0)
        return (0, count, place) if count >= 2 else (2 - count, 0, place)

    kept: Lists = []
    for values in lists:
        if values is None:
            kept.append(None)
            continue
        best = sorted(range(len(values)), key=lambda place, values=values: key(values, place))[:size]  # type: ignore[misc]
        kept.append([values[place] for place in sorted(best)])
    return kept


def test_a_small_column_by_hand() -> None:
    lists: Lists = [
        ["common", "once", "pair", "trio"],
        ["common", "pair", "trio"],
        None,
        ["common", "trio"],
        ["lonely", "alone", "single"],
    ]
    counted = words(lists)
    assert counted.select("value", "count").rows()[:3] == [("common", 3), ("trio", 3), ("pair", 2)]
    kept, cut = most_telling(column(lists), 2, counted)
    # common and trio both occur in three rows: the first in the list is kept; values that occur once come last
    assert kept.to_list() == [["common", "pair"], ["common", "pair"], None, ["common", "trio"], ["lonely", "alone"]]
    assert (cut, kept.name, kept.dtype) == (3, "tags", pl.List(pl.String))
    kept, cut = most_telling(column(lists), 3, counted)
    assert kept.to_list()[0] == ["common", "pair", "trio"]
    assert cut == 1
    assert most_telling(column(lists), 4, counted)[0].to_list() == lists


def test_a_value_of_one_row_comes_before_one_outside_the_vocabulary() -> None:
    counted = words([["a", "b", "c"], ["a", "b"], ["a"]])
    found = [["new", "c", "a"], ["new", "newer", "c"], ["a", "b", "c"]]
    assert most_telling(column(found), 2, counted)[0].to_list() == [["c", "a"], ["new", "c"], ["a", "b"]]
    assert most_telling(column(found), 1, counted)[0].to_list() == [["a"], ["c"], ["b"]]


def test_the_vocabulary_loses_the_values_that_no_list_keeps_and_keeps_its_counts() -> None:
    lists: Lists = [["a", "b", "x"], ["a", "b", "y"], ["a", "c", "z"], ["c"]]
    counted = words(lists)
    kept, _ = most_telling(column(lists), 2, counted)
    assert kept.to_list() == [["a", "b"], ["a", "b"], ["a", "c"], ["c"]]
    left = without_unused(counted, kept)
    assert left.select("code", "value", "count").rows() == [(2, "a", 3), (3, "b", 2), (4, "c", 2)]
    assert left.schema == counted.schema
    assert without_unused(counted, column([None])).height == 0
    assert without_unused(counted.clear(), kept).height == 0


@given(catalogues, st.integers(1, 6), st.integers(1, 3))
@settings(deadline=None)
def test_the_kept_values_are_those_of_the_slow_version(lists: Lists, size: int, min_count: int) -> None:
    counts = Counter(value for values in lists for value in values or [])
    counted = words(lists, min_count)
    known = {value: count for value, count in counts.items() if count >= min_count}
    assert dict(counted.select("value", "count").iter_rows()) == known
    kept, cut = most_telling(column(lists), size, counted)
    assert kept.to_list() == slowly(lists, size, known)
    assert cut == sum(len(values or []) > size for values in lists)
    # what serves a new item, the vocabulary without the values that every list lost, keeps the same
    assert most_telling(column(lists), size, without_unused(counted, kept))[0].equals(kept, null_equal=True)


@pytest.mark.parametrize("block", [1, 2, 3, 7, 100])
@given(lists=catalogues, size=st.integers(1, 3))
@settings(deadline=None, max_examples=30)
def test_blocks_of_any_size_give_the_same(block: int, lists: Lists, size: int) -> None:
    counted = words(lists)
    expected = most_telling(column(lists), size, counted)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vocabularies, "BLOCK", block)
        parts = list(vocabularies.blocks(column(lists)))
        assert pl.concat(parts).equals(column(lists), null_equal=True)
        assert all((part.list.len().sum() or 0) <= block + 8 for part in parts)  # 8: the longest list
        assert words(lists).equals(counted)
        found = most_telling(column(lists), size, counted)
        assert without_unused(counted, found[0]).equals(without_unused(counted, expected[0]))
    assert (found[0].to_list(), found[1]) == (expected[0].to_list(), expected[1])
