"""prepare on small real tables: nothing is lost, ids come back byte for byte, and no future leaks."""

import datetime
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from stages.prepare import WRITES
from stages.terminal.errors import InputError

Prepared = Callable[..., dict[str, pl.DataFrame]]
PARTS = ("train", "validation", "test")
CATALOGUE = pl.DataFrame(
    {
        "item_id": ["a", "b", "c", "d"],
        "colour": ["red", "blue", "red", None],
        "tags": [["x", "y", "x"], [], None, [None]],
        "price": [1.0, 2.0, 3.0, None],
    }
)
LOG = pl.DataFrame({"query_id": ["u", "u", "v", "v", "w"], "item_id": ["b", "a", "a", "c", "a"]})


def kept(found: dict[str, pl.DataFrame]) -> pl.DataFrame:
    return pl.concat([found[part] for part in PARTS])


def words(found: dict[str, pl.DataFrame], name: str) -> dict[str, int]:
    return dict(found["vocabulary"].filter(vocabulary=name).select("value", "code").iter_rows())


def test_small_tables_by_hand(prepared: Prepared, capsys: pytest.CaptureFixture[str]) -> None:
    found = prepared(LOG, CATALOGUE, validation_share=0.0, test_share=0.0, buckets=2, query_id="query_id")
    assert found["items"].drop("tags", "price").to_dict(as_series=False) == {
        "item_id": ["a", "b", "c", "d"],
        "item_id__code": [2, 3, 4, 0],  # a is taken three times, b and c once, d never
        "colour": ["red", "blue", "red", None],
        "colour__code": [2, 3, 2, 0],
        "tags__code": [[2, 3], [], [], []],
        "price__code": [2, 3, 3, 0],  # the cut is 2, where the upper bucket begins
    }
    assert found["items"]["tags"].to_list() == [["x", "y", "x"], [], None, [None]]
    assert found["queries"].rows() == [("u", 2), ("v", 3), ("w", 4)]
    assert found["features"].rows() == [
        ("item", "item_id", "id", "item_id", 5, 0, 0.25),
        ("item", "colour", "categorical", "colour", 4, 0, 0.25),
        ("item", "tags", "multi-valued", "tags", 4, 0, 0.75),
        ("item", "price", "numeric", "price", 4, 0, 0.25),
        ("query", "query_id", "id", "query_id", 5, 0, 0.0),
    ]
    assert found["train"].rows() == [
        ("u", "a", 0, 0),
        ("u", "b", 0, 1),
        ("v", "a", 1, 0),
        ("v", "c", 1, 2),
        ("w", "a", 2, 0),
    ]
    assert found["vocabulary"].filter(vocabulary="item_id").select("value", "count").rows() == [
        ("a", 3),
        ("b", 1),
        ("c", 1),
    ]
    output = capsys.readouterr()
    assert "4 items, 3 queries; split by a hash of the pair: 5 train, 0 validation, 0 test" in output.err
    assert not output.out


def test_the_least_weight_itself_is_kept(prepared: Prepared) -> None:
    log = pl.DataFrame({"query_id": ["u", "u", "v"], "item_id": ["a", "b", "c"], "stars": [4.0, 3.9, 4.1]})
    found = prepared(log, CATALOGUE, weight="stars", min_weight=4.0, validation_share=0.0, test_share=0.0)
    assert found["train"]["item_id"].to_list() == ["a", "c"]


def test_every_interaction_is_kept_set_aside_merged_or_below_the_least_weight(
    prepared: Prepared, capsys: pytest.CaptureFixture[str]
) -> None:
    draw = random.Random(1)
    rows = [
        (draw.choice("uvwxy"), draw.choice("abcdz"), draw.choice([None, *range(1, 9)]), draw.choice([None, 1.0, 4.0]))
        for _ in range(300)
    ]
    log = pl.DataFrame(rows, schema=["query_id", "item_id", "at", "stars"], orient="row")
    settings: dict[str, Any] = {"timestamp": "at", "null_timestamp": "quarantine", "weight": "stars"}
    found = prepared(log, CATALOGUE, **settings, min_weight=2.0)

    below = [row for row in rows if row[3] == 1.0]
    reasons = [
        "item not in the catalogue" if row[1] == "z" else "no time" if row[2] is None else "no weight"
        for row in rows
        if row not in below and (row[1] == "z" or None in row)
    ]
    good = [row for row in rows if row[1] != "z" and None not in row and row[3] >= 2]
    pairs = {row[:2]: min(r[2] for r in good if r[:2] == row[:2]) for row in good}
    assert len(pairs) < len(good)
    assert {row[:2]: row[4] for row in kept(found).rows()} == pairs  # each pair once, at its earliest time
    assert kept(found).height == len(pairs)
    assert sorted(found["quarantine"]["reason"]) == sorted(reasons)
    assert len(below) + len(reasons) + (len(good) - len(pairs)) + len(pairs) == len(rows)
    errors = capsys.readouterr().err
    assert f"{len(good) - len(pairs):,} interactions repeat a pair of query and item; the earliest is kept" in errors
    assert f"{len(below):,} below --min-weight" in errors
    assert f"{reasons.count('no time'):,} interactions set aside" in errors


