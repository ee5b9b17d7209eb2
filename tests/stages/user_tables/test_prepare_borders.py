"""prepare writes the same tables with blocks of any size; it handles odd tables and folders."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from stages import prepare as module
from stages.terminal.errors import InputError, SettingsError
from stages.user_tables import catalogue
from stages.user_tables import interactions as events

from ...jobs import prepare

Prepared = Callable[..., dict[str, pl.DataFrame]]
NAMES = [f"i{n:02}" for n in range(23)]


def tables(seed: int = 5) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Make a log with repeated pairs, ties in time and unknown names, a catalogue and queries in no order."""
    rng = random.Random(seed)
    rows = [
        (rng.choice([*NAMES, "nobody"]), rng.choice([*NAMES, "nothing"]), rng.randrange(40), rng.choice([0.5, 1, 2]))
        for _ in range(300)
    ]
    log = pl.DataFrame(rows, schema=["query_id", "item_id", "at", "rating"], orient="row", strict=False)
    shuffled = rng.sample(NAMES, len(NAMES))
    items = pl.DataFrame(
        {
            "item_id": shuffled,
            "colour": [rng.choice(["red", "blue", None]) for _ in NAMES],
            "tags": [rng.sample("xyzw", rng.randrange(4)) for _ in NAMES],
        }
    )
    queries = items.rename({"item_id": "query_id"})[rng.sample(range(len(NAMES)), len(NAMES))]
    return log, items, queries


@pytest.mark.parametrize("size", [1, 3, 7])
@pytest.mark.parametrize("timed", [True, False])
@pytest.mark.parametrize("with_queries", [True, False])
@pytest.mark.parametrize("item_to_item", [True, False])
def test_blocks_of_any_size_give_the_same_tables(
    prepared: Prepared,
    monkeypatch: pytest.MonkeyPatch,
    size: int,
    timed: bool,
    with_queries: bool,
    item_to_item: bool,
) -> None:
    log, items, queries = tables()
    given: dict[str, Any] = {"timestamp": "at"} if timed else {}
    given |= {"weight": "rating", "min_weight": 1.0, "queries_are_items": item_to_item}
    arguments = (log, items, queries if with_queries else None)
    whole = prepared(*arguments, folder="whole", **given)
    monkeypatch.setattr(events, "MERGED", 10 * size)
    monkeypatch.setattr(module, "PART", size)
    monkeypatch.setattr(catalogue, "PART", size)
    cut = prepared(*arguments, folder="cut", **given)
    assert whole.keys() == cut.keys()
    assert [name for name in whole if not whole[name].equals(cut[name])] == []
    assert whole["items"]["item_id"].to_list() == NAMES
    for side, table in (("item", items), ("query", queries if with_queries else None)):
        if table is not None:  # features stay with their ids
            came = {name: colour for name, colour, *_ in table.iter_rows()}
            written = whole["items" if side == "item" else "queries"].select(f"{side}_id", "colour")
            assert dict(written.iter_rows()) == came
    vocabulary = whole["vocabulary"].filter(vocabulary="colour").select("value", "code")
    codes = {None: 0, **dict(vocabulary.iter_rows())}
    if item_to_item:
        assert [codes[colour] for colour in whole["queries"]["colour"]] == whole["queries"]["colour__code"].to_list()


def test_a_weight_that_is_no_number_is_set_aside(prepared: Prepared) -> None:
    log = pl.DataFrame(
        {"query_id": ["u", "u", "v", "v"], "item_id": ["a", "b", "a", "b"], "w": [1.0, float("nan"), None, 3.0]}
    )
    items = pl.DataFrame({"item_id": ["a", "b"]})
    found = prepared(log, items, weight="w", min_weight=1.0, validation_share=0.0, test_share=0.0)
    assert found["train"].select("query_id", "item_id").rows() == [("u", "a"), ("v", "b")]
    assert set(found["quarantine"]["reason"]) == {"no weight"}
    assert found["quarantine"].height == 2


