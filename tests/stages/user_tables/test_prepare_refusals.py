"""prepare refuses bad tables before it writes: with the rule, the exit code, the place and the way out."""

import datetime
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from stages.terminal.errors import InputError, SettingsError

from ...jobs import prepare

Prepared = Callable[..., dict[str, pl.DataFrame]]
ITEMS = pl.DataFrame({"item_id": ["a", "b", "c", "d"], "colour": ["red", "blue", "red", None]})
LOG = pl.DataFrame({"query_id": ["u", "u", "v", "v", "w"], "item_id": ["b", "a", "a", "c", "a"]})
MEND = "(the first is 0); remove these rows or give them an id"
NAN, INF = float("nan"), float("inf")


@pytest.fixture
def refused(tmp_path: Path, prepared: Prepared) -> Callable[..., str]:
    """Prepare these tables, check that nothing is written, and return the one-line message."""

    def call(
        log: pl.DataFrame = LOG,
        items: pl.DataFrame = ITEMS,
        queries: pl.DataFrame | None = None,
        kind: type[Exception] = InputError,
        **settings: Any,
    ) -> str:
        with pytest.raises(kind) as caught:
            prepared(log, items, queries, **settings)
        assert caught.value.code == {InputError: 3, SettingsError: 2}[kind]  # type: ignore[attr-defined]
        assert str(caught.value).startswith(f"{caught.value.rule}: ")  # type: ignore[attr-defined]
        assert not (tmp_path / "run").exists()
        return str(caught.value)

    return call


Refused = Callable[..., str]


def test_ids_given_twice_are_counted_with_five_examples(tmp_path: Path, refused: Refused) -> None:
    items = pl.DataFrame({"item_id": [f"i{n % 7}" for n in range(10)] + ["x"] * 3 + [f"y{n // 2}" for n in range(6)]})
    assert refused(items=items) == (
        f"DUP_ITEM_ID: --items {tmp_path}/items.parquet: 7 of the item_id stand in several rows, "
        "such as ['i0', 'i1', 'i2', 'x', 'y0']; keep one row of each"
    )


def test_queries_given_twice_are_refused(refused: Refused) -> None:
    queries = pl.DataFrame({"query_id": ["u", "v", "w", "u"]})
    assert refused(queries=queries).startswith("DUP_QUERY_ID: --queries ")


@pytest.mark.parametrize("at", [0, 3, 8])
@pytest.mark.parametrize("blank", ["", " ", "\t\n", "\u00a0"])
@pytest.mark.parametrize("table", ["items", "log"])
def test_a_blank_id_is_refused_with_its_row(refused: Refused, at: int, blank: str, table: str) -> None:
    ids = [blank if n == at else f"i{n}" for n in range(9)]
    found = (
        refused(items=pl.DataFrame({"item_id": ids}))
        if table == "items"
        else refused(log=pl.DataFrame({"query_id": ids, "item_id": ["a"] * 9}))
    )
    column = "item_id" if table == "items" else "query_id"
    assert found.startswith("EMPTY_ID: ")
    assert found.endswith(f": {column} is empty or blank in 1 rows, such as [{at}] {MEND}")


@pytest.mark.parametrize("at", [0, 3, 8])
@pytest.mark.parametrize("dtype", [pl.String, pl.Int64])
def test_a_null_id_is_refused_with_its_row(refused: Refused, at: int, dtype: Any) -> None:
    ids = pl.Series([None if n == at else n for n in range(9)]).cast(dtype)
    assert refused(items=pl.DataFrame({"item_id": ids})).endswith(f"item_id is null in 1 rows, such as [{at}] {MEND}")
    log = pl.DataFrame({"query_id": ids, "item_id": ["a"] * 9})
    assert refused(log=log, queries_are_items=False).endswith(f": query_id is null in 1 rows, such as [{at}] {MEND}")


def test_of_many_rows_the_first_ones_and_the_last_are_named(refused: Refused) -> None:
    log = pl.DataFrame({"query_id": [None] * 20, "item_id": ["a"] * 20}, schema_overrides={"query_id": pl.String})
    assert "query_id is null in 20 rows, such as [0, 1, 2, 3, 19]" in refused(log)