def test_a_repeated_pair_keeps_its_earliest_time_and_largest_weight(prepared: Prepared) -> None:
    log = pl.DataFrame(
        {"query_id": ["u"] * 4, "item_id": ["a", "a", "a", "b"], "t": [3, 1, 2, 9], "w": [1.0, 2.0, 5.0, 1.0]}
    )
    found = prepared(log, CATALOGUE, timestamp="t", weight="w", validation_share=0.0)
    assert found["train"].select("item_id", "timestamp", "weight").rows() == [("a", 1, 5.0)]
    assert found["test"].select("item_id", "timestamp", "weight").rows() == [("b", 9, 1.0)]
    assert found["train"].schema["weight"] == pl.Float32


ODD_IDS = [
    "e\u0301",
    "\u00e9",
    "a\u200b",
    "a",
    "\u202eabc",
    "\u05d0\u05d1",
    "two\nlines",
    "nul\0within",
    "nul",
    "../x",
    " a",
    "a ",
    "A",
    "\U0001f600",
    "[red]b[/]",
    "1",
    "01",
]


def test_odd_ids_come_back_byte_for_byte_and_name_no_file(tmp_path: Path, prepared: Prepared) -> None:
    items = pl.DataFrame({"item_id": ODD_IDS, "colour": ODD_IDS})
    log = pl.DataFrame({"query_id": ODD_IDS * 2, "item_id": ODD_IDS + ODD_IDS[::-1]})
    found = prepared(log, items, queries_are_items=False)
    expected = sorted(ODD_IDS, key=str.encode)
    for table, column in (("items", "item_id"), ("items", "colour"), ("queries", "query_id")):
        assert [text.encode() for text in found[table][column]] == [text.encode() for text in expected]
    assert found["items"]["colour__code"].n_unique() == len(ODD_IDS)  # no two of them are one value
    pairs = {(q.encode(), i.encode()) for q, i in log.unique().iter_rows()}
    assert {(row[0].encode(), row[1].encode()) for row in kept(found).rows()} == pairs
    for row in kept(found).iter_rows(named=True):
        assert (expected[row["query_index"]], expected[row["item_index"]]) == (row["query_id"], row["item_id"])
    assert {path.name for path in (tmp_path / "run").iterdir()} == {*WRITES, "manifest.json", ".lock"}


@pytest.mark.parametrize("dtype", [pl.Int8, pl.Int32, pl.Int64, pl.UInt32, pl.UInt64], ids=str)
def test_whole_numbers_stay_ids_of_their_type(prepared: Prepared, dtype: Any) -> None:
    ids = pl.Series([3, 1, 2], dtype=dtype)
    if dtype == pl.Int64:
        ids = pl.Series([2**53 + 1, 2**53, -5])  # a float64 would merge two of them
    if dtype == pl.UInt64:
        ids = pl.Series([2**64 - 1, 2**64 - 2, 0], dtype=dtype)
    log = pl.DataFrame({"query_id": ids.reverse(), "item_id": ids})
    found = prepared(log, pl.DataFrame({"item_id": ids}), queries_are_items=False, test_share=0.0)
    assert found["items"]["item_id"].to_list() == sorted(ids)
    assert found["queries"]["query_id"].to_list() == sorted(ids)
    assert {found[name].schema["item_id"] for name in ("items", *PARTS, "quarantine")} == {dtype}
    assert set(kept(found).select("query_id", "item_id").iter_rows()) == set(log.iter_rows())