def test_the_row_of_a_missing_id_is_counted_among_those_of_the_least_weight(tmp_path: Path) -> None:
    log = pl.DataFrame({"query_id": ["u", None], "item_id": ["a", "b"], "w": [0.0, 1.0]})
    log.write_parquet(tmp_path / "log.parquet")
    pl.DataFrame({"item_id": ["a", "b"]}).write_parquet(tmp_path / "items.parquet")
    given: dict[str, Any] = {"run": tmp_path / "run", "weight": "w"}
    with pytest.raises(InputError, match=r"such as \[0\] \(counted from 0 at --min-weight or above\)"):
        prepare(tmp_path / "log.parquet", tmp_path / "items.parquet", min_weight=0.5, **given)
    with pytest.raises(SettingsError, match="nan is no number"):
        prepare(tmp_path / "log.parquet", tmp_path / "items.parquet", min_weight=float("nan"), **given)


@pytest.mark.parametrize("name", ["*", "^.*$", "^a.*$", "key", "reason", "item_index"])
def test_the_users_columns_may_have_any_name(prepared: Prepared, name: str) -> None:
    log = pl.DataFrame({name: ["u", "u", "v"], "item_id": ["a", "b", "c"], "apart": [1, 2, 3]})
    items = pl.DataFrame({"item_id": ["a", "b", "c"], name: ["x", "y", "x"], "apart": [1, 2, 1]})
    found = prepared(log, items, query_id=name, validation_share=0.0, test_share=0.0)
    assert found["train"].select("query_id", "item_id").rows() == [("u", "a"), ("u", "b"), ("v", "c")]
    assert found["items"][f"{name}__code"].to_list() == [2, 3, 2]


def test_numbers_of_128_bits_are_read_as_of_64(prepared: Prepared) -> None:
    log = pl.DataFrame({"query_id": [5, 6], "item_id": [1, 2], "at": [1, 2]}).cast(pl.Int128)
    items = pl.DataFrame({"item_id": [1, 2], "kind": [7, 7]}).cast(pl.Int128)
    found = prepared(log, items, timestamp="at", validation_share=0.0, test_share=0.0)
    assert found["train"]["item_id"].dtype == found["items"]["kind"].dtype == pl.Int64
    too_large = log.with_columns(query_id=pl.lit(10**30, pl.Int128))
    with pytest.raises(InputError, match=r"ID_TYPES: .*Int128. that are beyond Int64"):
        prepared(too_large, items, folder="too_large", timestamp="at")


def test_a_header_alone_and_what_a_writer_hides_change_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "items"
    folder.mkdir()
    (folder / "0.csv").write_text("item_id,price\n")
    (folder / "1.csv").write_text("item_id,price\n1,0.5\n2,7.5\n")
    (folder / ".1.csv").write_text("no table")
    (folder / "_temporary").mkdir()
    (folder / "_temporary" / "2.csv").write_text("item_id,price\n3,1.5\n")
    (tmp_path / "log.csv").write_text("query_id,item_id\n8,1\n8,2\n9,1\n")
    prepare(tmp_path / "log.csv", folder, run=tmp_path / "run", validation_share=0.0, test_share=0.0)
    items = pl.read_parquet(tmp_path / "run" / "items.parquet")
    assert items["price"].to_list() == [0.5, 7.5]
    assert pl.read_parquet(tmp_path / "run" / "train.parquet").height == 3


def test_a_file_that_cannot_be_part_of_a_table_is_named(tmp_path: Path) -> None:
    pl.DataFrame({"item_id": ["a", "b"]}).write_parquet(tmp_path / "items.parquet")
    log = tmp_path / "log"
    log.mkdir()
    shard = pl.DataFrame({"query_id": [1, 2], "item_id": ["a", "b"]})
    shard.write_parquet(log / "0.parquet")

    def refused() -> str:
        with pytest.raises(InputError) as caught:
            prepare(log, tmp_path / "items.parquet", run=tmp_path / "run")
        return str(caught.value)

    shard.write_csv(log / "1.csv")
    assert refused().endswith(f"CSV and Parquet are mixed: {log}/1.csv, {log}/0.parquet")
    (log / "1.csv").unlink()
    shard.cast({"query_id": pl.Int32}).write_parquet(log / "1.parquet")
    assert "query_id is of type Int32 in " in refused()
    assert refused().endswith("of type Int64 in " + f"{log}/0.parquet; write them alike")
    (log / "1.parquet").write_bytes((log / "0.parquet").read_bytes()[:-9])
    assert refused().startswith(f"UNREADABLE: {log}/1.parquet: cannot be read")
