"""prepare on the tables of users: with or without queries, items as queries, several files, CSV, flags and settings."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from typer.testing import CliRunner

from stages.cli import app
from stages.terminal.errors import InputError

from ...jobs import prepare

Prepared = Callable[..., dict[str, pl.DataFrame]]
ALL: dict[str, Any] = {"validation_share": 0.0, "test_share": 0.0}
ITEMS = pl.DataFrame({"item_id": ["a", "b", "c"], "colour": ["red", "blue", "red"], "size": [1.0, 2.0, 3.0]})
USERS = pl.DataFrame({"query_id": ["w", "u", "v"], "colour": ["red", "green", "green"], "age": [30.0, None, 40.0]})
LOG = pl.DataFrame({"query_id": ["u", "u", "v"], "item_id": ["a", "b", "a"]})
SEEDS = pl.DataFrame({"query_id": ["a", "b", "c", "a"], "item_id": ["b", "a", "a", "c"]})


def words(found: dict[str, pl.DataFrame], name: str) -> list[str]:
    return found["vocabulary"].filter(vocabulary=name)["value"].to_list()


def queries_of(found: dict[str, pl.DataFrame]) -> list[tuple[Any, ...]]:
    return found["features"].filter(side="query").select("feature", "vocabulary", "codes").rows()


def test_users_have_vocabularies_of_their_own(prepared: Prepared) -> None:
    found = prepared(LOG, ITEMS, USERS, **ALL)
    assert queries_of(found) == [("query_id", "query_id", 4), ("colour", "query.colour", 4), ("age", "query.age", 4)]
    assert (words(found, "colour"), words(found, "query.colour")) == (["red", "blue"], ["green", "red"])
    assert found["queries"].select("query_id", "query_id__code", "colour__code", "age__code").rows() == [
        ("u", 2, 2, 0),
        ("v", 3, 2, 3),
        ("w", 0, 3, 2),  # never asked: it is described by its features
    ]
    assert found["train"].select("query_id", "query_index", "item_index").rows() == [
        ("u", 0, 0),
        ("u", 0, 1),
        ("v", 1, 0),
    ]


def test_without_a_table_the_queries_are_those_of_the_log(prepared: Prepared) -> None:
    log = pl.concat([LOG, pl.DataFrame({"query_id": ["z"], "item_id": ["unheard of"]})])
    found = prepared(log, ITEMS, **ALL)
    assert found["queries"]["query_id"].to_list() == ["u", "v"]
    assert queries_of(found) == [("query_id", "query_id", 4)]


def test_queries_may_go_by_their_features_alone(prepared: Prepared) -> None:
    found = prepared(LOG, ITEMS, USERS, use_query_id=False, **ALL)
    assert [row[0] for row in queries_of(found)] == ["colour", "age"]
    assert "query_id__code" not in found["queries"].columns
    assert words(found, "query_id") == []


def test_items_as_queries_share_ids_and_features(prepared: Prepared) -> None:
    found = prepared(SEEDS, ITEMS, **ALL)
    assert queries_of(found) == [("query_id", "item_id", 5), ("colour", "colour", 4), ("size", "size", 5)]
    assert found["queries"].rename({"query_id": "item_id", "query_id__code": "item_id__code"}).equals(found["items"])
    # both sides earn a vector: a asks twice and is taken twice, b and c ask once and are taken once
    counts = found["vocabulary"].filter(vocabulary="item_id").select("value", "count").rows()
    assert counts == [("a", 4), ("b", 2), ("c", 2)]


def test_items_as_queries_with_a_table_share_what_has_one_name_and_kind(prepared: Prepared) -> None:
    queries = pl.DataFrame(
        {"query_id": ["a", "b", "c"], "colour": ["red", "grey", None], "size": ["s", "m", "m"], "mood": ["x"] * 3}
    )
    found = prepared(SEEDS, ITEMS, queries, queries_are_items=True, **ALL)
    assert [row[:2] for row in queries_of(found)] == [
        ("query_id", "item_id"),
        ("colour", "colour"),
        ("size", "query.size"),  # a number there, a category here
        ("mood", "query.mood"),
    ]
    assert found["queries"]["colour__code"].to_list() == [2, 1, 0]  # no item is grey


def test_items_as_queries_can_be_denied_or_forced(prepared: Prepared) -> None:
    apart = prepared(SEEDS, ITEMS, folder="apart", queries_are_items=False, **ALL)
    assert queries_of(apart) == [("query_id", "query_id", 5)]
    few = pl.concat([SEEDS, pl.DataFrame({"query_id": ["no item"], "item_id": ["a"]})])
    assert queries_of(prepared(few, ITEMS, folder="few", **ALL)) == [("query_id", "query_id", 6)]  # 3 of 4
    forced = prepared(few, ITEMS, folder="forced", queries_are_items=True, **ALL)
    assert forced["quarantine"].rows() == [("no item", "a", "query not in the queries")]


def test_small_numbers_are_not_taken_for_items_and_rare_ones_are(prepared: Prepared) -> None:
    small = pl.DataFrame({"query_id": [1, 2, 3], "item_id": [2, 3, 1]})
    users = prepared(small, pl.DataFrame({"item_id": [1, 2, 3]}), folder="small", **ALL)
    assert queries_of(users)[0][1] == "query_id"
    rare = small.with_columns(pl.all() * 1_000_003)
    seeds = prepared(rare, pl.DataFrame({"item_id": [1, 2, 3]}) * 1_000_003, folder="rare", **ALL)
    assert queries_of(seeds)[0][1] == "item_id"


def test_a_column_of_the_items_named_like_a_vocabulary_of_the_queries_keeps_its_own(prepared: Prepared) -> None:
    items = ITEMS.rename({"size": "query.colour"})
    found = prepared(LOG, items, USERS, **ALL)
    sizes = dict(found["features"].select("vocabulary", "codes").iter_rows())
    for side, table in (("item", "items"), ("query", "queries")):
        for feature, name in found["features"].filter(side=side).select("feature", "vocabulary").iter_rows():
            assert found[table][f"{feature}__code"].max() < sizes[name]
    assert found["vocabulary"].select("vocabulary", "code").is_duplicated().sum() == 0


@pytest.mark.parametrize("path", ["parts", "parts/*.parquet", "parts/**/*.parquet", "parts/deep"])
def test_interactions_may_be_a_folder_or_a_glob(tmp_path: Path, path: str) -> None:
    ITEMS.write_parquet(tmp_path / "items.parquet")
    (tmp_path / "parts/deep").mkdir(parents=True)
    LOG.head(1).write_parquet(tmp_path / "parts/1.parquet")
    LOG.slice(1, 1).write_parquet(tmp_path / "parts/2.parquet")
    LOG.tail(1).write_parquet(tmp_path / "parts/deep/3.parquet")
    (tmp_path / "parts/notes.txt").write_text("no table")
    prepare(tmp_path / path, tmp_path / "items.parquet", run=tmp_path / "run", **ALL)
    rows = {"parts": LOG.rows(), "parts/*.parquet": LOG.rows()[:2], "parts/deep": LOG.rows()[2:]}.get(path, LOG.rows())
    assert pl.read_parquet(tmp_path / "run/train.parquet").select("query_id", "item_id").rows() == rows


def csv(folder: Path, items: str, log: str, **settings: Any) -> dict[str, pl.DataFrame]:
    (folder / "items.csv").write_text(items)
    (folder / "log.csv").write_text(log)
    prepare(folder / "log.csv", folder / "items.csv", run=folder / "run", **ALL | settings)
    return {name: pl.read_parquet(folder / "run" / f"{name}.parquet") for name in ("items", "queries", "train")}


def test_csv_tables_with_lists_in_text(tmp_path: Path) -> None:
    found = csv(
        tmp_path,
        "item_id,genres,price\n1,Drama|Crime,1.5\n2,,\n3,Crime| Drama |Crime,2.5\n",
        "query_id,item_id,day\nu,1,2020-01-01\nu,3,2020-01-02\n",
        item_features=["genres=multi-valued,separator=|"],
        timestamp="day",
    )
    assert found["items"]["item_id"].to_list() == [1, 2, 3]
    assert found["items"]["genres__code"].to_list() == [[3, 2], [], [2, 3]]
    assert found["items"]["price__code"].null_count() == 0
    assert found["train"]["timestamp"].dtype == pl.Date


@pytest.mark.parametrize("name", ["01", "1.0", "true", "2020-01-01", "9223372036854775808", "1e3", "+5", " 7"])
def test_ids_of_a_csv_file_stay_as_they_are_written(tmp_path: Path, name: str) -> None:
    found = csv(tmp_path, f"item_id,x\n{name},p\n2,q\n", f"query_id,item_id\nu,{name}\nv,2\n")
    assert sorted(found["items"]["item_id"].to_list()) == sorted([name, "2"])
    assert set(found["train"]["item_id"]) == {name, "2"}


def test_numbers_in_csv_are_text_where_the_other_table_says_text(tmp_path: Path) -> None:
    pl.DataFrame({"item_id": ["1", "2", "x"]}).write_parquet(tmp_path / "items.parquet")
    (tmp_path / "log.csv").write_text("query_id,item_id\n7,1\n8,2\n")
    prepare(tmp_path / "log.csv", tmp_path / "items.parquet", run=tmp_path / "run", **ALL)
    train = pl.read_parquet(tmp_path / "run/train.parquet")
    assert train.select("query_id", "item_id").rows() == [(7, "1"), (8, "2")]


@pytest.mark.parametrize("ids", [["1", "2", "x"], [1, 2, 3]], ids=["text", "numbers"])
def test_each_table_may_have_a_name_of_its_own_for_its_ids(tmp_path: Path, ids: list[Any]) -> None:
    """CSV ids take the catalogue's type, whatever they look like."""
    pl.DataFrame({"Nr.": ids, "colour": ["red", "blue", "red"]}).write_parquet(tmp_path / "items.parquet")
    (tmp_path / "log.csv").write_text("Kunde,SKU\n7,1\n8,2\n")
    (tmp_path / "people.csv").write_text("Person,age\n7,1\n8,2\n9,2\n")
    tables = {"items": tmp_path / "items.parquet", "queries": tmp_path / "people.csv"}
    named = {"query_id": "Kunde", "queries_id": "Person", "item_id": "SKU", "items_id": "Nr."}
    prepare(tmp_path / "log.csv", **tables, **named, run=tmp_path / "run", **ALL)
    train = pl.read_parquet(tmp_path / "run/train.parquet")
    assert train.select("query_id", "item_id").rows() == [(7, ids[0]), (8, ids[1])]
    items = pl.read_parquet(tmp_path / "run/items.parquet")
    assert items.columns == ["item_id", "item_id__code", "colour", "colour__code"]
    assert pl.read_parquet(tmp_path / "run/queries.parquet")["query_id"].to_list() == [7, 8, 9]


