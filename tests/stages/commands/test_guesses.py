"""init guesses the columns of odd tables; prepare takes every guess."""

import datetime as dt
import tomllib
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from typer.testing import CliRunner

from stages.cli import app
from stages.commands import guesses
from stages.terminal.errors import SettingsError

NAN, INF = float("nan"), float("inf")
N, R = 240, 1000
SECONDS = 1_600_000_000


def items(**columns: Any) -> pl.DataFrame:
    return pl.DataFrame({"item_id": [f"i{n:03}" for n in range(N)], "colour": ["red", "blue"] * (N // 2), **columns})


def log(**columns: Any) -> pl.DataFrame:
    ids = {"user_id": [f"u{n % 40}" for n in range(R)], "item_id": [f"i{n * 7 % N:03}" for n in range(R)]}
    return pl.DataFrame(ids | columns)


def test_columns_of_the_log_by_hand() -> None:
    found = guesses.of_tables(log(rating=[4.0] * R, ts=range(SECONDS, SECONDS + R)), items(), None)
    ids = ("user_id", "user_id", "item_id", "item_id")
    assert found == guesses.Guesses(*ids, "ts", None, "rating", 4.0, [], False, 1.0)


@pytest.mark.parametrize(
    ("name", "weight"),
    [("star_rating", True), ("Stars (1-5)", True), ("playCount", True), ("click_id", False), ("Sterne", False)],
)
def test_a_weight_is_known_by_a_word_of_its_name_and_what_is_not_used_is_kept(name: str, weight: bool) -> None:
    found = guesses.of_tables(log(**{name: [4] * R, "device": ["phone"] * R}), items(), None)
    assert (found.weight, found.unused) == ((name, ["device"]) if weight else (None, [name, "device"]))


def test_ids_of_different_names_are_found_by_their_values() -> None:
    """Both tables have a column `colour`, which is an id of neither."""
    catalogue = items(Nr=range(N)).rename({"item_id": "Artikel-Nr."})
    sales = log(colour=["red"] * R, pieces=[n % 3 for n in range(R)]).rename({"item_id": "SKU", "user_id": "Kunde"})
    people = pl.DataFrame({"Person": [f"u{n}" for n in range(40)], "colour": ["red"] * 40})
    found = guesses.of_tables(sales, catalogue, people)
    assert (found.item_id, found.items_id) == ("SKU", "Artikel-Nr.")
    assert (found.query_id, found.queries_id, found.described) == ("Kunde", "Person", 1.0)


def test_by_their_values_ids_are_those_that_most_rows_share_and_whose_names_say_so() -> None:
    """`batch` lies in the range of the items' numbers, `half` shares a few texts; a repeated id is still an id."""
    ids = [f"i{n:03}" for n in range(N - 1)] + ["i000"]
    catalogue = pl.DataFrame({"half": [f"h{n}" for n in range(N)], "number": range(N), "Artikel": ids})
    sold = [f"i{n * 7 % N:03}" for n in range(R)]
    sales = pl.DataFrame(
        {"batch": [n % 5 for n in range(R)], "half of it": ["h1", "x", "y"] * (R // 3) + ["h2"] * (R % 3), "SKU": sold}
    )
    found = guesses.of_tables(sales.with_columns(Kunde=pl.Series([f"u{n % 40}" for n in range(R)])), catalogue, None)
    assert (found.item_id, found.items_id) == ("SKU", "Artikel")
    people = pl.DataFrame({"who": [f"i{n:03}" for n in range(N)]})
    asked = pl.DataFrame({"SKU": sold, "asks": sold[::-1]})
    both = guesses.of_tables(asked, items().rename({"item_id": "Artikel"}), people)
    assert (both.item_id, both.query_id, both.queries_id) == ("SKU", "asks", "who")


EVERY = range(N)
ODD: dict[str, tuple[pl.Series, str]] = {
    "array of integers": (pl.Series([[1, 2]] * N, dtype=pl.Array(pl.Int64, 2)), "multi-valued"),
    "array of floats": (pl.Series([[1.0, n] for n in EVERY], dtype=pl.Array(pl.Float32, 2)), "dense"),
    "floats of one length": (pl.Series([[1.0, float(n)] for n in EVERY]), "dense"),
    "floats of many lengths": (pl.Series([[1.0] * (n % 3) for n in EVERY]), "exclude"),
    "NaN in a vector": (pl.Series([[NAN, 1.0], *[[1.0, 2.0]] * (N - 1)]), "dense,nan=missing"),
    "NaN in a column": (pl.Series([NAN, *map(float, range(1, N))]), "numeric,nan=missing"),
    "infinity in a column": (pl.Series([INF, *map(float, range(1, N))]), "numeric,nan=missing"),
    "all NaN": (pl.Series([NAN] * N), "exclude"),
    "all null": (pl.Series([None] * N, dtype=pl.Null), "exclude"),
    "bytes": (pl.Series([b"x", b"y"] * (N // 2)), "exclude"),
    "lists of bytes": (pl.Series([[b"x"], [b"y"]] * (N // 2)), "exclude"),
    "structs": (pl.Series([{"a": n} for n in EVERY]), "exclude"),
    "decimals": (pl.Series([n / 2 for n in EVERY]).cast(pl.Decimal(8, 1)), "numeric"),
    "dates": (pl.Series([dt.date(2020, 1, 1 + n % 28) for n in EVERY]), "numeric"),
    "price": (pl.Series([7 * n for n in EVERY]), "numeric"),
    "year": (pl.Series([1950 + n % 70 for n in EVERY]), "categorical"),
    "brand_id": (pl.Series([100 + n % 150 for n in EVERY]), "categorical"),
    "zipCode": (pl.Series([10_000 + n for n in EVERY]), "exclude"),
    "title": (pl.Series([f"The {n}, or: a tale" for n in EVERY]), "exclude"),
    "by bars": (pl.Series(["a|b", "b", "c|a", None] * (N // 4)), "multi-valued,separator=|"),
    "by commas": (
        pl.Series([", ".join(x for i, x in enumerate("abcd") if n >> i & 1) for n in range(1, 16)] * 16),
        "multi-valued,separator=,",
    ),
    "lists as text": (pl.Series(["['a', 'b']", "[]", '["b"]', None] * (N // 4)), "exclude"),
    "numbers and marks": (pl.Series(["n/a", *(f"{n}.5" for n in range(N - 1))]), "exclude"),
    "decimal commas": (pl.Series([f"{n % 150},5" for n in EVERY]), "categorical"),
    "colour__code": (pl.Series(["x", "y"] * (N // 2)), "exclude"),
}


@pytest.mark.parametrize("name", ODD)
def test_a_column_is_guessed_from_its_type_name_and_values(name: str) -> None:
    values, expected = ODD[name]
    assert guesses.of_column(values.alias(name))[0] == expected


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        (["['a', 'b']", "[]"] * 100, "lists written as text, such as \"['a', 'b']\""),
        (
            [*["n/a"] * 3, *(f"{n % 150}.5" for n in range(300))],
            "300 of 303 texts are numbers; 3 are none, such as 'n/a': leave them empty",
        ),
        ([f"{n % 150},5" for n in range(300)], "300 of 300 texts are numbers; 300 have a decimal comma: write a point"),
        (
            ["?", *(f"{n % 150},5" for n in range(300))],
            "1 are none, such as '?': leave them empty; 300 have a decimal comma",
        ),
    ],
)
def test_texts_that_hold_something_else_are_told(texts: list[str], said: str) -> None:
    assert said in guesses.of_column(pl.Series("x", texts))[1]


NUMBERS = [f"{n}.5" for n in range(300)]


@pytest.mark.parametrize(
    ("name", "texts"),
    [("x", ["a", "b", "n/a"] * 100), ("x", [f"{n % 100}.5" for n in range(300)]), ("zip_code", NUMBERS)],
)
def test_texts_that_are_texts_are_not_told_of(name: str, texts: list[str]) -> None:
    assert "are numbers" not in guesses.of_column(pl.Series(name, texts))[1]


def test_numbers_that_are_texts_are_left_out_for_that_reason_and_lists_of_numbers_are_lists() -> None:
    assert guesses.of_column(pl.Series("x", NUMBERS)) == (
        "exclude",
        "300 of 300 texts are numbers; write them as numbers",
    )
    lists = [",".join(str(n * (i + 7) % 41) for i in range(1 + n % 3)) for n in range(900)]
    assert guesses.of_column(pl.Series("x", lists))[0] == "multi-valued,separator=,"


@pytest.mark.parametrize("csv", [False, True])
def test_prepare_takes_every_guess(tmp_path: Path, csv: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    columns = {name: values for name, (values, _) in ODD.items() if not (csv and nested(values))}
    found = settings(log(), items(**columns), csv=csv)
    result = CliRunner().invoke(app, ["prepare", "--config", "ssl-recall.toml", "--run", "run"])
    assert result.exit_code == 0, result.exception
    used = {name for name, kind in found["item_features"].items() if kind != "exclude"}
    assert {*pl.read_parquet("run/features.parquet").filter(side="item")["feature"]} == {"item_id", *used}


def test_the_value_that_is_no_time_is_named() -> None:
    days = [f"2024-01-{day:02}" for day in range(1, 21)]
    for good in (days, [f"{day} 10:30:00" for day in days]):
        bad = pl.Series("at", [*good[:7], "yesterday", None, *good[7:]])
        assert guesses.of_no_time(bad) == (
            "holds 1 values of 22 that are no times, such as 'yesterday' in row 7 (the first is 0)"
        )
    assert guesses.of_no_time(pl.Series("at", ["noon", "dusk"])) == (
        "holds texts such as 'noon', which do not order the rows"
    )
    assert guesses.of_no_time(pl.Series("at", [1.5, 2.5])).startswith("is of type Float64")


@pytest.mark.parametrize(
    ("name", "times", "unusable"),
    [
        ("timestamp", range(R), False),
        ("ts", range(SECONDS, SECONDS + R), False),
        ("eventTime", range(SECONDS * 1000, SECONDS * 1000 + R), False),
        ("day", [dt.date(2024, 1, 1 + n % 28) for n in range(R)], False),
        ("watch_time", [n % 600 for n in range(R)], True),
        ("candidate_count", range(SECONDS, SECONDS + R), None),
        ("time", [dt.time(1, n % 60) for n in range(R)], True),
        ("timestamp", [None] * (R - 1) + [SECONDS], True),
        ("timestamp", [SECONDS] * R, True),
        ("created_at", ["2024-01-01"] * R, True),
        ("when?", [f"01/{1 + n % 28:02}/2024 12:05 PM" for n in range(R)], True),
        ("when?", ["1/2/24", *["soon"] * (R - 1)], None),
        ("timestamp", [SECONDS + n / 2 for n in range(R)], True),
    ],
)
def test_a_time_is_what_can_order_the_log(name: str, times: Any, unusable: bool | None) -> None:
    found = guesses.of_tables(log(**{name: times}), items(), None)
    assert found.timestamp == (name if unusable is False else None)
    assert found.unusable_time == (name if unusable else None)


def test_a_datetime_goes_before_a_number() -> None:
    both = log(ts=range(SECONDS, SECONDS + R), at=[dt.datetime(2024, 1, 1) + dt.timedelta(hours=n) for n in range(R)])
    assert guesses.of_tables(both, items(), None).timestamp == "at"


def test_a_time_that_cannot_be_used_is_named_in_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings(log(created_at=["2024-01-01"] * R), items())
    assert (
        "# timestamp = \"created_at\"  # holds texts such as '2024-01-01', which" in Path("ssl-recall.toml").read_text()
    )


@pytest.mark.parametrize("name", ["reader", "uid", "userId", "buyer"])
def test_the_query_is_no_time_no_weight_and_not_one_a_row(name: str) -> None:
    others = {"timestamp": range(SECONDS, SECONDS + R), "count": range(R), "event": range(R), "channel": ["web"] * R}
    others |= {"seen": [f"{1 + n % 12}/{1 + n % 28}/2024 {n % 7}:05 PM" for n in range(R)]}
    table = pl.DataFrame(others).hstack(log().rename({"user_id": name}))
    assert guesses.of_tables(table, items(), None).query_id == name


@pytest.mark.parametrize("written", ["2024-01-{:02}-session", "10.0.0.{}", "1.2.{:03}"])
def test_ids_that_begin_as_dates_do_may_be_the_querys(written: str) -> None:
    table = log().with_columns(visit=pl.Series([written.format(1 + n % 28) for n in range(R)])).drop("user_id")
    found = guesses.of_tables(table, items(), None)
    assert (found.query_id, found.unusable_time) == ("visit", None)


def test_a_log_without_a_column_for_the_query_is_refused() -> None:
    with pytest.raises(SettingsError, match="NO_IDS: --interactions: no column can be the query's id"):
        guesses.of_tables(log().drop("user_id"), items(), None)


def test_items_as_queries_take_a_column_as_the_items_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    catalogue = items(maker=[f"m{n % 120}" for n in EVERY], size=[n % 120 for n in EVERY], own=["x", "y"] * (N // 2))
    asked = catalogue.head(110).rename({"item_id": "query_id"}).with_columns(own=pl.lit([0.5, 1.5]))
    pairs = log().with_columns(query_id=pl.Series([f"i{n % 110:03}" for n in range(R)])).drop("user_id")
    found = settings(pairs, catalogue, asked)
    assert found["queries_are_items"] is True
    assert found["item_features"] == {
        "colour": "categorical",
        "maker": "categorical",
        "size": "numeric",
        "own": "categorical",
    }
    assert found["query_features"] == found["item_features"] | {"own": "dense"}


@pytest.mark.parametrize(("users", "line"), [(40, "queries = "), (30, "queries = "), (10, "# queries = ")])
def test_a_table_of_few_of_the_queries_is_left_out(
    tmp_path: Path, users: int, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    asked = pl.DataFrame({"user_id": [f"u{n}" for n in range(users)], "age": ["a", "b"] * (users // 2)})
    found = settings(log(), items(), asked)
    written = next(text for text in Path("ssl-recall.toml").read_text().splitlines() if "queries = " in text)
    assert written.startswith(line)
    assert (f"{1 - users / 40:.1%} of the interactions have a query outside this table" in written) == (users < 40)
    assert ("query_features" in found) == (users >= 20)
    assert CliRunner().invoke(app, ["prepare", "--config", "ssl-recall.toml", "--run", "run"]).exit_code == 0


def settings(
    interactions: pl.DataFrame, catalogue: pl.DataFrame, asked: pl.DataFrame | None = None, *, csv: bool = False
) -> dict[str, Any]:
    """Run init on these tables in the working directory; return the settings that it writes."""
    arguments = []
    for name, frame in (("interactions", interactions), ("items", catalogue), ("queries", asked)):
        if frame is not None:
            path = Path(f"{name}.{'csv' if csv else 'parquet'}")
            frame.write_csv(path) if csv else frame.write_parquet(path)
            arguments += [f"--{name}", str(path)]
    result = CliRunner().invoke(app, ["init", *arguments])
    assert result.exit_code == 0, result.exception
    return dict(tomllib.loads(Path("ssl-recall.toml").read_text())["prepare"])


def nested(values: pl.Series) -> bool:
    return values.dtype.is_nested() or values.dtype == pl.Binary