def test_whole_numbers_of_two_widths_are_one_id_of_the_catalogues_type(prepared: Prepared) -> None:
    items = pl.DataFrame({"item_id": pl.Series([1, 2, 3], dtype=pl.Int64)})
    log = pl.DataFrame({"query_id": ["u", "v", "w"], "item_id": pl.Series([1, 2, 3], dtype=pl.Int16)})
    assert kept(prepared(log, items)).schema["item_id"] == pl.Int64


def test_the_id_columns_may_have_names_of_their_own(prepared: Prepared) -> None:
    log = LOG.rename({"query_id": "user", "item_id": "film"})
    found = prepared(log, CATALOGUE.rename({"item_id": "film"}), query_id="user", item_id="film")
    assert found["items"].columns[:2] == ["item_id", "item_id__code"]
    assert kept(found).height == 5


def test_a_split_by_time_trains_on_no_future(prepared: Prepared) -> None:
    draw = random.Random(2)
    log = pl.DataFrame(
        {
            "query_id": [f"u{draw.randrange(40)}" for _ in range(500)],
            "item_id": [draw.choice("abc") for _ in range(500)],
            "t": [draw.randrange(60) for _ in range(500)],
        }
    )
    future = pl.DataFrame({"query_id": ["late"] * 3, "item_id": ["d", "a", "b"], "t": [10**6] * 3})
    found = prepared(pl.concat([log, future]), CATALOGUE, timestamp="t")
    train, validation, test = (found[part]["timestamp"] for part in PARTS)
    assert train.max() < validation.min() <= validation.max() < test.min()
    assert {"late"}.isdisjoint(found["train"]["query_id"])
    # d and the query "late" are only in the future: neither has a vector of its own, and no count speaks of them
    assert set(words(found, "item_id")) == {"a", "b", "c"}
    assert found["items"]["item_id__code"].to_list()[3] == 0
    assert "late" not in words(found, "query_id")
    assert found["queries"].filter(query_id="late")["query_id__code"].to_list() == [0]
    counts = dict(found["vocabulary"].filter(vocabulary="item_id").select("value", "count").iter_rows())
    assert counts == dict(found["train"].group_by("item_id").len().iter_rows())


@pytest.mark.parametrize(
    "times",
    [
        pl.Series([10, 20, 30, 40, 50], dtype=pl.Int32),
        pl.Series([1_600_000_000 + i for i in range(5)], dtype=pl.Int32),  # seconds fit in an int32
        pl.Series([1_600_000_000 + i for i in range(5)], dtype=pl.UInt32),
        pl.Series([1_600_000_000 + i for i in range(5)], dtype=pl.UInt64),
        pl.Series([1_600_000_000_000_000_000 + i for i in range(5)]),
        pl.Series([datetime.date(2020, 1, 1 + i) for i in range(5)]),
        pl.Series([datetime.datetime(2020, 1, 1, i) for i in range(5)], dtype=pl.Datetime("ns")),
        pl.Series([datetime.datetime(2020, 1, 1, i) for i in range(5)], dtype=pl.Datetime("ms", "UTC")),
        pl.Series([datetime.datetime(2020, 1, 1, i) for i in range(5)], dtype=pl.Datetime("us", "Asia/Tokyo")),
    ],
    ids=lambda times: str(times.dtype),
)
def test_times_of_any_type_split_and_come_back_as_they_were(prepared: Prepared, times: pl.Series) -> None:
    found = prepared(LOG.with_columns(t=times), CATALOGUE, timestamp="t")
    assert [found[part]["timestamp"].to_list() for part in PARTS] == [
        sorted(times[:3].to_list()),
        [times[3]],
        [times[4]],
    ]
    assert found["train"].schema["timestamp"] == times.dtype


@pytest.mark.parametrize("timed", [True, False])
def test_the_order_of_the_rows_and_files_changes_no_byte(tmp_path: Path, prepared: Prepared, timed: bool) -> None:
    draw = random.Random(3)
    rows = [(f"u{draw.randrange(30)}", draw.choice("abcdz"), draw.randrange(50)) for _ in range(200)]
    log = pl.DataFrame(rows, schema=["query_id", "item_id", "t"], orient="row")
    settings: dict[str, Any] = {"timestamp": "t"} if timed else {"seed": 4}
    prepared(log, CATALOGUE, **settings, folder="one")
    prepared(log.sample(fraction=1, shuffle=True, seed=5), CATALOGUE.reverse(), **settings, folder="two")
    for name in WRITES:
        assert (tmp_path / "one/run" / name).read_bytes() == (tmp_path / "two/run" / name).read_bytes(), name