def test_a_name_that_the_table_does_not_have_is_told_by_its_own_flag(tmp_path: Path) -> None:
    pl.DataFrame({"Nr.": ["1", "2"]}).write_parquet(tmp_path / "items.parquet")
    (tmp_path / "log.csv").write_text("query_id,item_id\n7,1\n8,2\n")
    with pytest.raises(InputError, match=r"NO_COLUMN: --items .*no column 'Nr'; did you mean --items-id 'Nr\.'"):
        prepare(tmp_path / "log.csv", tmp_path / "items.parquet", items_id="Nr", run=tmp_path / "run", **ALL)


def test_items_as_queries_are_found_in_csv_beside_a_catalogue_of_text(tmp_path: Path) -> None:
    pl.DataFrame({"item_id": ["1", "2", "3"]}).write_parquet(tmp_path / "items.parquet")
    (tmp_path / "log.csv").write_text("seed_item,item_id\n1,2\n2,1\n3,1\n")
    prepare(tmp_path / "log.csv", tmp_path / "items.parquet", run=tmp_path / "run", query_id="seed_item", **ALL)
    assert pl.read_parquet(tmp_path / "run/queries.parquet")["query_id"].to_list() == ["1", "2", "3"]


SETTINGS = """
[prepare]
interactions = "log.parquet"
items = "items.parquet"
test_share = 0.0
validation_share = 0.0

[prepare.item_features]
size = "categorical"
year = "numeric,buckets=2"
"""