@pytest.mark.parametrize(
    ("log_ids", "item_ids", "types"),
    [
        (pl.Series(["1", "2"]), pl.Series([1, 2]), "String in the interactions but Int64 in the items"),
        (pl.Series([1, 2]), pl.Series(["01", "02"]), "Int64 in the interactions but String in the items"),
        (
            pl.Series([1, 2**63], dtype=pl.UInt64),
            pl.Series([1, 2]),
            "UInt64 in the interactions but Int64 in the items",
        ),
        (pl.Series([1.0, 2.0]), pl.Series([1, 2]), "Float64; ids are text or integers (see --item-id)"),
        (pl.Series([1, 2]), pl.Series([1.0, 2.0**53]), "Float64; ids are text or integers (see --item-id)"),
        (pl.Series([True, False]), pl.Series([1, 2]), "Boolean; ids are text or integers (see --item-id)"),
        (pl.Series([["a"]] * 2), pl.Series(["a", "b"]), "List(String); ids are text or integers (see --item-id)"),
    ],
)
def test_ids_of_two_types_are_not_compared(
    refused: Refused, log_ids: pl.Series, item_ids: pl.Series, types: str
) -> None:
    message = refused(pl.DataFrame({"query_id": ["u", "v"], "item_id": log_ids}), pl.DataFrame({"item_id": item_ids}))
    assert message.startswith("ID_TYPES: ")
    assert types in message


def test_queries_of_two_types_are_not_compared(refused: Refused) -> None:
    message = refused(queries=pl.DataFrame({"query_id": [1, 2]}))
    assert "query_id is of type String in the interactions but Int64 in the queries; write both" in message
    log = LOG.with_columns(query_id=pl.Series([1, 2, 3, 4, 5]))
    assert "but String in the items" in refused(log, queries_are_items=True)


def foreign(share: float) -> pl.DataFrame:
    return pl.DataFrame({"query_id": ["u"] * 10, "item_id": [f"z{n}" if n < share * 10 else "a" for n in range(10)]})


def test_more_unknown_items_than_the_limit_are_refused_with_the_flag_that_sets_it(refused: Refused) -> None:
    message = refused(foreign(0.6))
    assert message.startswith("UNKNOWN_ITEMS: --interactions ")
    assert message.endswith(
        ": 60% of 10 rows: 6 item not in the catalogue; are these the same ids? interactions have ['z0', 'z1', 'z2'], "
        "the catalogue ['a', 'b', 'c']; if they are, set the limit with --max-unknown-share (now 0.5)"
    )


def test_half_of_the_items_may_be_unknown_and_more_where_that_is_allowed(prepared: Prepared) -> None:
    settings: dict[str, Any] = {"validation_share": 0.0, "test_share": 0.0}
    assert prepared(foreign(0.5), ITEMS, folder="half", **settings)["quarantine"].height == 5
    assert prepared(foreign(0.6), ITEMS, folder="more", max_unknown_share=0.6, **settings)["quarantine"].height == 6


def test_when_no_item_is_known_the_ids_of_both_tables_are_shown(refused: Refused) -> None:
    assert refused(foreign(1)).endswith(
        "10 item not in the catalogue; are these the same ids? interactions have ['z0', 'z1', 'z2'], "
        "the catalogue ['a', 'b', 'c']"
    )
    everything = refused(foreign(1), max_unknown_share=1.0)
    assert everything == refused(foreign(1))


def test_when_no_query_is_known_the_ids_of_the_queries_are_shown(refused: Refused) -> None:
    message = refused(queries=pl.DataFrame({"query_id": ["U", "V", "W"]}))
    assert message.endswith("interactions have ['u', 'v', 'w'], the queries ['U', 'V', 'W']")


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_numbers_that_are_not_finite_are_refused_or_declared_missing(
    prepared: Prepared, refused: Refused, bad: float
) -> None:
    items = ITEMS.with_columns(
        price=pl.Series([1.0, bad, None, 2.0]),
        curve=pl.Series([[1.0], [2.0], [1.0, bad], []]),
        picture=pl.Series([[0.0, bad], [1.0, 2.0], None, [1.0, 1.0]], dtype=pl.Array(pl.Float32, 2)),
    )
    message = refused(items=items, item_features=["curve=multi-valued"])
    assert message.startswith("NAN_FEATURE: --items ")
    for column, row in (("price", 1), ("curve", 2), ("picture", 0)):
        assert f"column '{column}' holds NaN or infinity in 1 rows (first [{row}]); declare nan=missing" in message
    declared = ["curve=multi-valued,nan=missing", "price=numeric,nan=missing", "picture=dense,nan=missing"]
    found = prepared(LOG, items, item_features=declared, validation_share=0.0, test_share=0.0)["items"]
    assert [code == 0 for code in found["price__code"]] == [False, True, True, False]
    assert found["curve__code"].list.len().to_list() == [1, 1, 0, 0]
    assert found["picture__code"].to_list() == [0, 1, 0, 1]


NOW = int(time.time())