def test_another_seed_splits_by_hash_another_way(prepared: Prepared) -> None:
    log = pl.DataFrame({"query_id": [f"u{n}" for n in range(200)], "item_id": ["a"] * 200})
    one, two = (prepared(log, CATALOGUE, seed=seed, folder=str(seed)) for seed in (1, 2))
    assert not one["test"].equals(two["test"])
    assert kept(one).sort("query_id").equals(kept(two).sort("query_id"))


@pytest.mark.parametrize("timed", [True, False])
def test_a_fraction_of_the_training_data_leaves_what_is_held_out_alone(prepared: Prepared, timed: bool) -> None:
    log = pl.DataFrame({"query_id": [f"u{n}" for n in range(600)], "item_id": list("abc") * 200, "t": range(600)})
    settings: dict[str, Any] = {"timestamp": "t"} if timed else {}
    found = {
        share: prepared(log, CATALOGUE, **settings, train_fraction=share, folder=str(share))
        for share in (0.2, 0.5, 1.0)
    }
    for name in ("validation", "test"):
        ids = [one[name].select("query_id", "item_id").sort("query_id") for one in found.values()]
        assert ids[0].equals(ids[1])
        assert ids[0].equals(ids[2])
    train = [set(one["train"]["query_id"]) for one in found.values()]
    assert train[0] < train[1] < train[2]
    assert len(train[0]) == pytest.approx(0.2 * len(train[2]), abs=35)  # four standard errors
    words_of = found[0.2]["vocabulary"].filter(pl.col("vocabulary") == "query_id")["value"]
    assert set(words_of) == train[0]  # an id that is left out earns no vector
    assert found[0.2]["quarantine"].is_empty()


def test_another_seed_leaves_others_out(prepared: Prepared) -> None:
    log = pl.DataFrame({"query_id": [f"u{n}" for n in range(100)], "item_id": list("abcd") * 25, "t": range(100)})
    one, two = (
        prepared(log, CATALOGUE, timestamp="t", train_fraction=0.5, seed=seed, folder=str(seed)) for seed in (1, 2)
    )
    assert set(one["train"]["query_id"]) != set(two["train"]["query_id"])


def test_a_fraction_that_leaves_nothing_to_train_on_is_refused(prepared: Prepared) -> None:
    with pytest.raises(InputError, match="no interactions are left to train on"):
        prepared(LOG, CATALOGUE, train_fraction=0.0)


def test_interactions_change_no_vocabulary_but_the_ids(prepared: Prepared) -> None:
    one = prepared(LOG, CATALOGUE, test_share=0.0, folder="one")
    two = prepared(LOG.head(1), CATALOGUE, folder="two", test_share=0.0, validation_share=0.0)
    own = ~pl.col("vocabulary").is_in(["item_id", "query_id"])
    assert one["vocabulary"].filter(own).equals(two["vocabulary"].filter(own))
    assert one["items"].drop("item_id__code").equals(two["items"].drop("item_id__code"))
    assert words(two, "item_id") == {"b": 2}


def test_an_id_earns_its_vector_by_enough_training_interactions(prepared: Prepared) -> None:
    found = prepared(LOG, CATALOGUE, id_min_count=2, validation_share=0.0, test_share=0.0)
    assert words(found, "item_id") == {"a": 2}
    assert found["items"]["item_id__code"].to_list() == [2, 0, 0, 0]
    assert words(found, "query_id") == {"u": 2, "v": 3}


def test_a_weight_just_below_the_least_is_not_rounded_up(prepared: Prepared) -> None:
    log = pl.DataFrame({"query_id": ["u", "u", "v"], "item_id": ["a", "b", "c"], "stars": [0.69999999, 0.7, 0.8]})
    found = prepared(log, CATALOGUE, weight="stars", min_weight=0.7, validation_share=0.0, test_share=0.0)
    assert found["train"]["item_id"].to_list() == ["b", "c"]


def test_a_column_may_be_named_like_a_pattern(prepared: Prepared) -> None:
    items = CATALOGUE.with_columns(pl.Series("*", ["x", "y", "x", "y"]), pl.Series("^.*$", ["x", "x", "y", "y"]))
    log = pl.DataFrame({"query_id": ["u", "u", "v"], "item_id": ["a", "b", "c"]})
    found = prepared(log, items, validation_share=0.0, test_share=0.0)
    assert {"*", "^.*$"} <= set(found["features"]["feature"])