def kinds(folder: Path, *flags: str) -> dict[str, str]:
    result = CliRunner().invoke(app, ["prepare", "--run", "run", *flags])
    assert result.exit_code == 0, (result.output, result.exception)
    features = pl.read_parquet(folder / "run/features.parquet").filter(side="item")
    return {row[0]: f"{row[1]} {row[2]}" for row in features.select("feature", "kind", "codes").iter_rows()}


def test_a_flag_wins_over_its_own_line_of_the_settings_file_and_leaves_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    LOG.write_parquet("log.parquet")
    ITEMS.with_columns(year=pl.Series([1, 2, 3]), **{"a=b": pl.lit(1), "a=c": pl.lit(1)}).write_parquet("items.parquet")
    flags = [
        "--interactions",
        "log.parquet",
        "--items",
        "items.parquet",
        "--test-share",
        "0",
        "--validation-share",
        "0",
    ]
    of_types = {"item_id": "id 4", "colour": "categorical 4", "size": "numeric 5", "year": "categorical 5"}
    odd = {"a=b": "categorical 3", "a=c": "categorical 3"}
    assert kinds(tmp_path, *flags) == of_types | odd
    Path("ssl-recall.toml").write_text(SETTINGS)
    of_file = of_types | {"size": "categorical 5", "year": "numeric 4"}
    assert kinds(tmp_path) == of_file | odd
    assert kinds(tmp_path, "--item-feature", "year=categorical") == of_file | odd | {"year": "categorical 5"}
    both = ["--item-feature", "a=b=numeric", "--item-feature", "a=c=numeric"]
    assert kinds(tmp_path, *both) == of_file | {"a=b": "numeric 3", "a=c": "numeric 3"}
    without = kinds(tmp_path, "--item-feature", "size=exclude", "--item-feature", "colour=exclude")
    assert without == {"item_id": "id 4", "year": "numeric 4"} | odd
