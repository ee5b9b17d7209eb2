"""export-embeddings --queries: people who came after the training, described by features and by what they took."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from typer.testing import CliRunner

from ssl_recall.data.histories import Histories
from ssl_recall.embedding import embed_queries
from stages import cli
from stages.learning import model_files, training_inputs
from stages.run_folder import dry_run, reader
from stages.terminal.errors import InputError, SettingsError

from ..jobs import compute_popularity, export_embeddings, prepare, train

SMALL: dict[str, Any] = {
    "epochs": 1, "batch_size": 32, "embedding_width": 4, "hidden": [8], "width": 4, "ssl": False,
}  # fmt: skip
HISTORY = 3


def catalogue() -> pl.DataFrame:
    return pl.DataFrame({"sku": [f"s{n:02}" for n in range(30)], "colour": [f"c{n % 5}" for n in range(30)]})


def interactions() -> pl.DataFrame:
    rng = np.random.default_rng(2)
    taken = [(f"u{user}", f"s{n:02}") for user in range(30) for n in rng.permutation(30)[: 5 + user % 4]]
    rows = [(user, sku, int(day)) for (user, sku), day in zip(taken, rng.permutation(len(taken)), strict=True)]
    return pl.DataFrame(rows, schema=["user", "sku", "day"], orient="row")


def people() -> pl.DataFrame:
    ages = pl.Series([20 + n % 3 for n in range(30)])
    return pl.DataFrame({"user": [f"u{n}" for n in range(30)], "age": ages, "town": [f"t{n % 4}" for n in range(30)]})


def made(folder: Path, tables: dict[str, pl.DataFrame], history: int, **settings: Any) -> Path:
    """Prepare, train a model without SSL and export it."""
    for name, table in tables.items():
        table.write_parquet(folder / f"{name}.parquet")
    paths = {name: folder / f"{name}.parquet" for name in tables}
    run = folder / "run"
    prepare(**paths, run=run, validation_share=0.2, test_share=0.2, **settings)
    compute_popularity(run)
    train(run, history=history, query_id_dropout=0.5, **SMALL)
    export_embeddings(run, ssl=False)
    return run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train on people with features, on a log with times, with a history of three items."""
    tables = {"interactions": interactions(), "items": catalogue(), "queries": people()}
    ids = {"query_id": "user", "item_id": "sku", "timestamp": "day"}
    return made(tmp_path_factory.mktemp("people"), tables, HISTORY, **ids)


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train on people known by their ids alone, on a log without times and with integer ids."""
    number = pl.col("sku").str.slice(1).cast(pl.Int64)
    tables = {
        "interactions": interactions().select(pl.col("user").str.slice(1).cast(pl.Int32), number),
        "items": catalogue().with_columns(number),
    }
    folder = tmp_path_factory.mktemp("bare")
    return made(folder, tables, HISTORY, query_id="user", item_id="sku", queries_are_items=False)


def new(run: Path, table: pl.DataFrame, folder: Path, **settings: Any) -> np.ndarray:
    table.write_parquet(folder / "came.parquet")
    export_embeddings(run, ssl=False, queries=folder / "came.parquet", output=folder / "new.parquet", **settings)
    return vectors(folder / "new.parquet")


def vectors(path: Path) -> np.ndarray:
    return pl.read_parquet(path)["embedding"].to_numpy()


def exported(run: Path) -> np.ndarray:
    return vectors(run / "no-ssl/query_embeddings.parquet")


def taken(run: Path, *order: str) -> pl.DataFrame:
    """Return what each query took in training and validation, in the given order."""
    seen = pl.concat([pl.read_parquet(run / f"{name}.parquet") for name in ("train", "validation")])
    lists = seen.sort(*order).group_by("query_id", maintain_order=True).agg(history="item_id")
    return (
        pl.read_parquet(run / "queries.parquet")
        .select(pl.exclude("^.*__code$"))
        .join(lists, on="query_id", how="left", maintain_order="left")
    )


def empty_histories(run: Path) -> np.ndarray:
    """Embed the queries of the run folder as if each had taken nothing."""
    files = [*(f"{name}.parquet" for name in ("features", "items", "queries"))]
    with reader.reading(run, [*files, "no-ssl/model/weights.safetensors", "no-ssl/model/model.json"]) as job:
        items, queries = training_inputs.item_and_query_tables(job)
        model, _ = model_files.load(job, "no-ssl/", items, queries)
        nothing = Histories(torch.zeros(0, dtype=torch.int64), torch.zeros(queries.rows, dtype=torch.int64))
        return embed_queries(model, queries, None, nothing, items).numpy()


def test_a_known_query_has_its_exported_vector_by_its_id_its_features_and_what_it_took(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = taken(run, "timestamp").rename({"query_id": "user"})
    assert (table["history"].list.len() > HISTORY).sum() > 20
    shuffled = table.select(*reversed(table.columns)).sample(fraction=1, shuffle=True, seed=3)
    found = new(run, shuffled, tmp_path)
    assert pl.read_parquet(tmp_path / "new.parquet")["query_id"].equals(shuffled["user"].alias("query_id"))
    order = shuffled["user"].arg_sort()
    np.testing.assert_allclose(found[order], exported(run), atol=1e-6)
    assert "warning" not in capsys.readouterr().err
    newest = table.with_columns(pl.col("history").list.tail(HISTORY))
    np.testing.assert_allclose(new(run, newest, tmp_path), exported(run), atol=1e-6)
    oldest = table.with_columns(pl.col("history").list.reverse())
    assert np.abs(new(run, oldest, tmp_path) - exported(run)).max() > 1e-3


def test_without_times_the_whole_list_counts_in_any_order(bare: Path, tmp_path: Path) -> None:
    table = taken(bare, "item_id").rename({"query_id": "user"})
    assert (table["history"].list.len() > HISTORY).any()
    np.testing.assert_allclose(new(bare, table, tmp_path), exported(bare), atol=1e-6)
    backwards = table.with_columns(pl.col("history").list.reverse().cast(pl.List(pl.Int16)))
    np.testing.assert_allclose(new(bare, backwards, tmp_path), exported(bare), atol=1e-6)


def test_a_new_query_has_the_default_id_vector_and_its_own_history(run: Path, tmp_path: Path) -> None:
    table = taken(run, "timestamp").rename({"query_id": "user"})
    strangers = table.with_columns(user=pl.format("new {}", "user"))
    found = new(run, strangers, tmp_path)
    assert np.abs(found - exported(run)).max() > 1e-4  # the ids of known queries were trained
    same = table.head(1).with_columns(user=pl.lit("somebody else"))
    np.testing.assert_allclose(new(run, same, tmp_path)[0], found[0], atol=1e-6)


def test_unknown_items_are_counted_and_set_aside(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    came = pl.DataFrame({"user": ["a", "b"], "age": [20, 21], "town": ["t0", "t1"]})
    clean = new(run, came.with_columns(history=pl.Series([["s01", "s02", "s03"], ["s04"]])), tmp_path)
    capsys.readouterr()
    mixed = pl.Series([["s01", "s02", "gone", "s03", "s99"], ["s04", None]])
    np.testing.assert_array_equal(new(run, came.with_columns(history=mixed), tmp_path), clean)
    said = capsys.readouterr().err
    assert "column 'history': 2 items (33.3%) are not in the catalogue, such as 'gone'; set aside\n" in said
    assert said.count("warning") == 1
    new(run, came.with_columns(history=pl.Series([["S01"], ["S04"]])), tmp_path)
    said = capsys.readouterr().err
    assert "2 items (100.0%) are not in the catalogue, such as 'S01'; set aside; that is all of them: " in said
    assert "are they written as in the catalogue, such as 's00'?" in said


def test_a_repeated_item_counts_once_where_it_first_stands(run: Path, tmp_path: Path) -> None:
    came = pl.DataFrame({"user": ["a"], "age": [20], "town": ["t0"]})
    again = new(run, came.with_columns(history=pl.Series([["s09", "s01", "s02", "s03", "s01"]])), tmp_path)
    once = new(run, came.with_columns(history=pl.Series([["s01", "s02", "s03"]])), tmp_path)
    np.testing.assert_array_equal(again, once)


@pytest.mark.parametrize("nothing", [[], None, [None], ["unknown"]], ids=str)
def test_a_query_without_a_known_item_has_the_vector_of_its_features(
    run: Path, tmp_path: Path, nothing: list[str] | None
) -> None:
    table = taken(run, "timestamp").rename({"query_id": "user"})
    lists = pl.Series("history", [nothing] * table.height, dtype=pl.List(pl.String))
    np.testing.assert_allclose(new(run, table.with_columns(lists), tmp_path), empty_histories(run), atol=1e-6)


def test_a_column_of_nothing_but_nulls_is_an_empty_history(bare: Path, tmp_path: Path) -> None:
    table = taken(bare, "item_id").select(pl.col("query_id").alias("user"), history=None)
    np.testing.assert_allclose(new(bare, table, tmp_path), empty_histories(bare), atol=1e-6)


@pytest.mark.parametrize("kind", ["texts", "numbers", "single numbers"])
def test_a_csv_file_holds_the_lists_joined(run: Path, bare: Path, tmp_path: Path, kind: str) -> None:
    folder = run if kind == "texts" else bare
    table = taken(folder, "timestamp" if kind == "texts" else "item_id").rename({"query_id": "user"})
    if kind == "single numbers":
        table = table.with_columns(pl.col("history").list.head(1))
    expected = new(folder, table, tmp_path)
    joined = table.with_columns(pl.col("history").cast(pl.List(pl.String)).list.join("|"))
    joined.write_csv(tmp_path / "came.csv")
    export_embeddings(folder, ssl=False, queries=tmp_path / "came.csv", output=tmp_path / "csv.parquet")
    np.testing.assert_allclose(vectors(tmp_path / "csv.parquet"), expected, atol=1e-6)


def test_no_new_queries_have_no_vectors(run: Path, tmp_path: Path) -> None:
    table = taken(run, "timestamp").rename({"query_id": "user"})
    assert new(run, table.clear(), tmp_path).shape == (0, 4)
    assert new(run, table.head(1), tmp_path).shape == (1, 4)


def test_a_table_that_cannot_be_encoded_is_refused_with_its_file_and_column(run: Path, tmp_path: Path) -> None:
    table = taken(run, "timestamp").rename({"query_id": "user"}).head(3)
    with pytest.raises(InputError, match=r"NO_COLUMN: --queries .*came\.parquet: 2 problems") as caught:
        new(run, table.rename({"town": "city"}).drop("history"), tmp_path)
    assert "no column 'town'; there are user, age, city" in str(caught.value)
    assert "no column 'history'; did you mean --history-column 'city'?" in str(caught.value)
    assert caught.value.code == 3
    with pytest.raises(InputError, match="no column 'bought'; did you mean --history-column 'bougth'"):
        new(run, table.rename({"history": "bougth"}), tmp_path, history_column="bought")
    with pytest.raises(
        InputError,
        match=r"DUP_QUERY_ID: --queries .*came\.parquet: 1 of the user stand in several rows, such as \['x'\]",
    ):
        new(run, table.with_columns(user=pl.lit("x"), age=pl.lit("old")).with_columns(age=20), tmp_path)
    with pytest.raises(InputError, match=r"NULL_ID: --queries .*user is null in 3 rows"):
        new(run, table.with_columns(user=pl.lit(None, pl.String)), tmp_path)
    with pytest.raises(InputError, match=r"ID_TYPES: .* user is of type Int64 but String in the training"):
        new(run, table.with_columns(user=pl.Series([1, 2, 3])), tmp_path)
    with pytest.raises(InputError, match=r"ID_TYPES: --queries .* column 'history' is of type String, no list; write"):
        new(run, table.with_columns(history=pl.lit("s01|s02")), tmp_path)
    with pytest.raises(InputError, match="'history' holds lists of Int64 but item ids are String in the catalogue"):
        new(run, table.with_columns(history=pl.Series([[1], [2], [3]])), tmp_path)
    with pytest.raises(InputError, match=r"LIMIT: .*column 'history' holds a list of 70,000 values"):
        new(run, table.with_columns(history=pl.lit(["s01"] * 70_000)), tmp_path)
    assert not (tmp_path / "new.parquet").exists()


def test_a_model_without_history_ignores_the_column_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tables = {"interactions": interactions(), "items": catalogue(), "queries": people()}
    run = made(tmp_path, tables, 0, query_id="user", item_id="sku", timestamp="day")
    capsys.readouterr()
    found = new(run, taken(run, "timestamp").rename({"query_id": "user"}), tmp_path)
    np.testing.assert_allclose(found, exported(run), atol=1e-6)
    assert "came.parquet: column 'history' is ignored: the model has no history" in capsys.readouterr().err
    new(run, people(), tmp_path)
    assert "warning" not in capsys.readouterr().err


def test_without_features_and_without_history_nothing_describes_a_new_query(tmp_path: Path) -> None:
    tables = {"interactions": interactions(), "items": catalogue()}
    run = made(tmp_path, tables, 0, query_id="user", item_id="sku", timestamp="day")
    with pytest.raises(SettingsError, match=r"NO_FEATURES: --queries .*: nothing describes a new query"):
        new(run, taken(run, "timestamp").rename({"query_id": "user"}), tmp_path)


@pytest.mark.parametrize("own_table", [False, True])
@pytest.mark.parametrize("column", ["asked", "sku"])
def test_queries_that_are_items_share_their_ids_and_values(tmp_path: Path, own_table: bool, column: str) -> None:
    pairs = [(f"s{n:02}", f"s{(n + step) % 30:02}") for n in range(30) for step in (1, 2, 5, 7, 11)]
    items = catalogue().with_columns(tags=pl.Series([f"t{n % 4}/t{n % 7}" for n in range(30)]))
    tables = {"interactions": pl.DataFrame(pairs, schema=["asked", "sku"], orient="row"), "items": items}
    declared: dict[str, Any] = {"item_features": ["tags=multi-valued,separator=/"]}
    if own_table:
        tables["queries"] = items.rename({"sku": "asked"})
        declared["query_features"] = declared["item_features"]
    run = made(tmp_path, tables, 2, query_id="asked", item_id="sku", queries_are_items=True, **declared)
    table = taken(run, "item_id").rename({"query_id": column})
    if own_table and column == "sku":
        with pytest.raises(InputError, match="no column 'asked'"):
            new(run, table, tmp_path)
        return
    np.testing.assert_allclose(new(run, table, tmp_path), exported(run), atol=1e-6)


def test_the_command_line_takes_a_table_and_names_its_file_itself(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = taken(run, "timestamp").rename({"query_id": "user", "history": "bought"})
    table.write_parquet(tmp_path / "came.parquet")
    monkeypatch.chdir(tmp_path)
    before = exported(run)
    command = ["export-embeddings", "--no-ssl", "--run", str(run), "--queries", "came.parquet"]
    done = CliRunner().invoke(cli.app, [*command, "--history-column", "bought"])
    assert done.exit_code == 0, done.output
    made_file = run / "no-ssl/new_query_embeddings.parquet"
    assert f"30 queries of came.parquet to {made_file}" in done.output
    np.testing.assert_allclose(vectors(made_file), before, atol=1e-6)
    made_file.unlink()
    with pytest.raises(SettingsError, match=r"USAGE: --items and --queries: a call embeds one table"):
        CliRunner().invoke(cli.app, [*command, "--items", "came.parquet"], catch_exceptions=False)
    with pytest.raises(SettingsError, match=r"OUTPUT: --output came\.parquet: is the table of --queries"):
        CliRunner().invoke(cli.app, [*command, "--output", "came.parquet"], catch_exceptions=False)


@pytest.mark.parametrize("table", ["export_embeddings", "export-embeddings"])
@pytest.mark.parametrize("name", ["queries", "query_vectors"])
def test_the_settings_file_of_0_2_0_still_switches_the_query_vectors(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, table: str, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("ssl-recall.toml").write_text(f"[{table}]\n{name} = true\n")
    command = ["export-embeddings", "--no-ssl", "--run", str(run)]
    done = CliRunner().invoke(cli.app, command)
    assert "up to date" in done.output, done.output
    Path("ssl-recall.toml").write_text(f"[{table}]\n{name} = false\n")
    with dry_run.planning() as plan:
        CliRunner().invoke(cli.app, command, catch_exceptions=False)
    assert plan.stages == [("export-embeddings --no-ssl", "queries was True, now False")]
    Path("ssl-recall.toml").write_text(f'[{table}]\nqueries = true\nquery_vectors = "yes"')
    with pytest.raises(SettingsError, match="queries = true: --queries takes neither true nor false"):
        CliRunner().invoke(cli.app, command, catch_exceptions=False)