@pytest.mark.parametrize(
    ("times", "message"),
    [
        (pl.Series([1, None, 3, 9, 5]), "t is null in 1 of 5 rows (others from 1 to 9); mend it, or --null-timestamp"),
        (pl.Series([None] * 5, dtype=pl.Int64), "t is null in every row"),
        (pl.Series([10**9, 10**9, 10**12, 10**9, 10**9]), "t mixes seconds and milliseconds: from 1000000000 to 10000"),
        (pl.Series([10**18, 10**15, 10**9, 1, 1]), "t mixes seconds and microseconds and nanoseconds"),
        (pl.Series([NOW + 10**6] * 4 + [NOW]), f"t lies in the future: from {NOW} to {NOW + 10**6}"),
        (pl.Series([NOW + 10**6] * 4 + [NOW], dtype=pl.Int32), "t lies in the future"),
        (pl.Series([(NOW + 10**6) * 1000] * 4 + [NOW * 1000]), "t lies in the future"),
        (pl.Series([datetime.date(2999, 1, 1)] * 5), "t lies in the future: from 2999-01-01 to 2999-01-01"),
        (pl.Series([datetime.datetime(2999, 1, 1)] * 5, dtype=pl.Datetime("us", "UTC")), "t lies in the future"),
        (pl.Series(["yesterday"] * 5), "t is of type String; a time is a date, a datetime or an integer"),
        (pl.Series([1.5] * 5), "t is of type Float64; a time is a date, a datetime or an integer"),
        (pl.Series([7] * 5), "no instant to cut test at: 7 to 7 in 5 rows; without --timestamp the split is by a hash"),
    ],
)
def test_times_that_cannot_be_ordered_are_refused_with_their_span(
    refused: Refused, times: pl.Series, message: str
) -> None:
    found = refused(LOG.with_columns(t=times), timestamp="t")
    assert found.startswith("TIME: ")
    assert message in found


def test_a_log_without_any_time_is_one_problem(refused: Refused) -> None:
    for choice in ("refuse", "quarantine"):
        log = LOG.with_columns(t=pl.lit(None, pl.Int64))
        message = refused(log, timestamp="t", null_timestamp=choice)
        assert "None" not in message
        assert "problems" not in message


@pytest.mark.parametrize("rows", [0, 1])
def test_two_items_are_the_least(refused: Refused, rows: int) -> None:
    message = refused(items=ITEMS.head(rows))
    assert message.startswith("TOO_FEW: ")
    assert message.endswith(f"/items.parquet: {rows} items; at least 2 are needed")


def test_two_items_and_one_query_are_enough(prepared: Prepared) -> None:
    log = pl.DataFrame({"query_id": ["u"], "item_id": ["a"]})
    assert prepared(log, ITEMS.head(2), validation_share=0.0, test_share=0.0)["train"].height == 1


def test_an_empty_log_is_refused(refused: Refused) -> None:
    message = refused(LOG.clear())
    assert message.startswith("TOO_FEW: --interactions ")
    assert message.endswith("interactions.parquet: no rows")
    light = refused(LOG.with_columns(w=1.0), weight="w", min_weight=2.0)
    assert light.endswith("none of 5 rows has a weight of at least 2: w goes from 1.0 to 1.0; lower --min-weight")


def test_a_column_that_is_not_there_is_refused_with_the_nearest(refused: Refused) -> None:
    renamed = LOG.rename({"query_id": "querry_id"})
    assert "no column 'query_id'; did you mean --query-id 'querry_id'?" in refused(renamed)
    assert "no column 'item_id'; did you mean --item-id 'itm_id'?" in refused(items=ITEMS.rename({"item_id": "itm_id"}))
    far = refused(items=ITEMS.select(pl.col("item_id").alias("xyz")))
    assert far.endswith("there are xyz; if the ids have another name in this table, give it with --items-id")
    both = refused(LOG, timestamp="query", weight="item")
    assert "2 problems" in both
    assert "--timestamp 'query_id'" in both
    assert "--weight 'item_id'" in both


def test_a_weight_that_is_no_number_is_refused(refused: Refused) -> None:
    found = refused(LOG.with_columns(w=pl.lit("much")), weight="w")
    assert found.startswith("WEIGHT: ")
    assert found.endswith("w is of type String, no number")


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ("colour", "--item-feature 'colour' is not NAME=KIND"),
        ("color=categorical", "--item-feature: no column 'color'; did you mean 'colour'?"),
        ("nothing=categorical", "--item-feature: no column 'nothing'"),
        ("colour=categorial", "column 'colour' is of no kind 'categorial'; did you mean 'categorical'?"),
        ("colour=id", "column 'colour' is of no kind 'id': categorical, multi-valued, numeric, dense, exclude"),
        ("colour=categorical,mincount=2", "has no option 'mincount'; options: buckets, max_values, min_count"),
        ("colour=categorical,min_count=0", "column 'colour' needs min_count of at least 1, has '0'"),
        ("colour=categorical,min_count=two", "column 'colour' needs min_count of at least 1, has 'two'"),
        ("colour=numeric,nan=drop", "has nan=drop; it can be missing or refuse"),
    ],
)
def test_a_bad_declaration_is_a_mistake_in_the_settings(refused: Refused, declared: str, message: str) -> None:
    found = refused(kind=SettingsError, item_features=[declared])
    assert found.startswith("FEATURE: ")
    assert message in found
    assert "--item-feature" in found


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ("colour=numeric", "column 'colour' is of type String, no number; write numbers, or call it categorical"),
        ("colour=multi-valued", "column 'colour' is of type String, no list; give a separator, or call it categorical"),
        ("colour=dense", "column 'colour' is of type String, no vector"),
    ],
)
def test_a_column_that_is_not_what_it_is_declared_to_be_is_refused(
    refused: Refused, declared: str, message: str
) -> None:
    found = refused(item_features=[declared])
    assert found.startswith("FEATURE: --items ")
    assert message in found


