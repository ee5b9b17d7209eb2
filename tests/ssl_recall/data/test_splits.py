from collections import Counter

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssl_recall.data import splits

few = settings(max_examples=60, deadline=None)


def by_time(times: list[int], validation: float, test: float) -> list[str]:
    return [splits.SIDES[place] for place in splits.by_time(pl.Series("timestamp", times), validation, test)]


def by_hash(frame: pl.DataFrame, *settings: float) -> list[str]:
    """Number the ids, split by hash, and return the names of the sides."""
    ids = [frame[name].unique().sort() for name in ("query_id", "item_id")]
    rows = [
        np.searchsorted(own.to_numpy(), frame[own.name].to_numpy()).astype(np.int32)
        if own.dtype.is_integer()
        else frame[own.name].replace_strict(own, pl.int_range(len(own), eager=True), return_dtype=pl.Int32).to_numpy()
        for own in ids
    ]
    return [splits.SIDES[place] for place in splits.by_hash(ids[0], ids[1], (rows[0], rows[1]), *settings)]  # type: ignore[arg-type]


def test_the_newest_are_held_out_by_hand() -> None:
    side = by_time([5, 1, 2, 9, 3, 4, 8, 6, 7, 10], 0.2, 0.2)
    assert dict(zip([5, 1, 2, 9, 3, 4, 8, 6, 7, 10], side, strict=True)) == (
        dict.fromkeys(range(1, 7), "train") | dict.fromkeys((7, 8), "validation") | dict.fromkeys((9, 10), "test")
    )


def test_both_shares_are_of_all_rows() -> None:
    assert Counter(by_time(list(range(100)), 0.2, 0.4)) == {"train": 40, "validation": 20, "test": 40}


@given(st.lists(st.integers(0, 30), min_size=2, max_size=60), st.floats(0.0, 0.4), st.floats(0.0, 0.4))
@few
def test_no_future_is_on_an_earlier_side(times: list[int], validation: float, test: float) -> None:
    try:
        side = by_time(times, validation, test)
    except ValueError:
        return
    of = {name: [t for t, s in zip(times, side, strict=True) if s == name] for name in ("train", "validation", "test")}
    later = of["validation"] + of["test"]
    assert not (of["train"] and later) or max(of["train"]) < min(later)
    assert not (of["validation"] and of["test"]) or max(of["validation"]) < min(of["test"])
    assert bool(of["test"]) == (test > 0 and round(len(times) * (1 - test)) <= len(times))


def test_rows_of_one_instant_stay_together() -> None:
    side = by_time([1] * 6 + [2] * 6 + [3] * 6, 0.2, 0.2)
    assert side == ["train"] * 6 + ["validation"] * 6 + ["test"] * 6


def test_one_instant_cannot_be_cut() -> None:
    with pytest.raises(ValueError, match="no instant to cut"):
        by_time([4] * 10, 0.1, 0.1)


def pairs(rows: int) -> pl.DataFrame:
    return pl.DataFrame(
        {"query_id": [f"q{n % 700}" for n in range(rows)], "item_id": [f"i{n // 7}" for n in range(rows)]}
    )


def test_the_hash_keeps_each_pair_on_its_side_whatever_the_order() -> None:
    frame = pairs(5000).with_columns(side=pl.Series(by_hash(pairs(5000), 0.1, 0.2, 1)))
    shuffled = frame.sample(fraction=1, shuffle=True, seed=4)
    assert by_hash(shuffled, 0.1, 0.2, 1) == shuffled["side"].to_list()
    assert by_hash(frame.head(100), 0.1, 0.2, 1) == frame["side"].head(100).to_list()


def test_what_is_thinned_depends_on_neither_side_nor_order() -> None:
    frame = pairs(5000)
    ids = [frame[name].unique().sort() for name in ("query_id", "item_id")]
    rows = [np.searchsorted(own.to_numpy(), frame[own.name].to_numpy()).astype(np.int32) for own in ids]
    kept = splits.thinned(ids[0], ids[1], (rows[0], rows[1]), 0.3, 1)
    assert kept.mean() == pytest.approx(0.3, abs=0.026)  # four standard errors
    other_way = splits.thinned(ids[0], ids[1], (rows[0][::-1], rows[1][::-1]), 0.3, 1)
    assert np.array_equal(other_way[::-1], kept)
    assert not np.array_equal(splits.thinned(ids[0], ids[1], (rows[0], rows[1]), 0.3, 2), kept)
    side = splits.by_hash(ids[0], ids[1], (rows[0], rows[1]), 0.3, 0.3, 1)
    assert [kept[side == number].mean() for number in range(3)] == pytest.approx([0.3] * 3, abs=0.05)


def test_the_shares_are_about_those_asked_for() -> None:
    counts = Counter(by_hash(pairs(20_000), 0.1, 0.2, 3))
    assert counts["test"] == pytest.approx(4000, abs=230)  # four standard errors
    assert counts["validation"] == pytest.approx(2000, abs=170)


def test_another_seed_is_another_split_and_a_number_is_not_its_text() -> None:
    frame = pairs(2000)
    one = by_hash(frame, 0.3, 0.3, 1)
    assert one != by_hash(frame, 0.3, 0.3, 2)
    numbers = pl.DataFrame({"query_id": range(2000), "item_id": range(2000)})
    texts = numbers.cast(pl.String)
    assert by_hash(numbers, 0.3, 0.3, 1) != by_hash(texts, 0.3, 0.3, 1)
    narrow = numbers.cast(pl.Int16)
    assert by_hash(narrow, 0.3, 0.3, 1) == by_hash(numbers, 0.3, 0.3, 1)


def test_the_hash_is_for_ever() -> None:
    """A split that changed between versions would put old test pairs into new training data."""
    side = by_hash(pairs(12), 0.3, 0.3, 1)
    assert "".join(name[:2] for name in side) == "trvatetrtrvatrvatevateva"