@pytest.mark.parametrize("name", ["colour__code", "query_id", "__code"])
def test_a_column_with_a_name_of_the_artifacts_is_refused_but_can_be_excluded(
    prepared: Prepared, refused: Refused, name: str
) -> None:
    items = ITEMS.with_columns(pl.lit(7).alias(name))
    message = refused(items=items)
    assert message.startswith("COLUMN_NAME: ")
    assert message.endswith(f"column '{name}' has a name that the artifacts use; rename or exclude it")
    found = prepared(LOG, items, item_features=[f"{name}=exclude"])["items"]
    assert found.columns == ["item_id", "item_id__code", "colour", "colour__code"]


def test_every_problem_of_a_table_is_told_at_once(tmp_path: Path, refused: Refused) -> None:
    items = pl.DataFrame(
        {"item_id": ["a", "a", None, " "], "price": [NAN] * 4, "deep": [{"x": 1}] * 4, "vectors": [[[1]]] * 4}
    )
    head, *lines = refused(items=items).splitlines()
    assert head == f"NULL_ID: --items {tmp_path}/items.parquet: 6 problems"
    rules = [line.split(":")[0].strip() for line in lines]
    assert rules == ["NULL_ID", "EMPTY_ID", "DUP_ITEM_ID", "FEATURE", "FEATURE", "NAN_FEATURE"]


def test_settings_that_lack_their_other_half_are_refused(refused: Refused) -> None:
    assert "--min-weight needs --weight" in refused(kind=SettingsError, min_weight=1.0)
    assert "--query-feature needs --queries" in refused(kind=SettingsError, query_features=["age=numeric"])
    assert "--use-query-id" in refused(kind=SettingsError, use_query_id=False)
    assert "leave nothing to train on" in refused(kind=SettingsError, validation_share=0.5, test_share=0.5)


@pytest.mark.parametrize(
    ("content", "message"), [(b"", "cannot be read"), (b"PAR1 is not enough", "cannot be read"), (None, "no Parquet")]
)
def test_a_file_that_is_missing_or_no_table_is_refused(tmp_path: Path, content: bytes | None, message: str) -> None:
    ITEMS.write_parquet(tmp_path / "items.parquet")
    if content is not None:
        (tmp_path / "log.parquet").write_bytes(content)
    with pytest.raises((InputError, SettingsError), match=message):
        prepare(tmp_path / "log.parquet", tmp_path / "items.parquet", run=tmp_path / "run")


def test_files_with_other_columns_are_refused_by_name(tmp_path: Path) -> None:
    ITEMS.write_parquet(tmp_path / "items.parquet")
    (tmp_path / "log").mkdir()
    LOG.write_parquet(tmp_path / "log/1.parquet")
    LOG.with_columns(extra=1).write_parquet(tmp_path / "log/2.parquet")
    with pytest.raises(
        InputError, match=r"UNREADABLE: .*log: extra is of type Int32 in .*2.parquet but missing in .*1"
    ):
        prepare(tmp_path / "log", tmp_path / "items.parquet", run=tmp_path / "run")


def test_a_refusal_leaves_an_earlier_run_as_it_was(tmp_path: Path, prepared: Prepared) -> None:
    prepared(LOG, ITEMS)
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir() if path.name != ".lock"}
    with pytest.raises(InputError, match="DUP_ITEM_ID"):
        prepared(LOG, pl.concat([ITEMS, ITEMS]))
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir() if path.name != ".lock"} == before


def test_one_column_is_no_query_and_item(refused: Refused) -> None:
    message = refused(kind=SettingsError, query_id="item_id")
    assert message == "SAME_COLUMN: --query-id and --item-id are one column, 'item_id'"


def test_a_column_without_a_name_is_to_be_excluded(refused: Refused, prepared: Prepared) -> None:
    items = ITEMS.with_columns(pl.Series("", [1, 2, 3, 4]))
    assert "COLUMN_NAME: " in refused(items=items)
    assert refused(items=items).endswith("column '' has no name; rename or exclude it")
    found = prepared(LOG, items, item_features=["=exclude"])
    assert found["features"]["feature"].to_list()[:2] == ["item_id", "colour"]
